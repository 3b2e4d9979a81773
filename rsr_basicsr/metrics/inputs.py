"""What a metric is given: the images that its signature names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from basicsr.utils.registry import METRIC_REGISTRY

#: Argument of a metric -> the image that it stands for; BGR uint8, (H, W, 3), as in BasicSR's validation
INPUTS = {
    'img': 'the output',
    'img2': 'the high-resolution original',
    'img_clean': 'the output for the clean image',
    'lq': 'the input',
    'lq_clean': 'the clean input',
}
#: Metrics of which less is better; an options block may say ``better: lower`` of any other
_LOWER = ('calculate_lpips', 'calculate_niqe', 'calculate_gain')


def is_higher_better(options: Mapping[str, Any]) -> bool:
    """Whether more of a metric is better; options as in BasicSR's ``val: metrics:``."""
    return options.get('better', 'lower' if options['type'] in _LOWER else 'higher') == 'higher'


def needs(options: Mapping[str, Any]) -> tuple:
    """The inputs of a metric that have no default."""
    parameters = inspect.signature(METRIC_REGISTRY.get(options['type'])).parameters
    return tuple(name for name in INPUTS if name in parameters and parameters[name].default is inspect.Parameter.empty)


def calculate(options: Mapping[str, Any], images: Mapping[str, np.ndarray]) -> float | None:
    """A metric of the images that its signature names.

    Args:
        options: ``type``, the name of a metric that is registered with BasicSR, and its arguments.
        images: of :data:`INPUTS` what there is.

    Returns:
        The number, or None where it needs an image that is not there.
    """
    function = METRIC_REGISTRY.get(options['type'])
    if any(name not in images for name in needs(options)):
        return None
    taken = {name: images[name] for name in inspect.signature(function).parameters if name in images}
    return float(function(**taken, **{key: value for key, value in options.items() if key not in ('type', 'better')}))
