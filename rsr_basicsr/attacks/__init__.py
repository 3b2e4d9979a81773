"""Attacks on networks that map images to images: an objective, a step, a constraint.

They depend on nothing of BasicSR but its registry, and use of a defence only its gate and its classifier.
"""

from rsr_basicsr.attacks.adaptive import BPDA, DetectorAware, Evasion
from rsr_basicsr.attacks.alarms import Measurement, masking_alarms, measure
from rsr_basicsr.attacks.base import Attack
from rsr_basicsr.attacks.blackbox import RandomNoise, Square
from rsr_basicsr.attacks.compose import Transfer, WorstOf, worst_of
from rsr_basicsr.attacks.constraints import QUANTIZE, to_8_bit
from rsr_basicsr.attacks.gradient import APGD, FGSM, IFGSM, MIFGSM, PGD, BandLimited
from rsr_basicsr.attacks.gradient_base import GradientAttack
from rsr_basicsr.attacks.objectives import OBJECTIVES, Objective, Perceptual
from rsr_basicsr.attacks.registry import ATTACKS, build_attack
from rsr_basicsr.attacks.universal import Universal

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
