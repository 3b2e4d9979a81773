"""Measurements of attacks, and alarms for masked gradients."""

import pytest
import torch
from torch import nn

from networks import Rounding
from rsr_basicsr.attacks import (
    APGD,
    BPDA,
    PGD,
    Measurement,
    RandomNoise,
    Square,
    Transfer,
    Universal,
    masking_alarms,
    measure,
)


def honest(seed=3):
    """A small network of random filters, where attacks reach several times the loss of noise."""
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 16, 7, padding=3), nn.LeakyReLU(0.2), nn.Conv2d(16, 3, 7, padding=3), nn.Upsample(None, 2)
    return nn.Sequential(*layers)


def ladder(another):
    attacks = [PGD(eps=eps, steps=steps) for eps in (2, 8) for steps in (1, 20)]
    return [*attacks, RandomNoise(eps=8), Square(eps=8, queries=30), Transfer(source=another, eps=8)]


def test_no_alarm_for_an_honest_network(photo):
    net, another = honest(), honest(seed=4)
    found = [measure(attack, net, photo, generator=torch.Generator().manual_seed(0)) for attack in ladder(another)]
    assert masking_alarms(found) == []


def test_no_alarm_for_real_weights(real_network, photo):
    photo = photo[..., :32, :32]
    assert masking_alarms(measure(attack, real_network, photo) for attack in ladder(nn.Upsample(scale_factor=4))) == []


def test_alarms_for_a_network_that_masks_its_gradients(photo):
    net = Rounding(honest())
    found = [measure(attack, net, photo, generator=torch.Generator().manual_seed(0)) for attack in ladder(net.net)]
    alarms = '\n'.join(masking_alarms(found))
    assert 'PGD(eps=2, steps=1, objective=Stability()): 100% of the gradient is exactly zero' in alarms
    assert 'Square(eps=8, queries=30, objective=Stability()) uses no gradient, yet its loss is' in alarms
    assert 'Transfer(' in alarms
    assert 'PGD(eps=8, steps=20, objective=Stability()): the loss does not grow from steps 1 to 20' in alarms
    # BPDA gets around the rounding:
    through = BPDA(lambda x: (x * net.levels).round() / net.levels)
    assert measure(PGD(eps=8, steps=20), nn.Sequential(through, net.net), photo).loss > max(m.loss for m in found)


MEASURED = [
    Measurement(PGD(eps=2, steps=10), 1.0, 0.0),
    Measurement(PGD(eps=4, steps=10), 3.0, 0.0),
    Measurement(PGD(eps=4, steps=50), 3.5, 0.0),
    Measurement(Square(eps=4), 2.0),
    Measurement(Transfer(source=nn.Identity(), eps=4), 1.5),
]


@pytest.mark.parametrize(
    'index, changed, sentence',
    [
        (0, Measurement(PGD(eps=2, steps=10), 1.0, 0.6), '60% of the gradient is exactly zero'),
        (1, Measurement(PGD(eps=4, steps=10), 1.01, 0.0), 'the loss does not grow from eps 2 to 4'),
        (2, Measurement(PGD(eps=4, steps=50), 2.9, 0.0), 'the loss does not grow from steps 10 to 50'),
        (
            3,
            Measurement(Square(eps=4), 4.0),
            'Square(eps=4, queries=1000, objective=Stability()) uses no gradient, yet '
            'its loss is 14% above that of the best attack that does, PGD(eps=4, steps=50',
        ),
        (4, Measurement(Transfer(source=nn.Identity(), eps=4), 3.6), 'Transfer(source=Identity'),
    ],
)
def test_each_alarm_alone(index, changed, sentence):
    assert masking_alarms(MEASURED) == []
    alarms = masking_alarms([*MEASURED[:index], changed, *MEASURED[index + 1 :]])
    assert len(alarms) == 1 and sentence in alarms[0]


def test_incomparable_measurements_raise_no_alarm():
    assert (
        masking_alarms(
            [
                Measurement(PGD(eps=2), 1.0, 0.0),
                Measurement(Square(eps=4), 9.0),
                Measurement(Square(eps=2, objective='ground_truth'), 9.0),
                Measurement(RandomNoise(eps=2, norm='L2'), 9.0),
            ]
        )
        == []
    )


def test_converged_attacks_raise_no_alarm():
    flat = [Measurement(PGD(eps=4, steps=10), 3.0, 0.0), Measurement(PGD(eps=4, steps=50), 3.0, 0.0)]
    assert masking_alarms(flat) == []
    stronger = Measurement(APGD(eps=4), 4.0, 0.0)
    assert ['from steps 10 to 50' in alarm for alarm in masking_alarms([*flat, stronger])] == [True]


def test_universal_can_be_measured(photo):
    found = measure(Universal(eps=4, steps=3, size=16), honest(), photo[..., :32, :32])
    assert found.loss > 0 and found.zero_gradient < 0.1
