"""Attacks that know the detector, and the logit that they evade."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from networks import Along, DefendedGain, Gain
from rsr_basicsr.attacks import PGD, DetectorAware


def brightness(limit):
    """A detector that flags bright images: its logit is 0 at a mean of ``limit``."""
    return lambda x: 1000 * (x.flatten(1).mean(1) - limit)


class Brighter(nn.Module):
    """A network whose loss, along a target of ones, is the brightness of the image's left half."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return F.pad(x[..., :4], (0, 4)) * self.gain


def test_detector_aware_finds_the_undetected_optimum():
    lq, ones = torch.full((2, 3, 8, 8), 0.5), torch.ones(2, 3, 8, 8)
    attack = DetectorAware(eps=8, steps=20, detector=brightness(0.5 + 0.5 / 255), objective=Along())
    found = attack.evade(Brighter(), lq, ones)
    # The optimum is + eps on the left; it is undetected if the right is dark enough.
    left, right = (found.undetected - lq)[..., :4] * 255, (found.undetected - lq)[..., 4:] * 255
    assert found.evaded.all() and (left.mean() > 7.5) and (left.mean() + right.mean()) / 2 <= 0.5
    torch.testing.assert_close((found.overall - lq)[..., :4], torch.full((2, 3, 8, 4), 8 / 255))
    unaware = PGD(eps=8, steps=20, objective=Along())(Brighter(), lq, ones)
    assert (brightness(0.5 + 0.5 / 255)(unaware) > 0).all()
    assert torch.equal(
        attack(Brighter(), lq, ones, generator=torch.Generator().manual_seed(0)),
        attack.evade(Brighter(), lq, ones, generator=torch.Generator().manual_seed(0)).undetected,
    )


def test_detector_aware_reports_failed_evasion():
    lq, ones = torch.full((2, 3, 8, 8), 0.5), torch.ones(2, 3, 8, 8)
    lq[1] = 0.2
    attack = DetectorAware(eps=4, steps=5, detector=brightness(0.3), objective=Along())
    found = attack.evade(Brighter(), lq, ones)
    assert found.evaded.tolist() == [False, True]
    assert torch.equal(found.undetected[0], lq[0])
    attacked = attack(Brighter(), lq, ones)
    assert (attacked[0] - lq[0])[..., :4].mean() * 255 > 3.9


def test_detection_is_that_of_the_8_bit_image():
    lq, ones = torch.full((1, 3, 8, 8), 128 / 255), torch.ones(1, 3, 8, 8)
    limit = brightness(128 / 255 + 0.4 / 255)
    attack = DetectorAware(eps=3, steps=20, detector=limit, objective=Along(), quantize='nearest')
    found = attack.evade(Brighter(), lq, ones)
    assert found.evaded.all() and (limit(found.undetected) <= 0).all()
    torch.testing.assert_close(found.undetected * 255, (found.undetected * 255).round())


def test_detector_aware_against_a_network_classifier(photo):
    untrained = {'type': 'paper', 'weights': 'untrained', 'threshold': 0.5}
    net = DefendedGain(defense={'classifier': untrained}).eval()
    bias = net.defense.classifier.body[-1].bias
    clean, attacked = net.defense.classifier(photo)[0].detach()
    with torch.no_grad():
        bias[0] += attacked - clean + 0.01  # the clean image is just below the threshold
    assert net.defense.attacked(photo).item() is False
    assert net.defense.logit(photo).item() == pytest.approx(-0.01, abs=1e-4)
    found = DetectorAware(eps=4, steps=5).evade(net, photo)
    assert found.evaded.all() and not net.defense.attacked(found.undetected).any()
    with pytest.raises(ValueError, match='Gain has no detector'):
        DetectorAware(steps=1)(Gain(), photo)


@pytest.mark.parametrize('threshold', [0.3, 0.9])
def test_logit_is_above_zero_where_attacked(threshold, photo):
    defense = DefendedGain(defense={'classifier': {'threshold': threshold}}).eval().double().defense
    images = torch.cat([photo, photo * 0.5, torch.rand_like(photo), torch.zeros_like(photo)]).double()
    clean = defense.classifier.clean_probability(images)
    expected = torch.log((1 - clean) / clean) - torch.log(torch.tensor((1 - threshold) / threshold))
    torch.testing.assert_close(defense.logit(images), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(defense.logit(images) > 0, defense.attacked(images))


def test_detectors_are_checked(photo):
    ones = torch.ones_like(photo)
    for detector, message in ((lambda x: x.mean(), 'one logit per image'), (lambda x: torch.zeros(len(x)), 'gradient')):
        with pytest.raises(ValueError, match=message):
            DetectorAware(steps=1, detector=detector, objective=Along())(
                Brighter(), torch.cat([photo] * 2)[..., :8], torch.cat([ones] * 2)[..., :8]
            )
