"""Attacks on networks that map pictures to pictures: an objective, a step, a constraint.

They know nothing of BasicSR, and of a defence only that its gate can be forced.
"""

import difflib
from typing import Mapping

from rsr_basicsr.attacks.adaptive import BPDA, DetectorAware, Evasion
from rsr_basicsr.attacks.alarms import Measurement, masking_alarms, measure
from rsr_basicsr.attacks.base import Attack, GradientAttack
from rsr_basicsr.attacks.blackbox import RandomNoise, Square
from rsr_basicsr.attacks.compose import Transfer, WorstOf, worst_of
from rsr_basicsr.attacks.constraints import QUANTIZE, to_8_bit
from rsr_basicsr.attacks.gradient import APGD, FGSM, IFGSM, MIFGSM, PGD, BandLimited
from rsr_basicsr.attacks.objectives import OBJECTIVES, Objective, Perceptual
from rsr_basicsr.attacks.universal import Universal

ATTACKS = {attack.__name__: attack for attack in (
    FGSM, IFGSM, MIFGSM, PGD, APGD, BandLimited, DetectorAware, Universal, Square, RandomNoise, Transfer, WorstOf)}


def build_attack(options: Mapping) -> Attack:
    """The attack of an options block: ``type`` and the keyword arguments of that class.

    The blocks inside a block, ``attack`` of Transfer and each of ``attacks`` of WorstOf, take from the outer one
    what they do not say themselves.

    Raises:
        ValueError: there is no attack of that type, it has no such argument, or the value is out of range.
    """
    options = dict(options)
    name = options.pop('type', None)
    if name not in ATTACKS:
        raise ValueError(f'attack type must be one of {", ".join(ATTACKS)}, got {name!r}')
    if name == 'WorstOf':
        shared = {key: options.pop(key) for key in list(options) if key not in WorstOf.parameters()}
        if not isinstance(options.get('attacks'), (list, tuple)):
            raise ValueError('WorstOf needs attacks, a list of attack blocks')
        options['attacks'] = [_nested(block, {**shared, **_objective(options)}) for block in options['attacks']]
    elif name == 'Transfer':
        shared = {key: options.pop(key) for key in list(options) if key not in ('source', 'attack')}
        options = {'source': options.get('source'), 'attack': _nested(options.get('attack') or {}, shared)}
    known = ATTACKS[name].parameters()
    for key in options:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            raise ValueError(f'{name} has no {key!r}; '
                             + (f'did you mean {close[0]!r}?' if close else f'it has {", ".join(known)}'))
    return ATTACKS[name](**options)


def _nested(block, shared):
    if isinstance(block, Attack):
        return block
    block = {'type': 'PGD', **block}
    taken = ATTACKS[block['type']].parameters() if block['type'] in ATTACKS else ()
    return build_attack({**{key: value for key, value in shared.items() if key in taken}, **block})


def _objective(options):
    return {'objective': options['objective']} if 'objective' in options else {}


__all__ = [
    'APGD', 'ATTACKS', 'BPDA', 'FGSM', 'IFGSM', 'MIFGSM', 'OBJECTIVES', 'PGD', 'QUANTIZE', 'Attack', 'BandLimited',
    'DetectorAware', 'Evasion', 'GradientAttack', 'Measurement', 'Objective', 'Perceptual', 'RandomNoise', 'Square',
    'Transfer', 'Universal', 'WorstOf', 'build_attack', 'masking_alarms', 'measure', 'to_8_bit', 'worst_of',
]
