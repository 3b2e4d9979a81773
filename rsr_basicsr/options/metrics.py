"""The check of a block of ``metrics:``, of a validation or a benchmark."""

from __future__ import annotations

from typing import Annotated, Any

from basicsr.utils.registry import METRIC_REGISTRY

from rsr_basicsr.metrics import calculate_lpips, calculate_perceptual, calculate_perceptual_stability
from rsr_basicsr.metrics.inputs import INPUTS
from rsr_basicsr.ops.perceptual import AUTO, available_measure, perceptual_measure
from rsr_basicsr.options.calls import check_call, registered
from rsr_basicsr.options.parsing import OpenBlock, parse_open
from rsr_basicsr.options.types import OneOf, Text
from rsr_basicsr.utils.errors import OptionsError, RSRError


class MetricOptions(OpenBlock):
    """What a block of ``metrics:`` has beside the arguments of its function."""

    type: Text
    better: Annotated[str, OneOf(('higher', 'lower'))] | None = None


def check_metric(metric: dict[str, Any], where: str) -> None:
    """Check that there is such a metric and that it takes what the block holds; perceptual measures are looked for.

    The measure ``auto`` is replaced by its name on this machine, in place: results say what was measured.

    Raises:
        OptionsError: one sentence with the key, the value and the remedy.
    """
    parse_open(metric, MetricOptions, where)
    function = registered(METRIC_REGISTRY, metric['type'], f'{where}.type')
    check_call(function, {**metric, **dict.fromkeys(INPUTS)}, where, own=(*INPUTS, 'better'))
    if function not in (calculate_lpips, calculate_perceptual, calculate_perceptual_stability):
        return
    try:
        if function is not calculate_lpips and metric.get('measure', AUTO) == AUTO:
            metric['measure'] = available_measure(metric.get('backbone'))
        perceptual_measure(metric.get('measure', 'lpips'), metric.get('backbone'))
    except (RSRError, ValueError) as error:
        raise OptionsError(f'{where}: {error}') from error
