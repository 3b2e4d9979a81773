"""The baseline defences that frequency masks are compared with: wrappers around any super-resolution network.

All of them let gradients through, by themselves or by :class:`rsr_basicsr.attacks.BPDA`, so that attacks on the
wrapper are attacks that know the defence.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping

from torch import nn

from rsr_basicsr.defenses.base import DEFENSE_REGISTRY, InputTransform, NetworkWrapper
from rsr_basicsr.defenses.bit_depth import BitDepth
from rsr_basicsr.defenses.gaussian import Gaussian
from rsr_basicsr.defenses.jpeg import JPEG
from rsr_basicsr.defenses.low_pass import LowPass
from rsr_basicsr.defenses.median import Median
from rsr_basicsr.defenses.median_smoothing import MedianSmoothing
from rsr_basicsr.defenses.random_resize_pad import RandomResizePad
from rsr_basicsr.defenses.self_ensemble import SelfEnsemble
from rsr_basicsr.defenses.total_variation import TotalVariation


def build_defense(options: Mapping, net: nn.Module) -> nn.Module:
    """The network behind the defence of an options block: ``type`` and the keyword arguments of that defence.

    Args:
        options: the block. The types are those of ``DEFENSE_REGISTRY``, which takes more of them: any callable that
            takes the network first, and keywords.
        net: maps (B, 3, H, W) to (B, 3, sH, sW) in [0, 1].

    Raises:
        ValueError: there is no defence of that type, it has no such argument or needs one that is not given, or a
            value is out of range.
    """
    if not isinstance(options, Mapping):
        raise ValueError(f'expected a defence block, with type and arguments, got {options!r}')
    arguments = dict(options)
    kind = arguments.pop('type', None)
    if not isinstance(kind, str) or kind not in DEFENSE_REGISTRY:
        raise ValueError(f'there is no defence of type {kind!r}; {_remedy(kind, DEFENSE_REGISTRY.keys())}')
    defense = DEFENSE_REGISTRY.get(kind)
    _check_arguments(kind, defense, arguments)
    return defense(net, **arguments)


def _check_arguments(kind, defense, arguments):
    known = _parameters(defense)
    for name in arguments:
        if name not in known and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
            raise ValueError(f'{kind} has no argument {name!r}; {_remedy(name, known)}')
    missing = [
        name
        for name, parameter in known.items()
        if name not in arguments
        and parameter.default is parameter.empty
        and parameter.kind is not parameter.VAR_KEYWORD
    ]
    if missing:
        raise ValueError(f'{kind} needs {" and ".join(missing)}; add what is missing to its block')


def _parameters(defense: Callable) -> dict[str, inspect.Parameter]:
    """What a defence takes behind the network, with what a class hands on to its parents in ``**keywords``."""
    found: dict[str, inspect.Parameter] = {}
    makers = (
        [vars(parent)['__init__'] for parent in defense.__mro__ if '__init__' in vars(parent)]
        if isinstance(defense, type)
        else [defense]
    )
    for maker in makers:
        own = list(inspect.signature(maker).parameters.values())[2 if isinstance(defense, type) else 1 :]
        handed_on = [parameter for parameter in own if parameter.kind is parameter.VAR_KEYWORD]
        for parameter in own:
            if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                found.setdefault(parameter.name, parameter)
        if not handed_on:
            return found
    return {**found, handed_on[0].name: handed_on[0]}


def _remedy(name, known: Iterable[str]) -> str:
    names = {one.lower(): one for one in known}
    close = difflib.get_close_matches(str(name).lower(), names, n=1)
    if close:
        return f'did you mean {names[close[0]]!r}?'
    return f'take one of {", ".join(names.values())}' if names else 'it has none'


__all__ = [
    'DEFENSE_REGISTRY',
    'JPEG',
    'BitDepth',
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
