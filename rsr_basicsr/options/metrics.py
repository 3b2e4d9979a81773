"""The check of a block of ``metrics:``, of a validation and of a benchmark."""

from __future__ import annotations

from typing import Any

import numpy as np
from basicsr.utils.registry import METRIC_REGISTRY

from rsr_basicsr.metrics.inputs import INPUTS
from rsr_basicsr.metrics.lpips_metric import SMALLEST_FOR_LPIPS, calculate_lpips
from rsr_basicsr.options.types import Key, check_call, one_of, parse_open, registered, text
from rsr_basicsr.utils.errors import OptionsError, RSRError


def check_metric(metric: dict[str, Any], where: str) -> None:
    """Check that there is such a metric and that it takes what the block holds; LPIPS is looked for.

    Raises:
        OptionsError: one sentence with the key, the value and the remedy.
    """
    parse_open(metric, {'type': Key(text, required=True), 'better': Key(one_of(('higher', 'lower')))}, where)
    function = registered(METRIC_REGISTRY, metric['type'], f'{where}.type')
    check_call(function, {**metric, **dict.fromkeys(INPUTS)}, where, own=(*INPUTS, 'better'))
    if function is calculate_lpips:
        black = np.zeros((SMALLEST_FOR_LPIPS, SMALLEST_FOR_LPIPS, 3), np.uint8)
        try:
            calculate_lpips(black, black, 0, backbone=metric.get('backbone'))
        except (RSRError, ValueError) as error:
            raise OptionsError(f'{where}: {error}') from error
