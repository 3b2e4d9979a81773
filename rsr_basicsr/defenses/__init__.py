"""The baseline defences that frequency masks are compared with: wrappers around any super-resolution network.

Gradients pass all of them, directly or by :class:`rsr_basicsr.attacks.BPDA`, so that an attack on the wrapper is an
adaptive attack.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from rsr_basicsr.defenses.base import DEFENSE_REGISTRY, InputTransform, NetworkWrapper
from rsr_basicsr.defenses.bit_depth import BitDepth
from rsr_basicsr.defenses.blend import Blend
from rsr_basicsr.defenses.clip_to_bicubic import ClipToBicubic
from rsr_basicsr.defenses.gaussian import Gaussian
from rsr_basicsr.defenses.jpeg import JPEG
from rsr_basicsr.defenses.low_pass import LowPass
from rsr_basicsr.defenses.median import Median
from rsr_basicsr.defenses.median_smoothing import MedianSmoothing
from rsr_basicsr.defenses.random_resize_pad import RandomResizePad
from rsr_basicsr.defenses.self_ensemble import SelfEnsemble
from rsr_basicsr.defenses.total_variation import TotalVariation
from rsr_basicsr.ops.registry import check_arguments, parameters_of, take_type


def build_defense(options: Mapping[str, Any], net: nn.Module) -> nn.Module:
    """Build a network behind the defence of an options block: ``type`` and the keyword arguments of that defence.

    Args:
        options: the block. The types are those of ``DEFENSE_REGISTRY``, where users can register any callable that
            takes the network first, then keyword arguments.
        net: maps (B, 3, H, W) to (B, 3, sH, sW) in [0, 1].

    Raises:
        ValueError: there is no defence of that type, it has no such argument, it lacks a required one, or a value is
            out of range.

    Example:
        >>> build_defense({'type': 'JPEG', 'quality': 50}, nn.Identity()).quality
        50
    """
    name, defense, arguments = take_type(options, DEFENSE_REGISTRY, 'defence')
    check_arguments(name, arguments, parameters_of(defense, given=1))
    return defense(net, **arguments)


__all__ = [
    'DEFENSE_REGISTRY',
    'JPEG',
    'BitDepth',
    'Blend',
    'ClipToBicubic',
    'Gaussian',
    'InputTransform',
    'LowPass',
    'Median',
    'MedianSmoothing',
    'NetworkWrapper',
    'RandomResizePad',
    'SelfEnsemble',
    'TotalVariation',
    'build_defense',
]
