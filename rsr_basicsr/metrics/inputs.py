"""The inputs of a metric: the images that its signature names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from basicsr.utils.registry import METRIC_REGISTRY

#: Argument of a metric -> its image, BGR uint8, (H, W, 3), as in BasicSR's validation
INPUTS = {
    'img': 'the output',
    'img2': 'the high-resolution original',
    'img_clean': 'the output for the clean image',
    'lq': 'the input',
    'lq_clean': 'the clean input',
}
#: Metrics for which lower is better; others need ``better: lower`` in their options block
_LOWER_IS_BETTER = (
    'calculate_lpips',
    'calculate_perceptual',
    'calculate_perceptual_stability',
    'calculate_niqe',
    'calculate_gain',
)


def is_higher_better(options: Mapping[str, Any]) -> bool:
    """Whether higher values of a metric are better; ``options`` as in BasicSR's ``val: metrics:``."""
    return options.get('better', 'lower' if options['type'] in _LOWER_IS_BETTER else 'higher') == 'higher'


def needs(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The inputs that a metric requires: those without a default."""
    parameters = inspect.signature(METRIC_REGISTRY.get(options['type'])).parameters
    return tuple(name for name in INPUTS if name in parameters and parameters[name].default is inspect.Parameter.empty)


def calculate(options: Mapping[str, Any], images: Mapping[str, np.ndarray]) -> float | None:
    """Compute a metric.

    Args:
        options: ``type``, the name of a metric registered with BasicSR, and its arguments.
        images: the available images, by their names in :data:`INPUTS`.

    Returns:
        The value, or None if a required image is not available.
    """
    function = METRIC_REGISTRY.get(options['type'])
    if any(name not in images for name in needs(options)):
        return None
    taken = {name: images[name] for name in inspect.signature(function).parameters if name in images}
    return float(function(**taken, **{key: value for key, value in options.items() if key not in ('type', 'better')}))
