"""The check of a block of ``metrics:``, of a validation or a benchmark."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from basicsr.utils.registry import METRIC_REGISTRY

from rsr_basicsr.metrics.inputs import INPUTS
from rsr_basicsr.metrics.lpips_metric import SMALLEST_FOR_LPIPS, calculate_lpips
from rsr_basicsr.options.calls import check_call, registered
from rsr_basicsr.options.parsing import OpenBlock, parse_open
from rsr_basicsr.options.types import OneOf, Text
from rsr_basicsr.utils.errors import OptionsError, RSRError


class MetricOptions(OpenBlock):
    """What a block of ``metrics:`` has beside the arguments of its function."""

    type: Text
    better: Annotated[str, OneOf(('higher', 'lower'))] | None = None


def check_metric(metric: dict[str, Any], where: str) -> None:
    """Check that there is such a metric and that it takes what the block holds; LPIPS is looked for.

    Raises:
        OptionsError: one sentence with the key, the value and the remedy.
    """
    parse_open(metric, MetricOptions, where)
    function = registered(METRIC_REGISTRY, metric['type'], f'{where}.type')
    check_call(function, {**metric, **dict.fromkeys(INPUTS)}, where, own=(*INPUTS, 'better'))
    if function is calculate_lpips:
        black = np.zeros((SMALLEST_FOR_LPIPS, SMALLEST_FOR_LPIPS, 3), np.uint8)
        try:
            calculate_lpips(black, black, 0, backbone=metric.get('backbone'))
        except (RSRError, ValueError) as error:
            raise OptionsError(f'{where}: {error}') from error
