"""One instance of every attack, with settings that take milliseconds."""

from torch import nn

from rsr_basicsr.attacks import (
    APGD,
    FGSM,
    IFGSM,
    MIFGSM,
    PGD,
    BandLimited,
    RandomNoise,
    Square,
    Transfer,
    Universal,
    worst_of,
)

QUICK = [
    FGSM(eps=4),
    IFGSM(eps=4, steps=3),
    MIFGSM(eps=4, steps=3),
    PGD(eps=4, steps=3),
    APGD(eps=4, steps=4),
    BandLimited(eps=4, steps=3),
    Universal(eps=4, steps=2, size=24),
    Square(eps=4, queries=5),
    RandomNoise(eps=4),
    PGD(eps=2.5, steps=3, norm='L2'),
    PGD(eps=2.5, steps=2, restarts=2),
    worst_of([FGSM(eps=4), RandomNoise(eps=4)]),
    Transfer(source=nn.Upsample(scale_factor=4), eps=4, steps=2),
]
