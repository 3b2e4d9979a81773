"""Attacks on networks that map images to images: an objective, a step, a constraint.

They know nothing of BasicSR, and of a defence only that its gate can be forced.
"""

from collections.abc import Callable, Mapping

from torch import nn

from rsr_basicsr.attacks.adaptive import BPDA, DetectorAware, Evasion
from rsr_basicsr.attacks.alarms import Measurement, masking_alarms, measure
from rsr_basicsr.attacks.base import Attack, GradientAttack
from rsr_basicsr.attacks.blackbox import RandomNoise, Square
from rsr_basicsr.attacks.compose import Transfer, WorstOf, worst_of
from rsr_basicsr.attacks.constraints import QUANTIZE, to_8_bit
from rsr_basicsr.attacks.gradient import APGD, FGSM, IFGSM, MIFGSM, PGD, BandLimited
from rsr_basicsr.attacks.objectives import OBJECTIVES, Objective, Perceptual
from rsr_basicsr.attacks.universal import Universal

ATTACKS = {
    attack.__name__: attack
    for attack in (
        FGSM,
        IFGSM,
        MIFGSM,
        PGD,
        APGD,
        BandLimited,
        DetectorAware,
        Universal,
        Square,
        RandomNoise,
        Transfer,
        WorstOf,
    )
}


def build_attack(options: Mapping, load_network: Callable[[Mapping], nn.Module] | None = None) -> Attack:
    """The attack of an options block: ``type`` and the keyword arguments of that class.

    The blocks inside a block, ``attack`` of Transfer and each of ``attacks`` of WorstOf, take from the outer one
    what they do not say themselves.

    Args:
        options: the block.
        load_network: makes a network of the block ``source`` of Transfer, which may also be a network already.

    Raises:
        ValueError: there is no attack of that type, it has no such argument, or the value is out of range.
    """
    if not isinstance(options, Mapping):
        raise ValueError(f'expected an attack block, with type and arguments, got {options!r}')
    options = dict(options)
    name = options.pop('type', None)
    if not isinstance(name, str) or name not in ATTACKS:
        raise ValueError(f'attack type must be one of {", ".join(ATTACKS)}, got {name!r}')

    return ATTACKS[name].from_options(options, load_network)


__all__ = [
    'APGD',
    'ATTACKS',
    'BPDA',
    'FGSM',
    'IFGSM',
    'MIFGSM',
    'OBJECTIVES',
    'PGD',
    'QUANTIZE',
    'Attack',
    'BandLimited',
    'DetectorAware',
    'Evasion',
    'GradientAttack',
    'Measurement',
    'Objective',
    'Perceptual',
    'RandomNoise',
    'Square',
    'Transfer',
    'Universal',
    'WorstOf',
    'build_attack',
    'masking_alarms',
    'measure',
    'to_8_bit',
    'worst_of',
]
