"""Attacks on networks that map pictures to pictures. They know nothing of BasicSR."""

from rsr_basicsr.attacks.base import QUANTIZE, GradientAttack, to_8_bit
from rsr_basicsr.attacks.gradient import IFGSM, PGD
from rsr_basicsr.attacks.objectives import OBJECTIVES, Objective

ATTACKS = {'IFGSM': IFGSM, 'PGD': PGD}


def build_attack(options: dict) -> GradientAttack:
    """The attack of an options block: ``type`` and the keyword arguments of that class."""
    options = dict(options)
    name = options.pop('type')
    if name not in ATTACKS:
        raise ValueError(f'attack type must be one of {", ".join(ATTACKS)}, got {name!r}')
    return ATTACKS[name](**options)


__all__ = ['ATTACKS', 'IFGSM', 'OBJECTIVES', 'PGD', 'QUANTIZE', 'GradientAttack', 'Objective', 'build_attack',
           'to_8_bit']
