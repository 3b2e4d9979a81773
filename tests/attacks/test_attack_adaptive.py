"""Attacks that know the defence, and alarms for masked gradients."""

import pytest
import torch
from reach import Reach
from torch import nn
from torch.nn import functional as F

from networks import Along, DefendedGain, Gain, Rounding
from rsr_basicsr import defend
from rsr_basicsr.attacks import (
    APGD,
    BPDA,
    FGSM,
    IFGSM,
    PGD,
    DetectorAware,
    Measurement,
    RandomNoise,
    Square,
    Transfer,
    Universal,
    masking_alarms,
    measure,
    worst_of,
)

DefendedReach = defend(Reach)


class Noisy(nn.Module):
    """A linear network whose weights get new noise, larger than themselves, in every pass."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 3, 8, 8).sign())

    def forward(self, x):
        return (self.weight + 3 * torch.randn(len(x), *self.weight.shape[1:])) * x


def test_more_eot_samples_find_the_direction():
    net, lq, up = Noisy(), torch.full((1, 3, 8, 8), 0.5), torch.ones(1, 3, 8, 8)
    right = {}
    for samples in (1, 64):
        delta = FGSM(eps=4, objective=Along(), eot_samples=samples)(net, lq, up) - lq
        right[samples] = (delta.sign() == net.weight.sign()).float().mean().item()
    # P(sign is right) is Phi(sqrt(samples) / 3): 0.63 and 0.996.
    assert right[1] < 0.75 and right[64] > 0.97


@pytest.mark.parametrize('gate, decision', [('always', True), ('never', False)])
def test_forced_gates_equal_fixed_gates(gate, decision, photo):
    # With a seed the masks are the same in both networks.
    net, same = (DefendedReach(defense={'gate': g, 'seed': 1}).eval() for g in ('classifier', gate))
    clean = net(photo).detach()
    first, second = (
        attack(n, photo, clean, generator=torch.Generator().manual_seed(0))
        for attack, n in ((PGD(eps=4, steps=3, gate=gate), net), (PGD(eps=4, steps=3), same))
    )
    assert torch.equal(first, second)


def test_straight_through_changes_only_the_attack(photo):
    net = DefendedReach(defense={'seed': 1, 'classifier': {'type': 'paper', 'weights': 'untrained'}}).eval()
    with torch.no_grad():  # an undecided classifier
        net.defense.classifier.body[-1].weight *= 30
        net.defense.classifier.body[-1].bias += torch.tensor([1.0, 0.0]) * net.defense.logit(photo)
    plain, through = (
        PGD(eps=4, steps=3, gate=gate)(net, photo, generator=torch.Generator().manual_seed(0))
        for gate in (None, 'straight_through')
    )
    assert not torch.equal(plain, through)
    assert not net.defense.decide(photo).requires_grad


def test_gates_are_found_inside_wrappers(photo):
    net = DefendedGain(defense={'gate': 'never'}).eval()
    for wrapped in (nn.DataParallel(net), nn.Sequential(BPDA(torch.round), net)):
        seen = []
        handle = net.defense.mask.register_forward_pre_hook(lambda module, args: seen.append(1))
        IFGSM(eps=4, steps=2, gate='always')(wrapped, photo)
        handle.remove()
        assert len(seen) == 2
    with pytest.raises(ValueError, match='gate: always is for defended networks, Gain has no gate'):
        IFGSM(steps=1, gate='always')(Gain(), photo)


def test_tiles_obey_the_gate_in_the_backward_pass(photo):
    net = DefendedReach(defense={'seed': 1}).eval()
    x = photo.clone().requires_grad_()
    with net.defense.straight_through():
        (gradient,) = torch.autograd.grad(upscale_tiles(net, x).square().sum(), x)
        (again,) = torch.autograd.grad(upscale_tiles(net, x).square().sum(), x)
    assert torch.equal(gradient, again) and gradient.abs().max() > 0
    assert all(p.grad is None for p in net.parameters())


def upscale_tiles(net, x):
    from rsr_basicsr.ops.tiled import upscale

    return upscale(net, x, tile=32, overlap=2)


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


def test_bpda_value_and_gradient():
    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    identity = BPDA(lambda images: (images * 8).round() / 8)
    assert torch.equal(identity(x), (x * 8).round() / 8)
    assert torch.equal(torch.autograd.grad(identity(x).sum(), x)[0], torch.ones_like(x))
    stand_in = BPDA(torch.round, surrogate=lambda images: images**3)
    torch.testing.assert_close(torch.autograd.grad(stand_in(x).sum(), x)[0], 3 * x.detach() ** 2)
    assert torch.equal(stand_in(x), x.round())
    with pytest.raises(ValueError, match='transform makes'):
        BPDA(lambda images: images[..., 1:])(x)


def test_bpda_attacks_through_a_codec(real_network, photo):
    import cv2
    import numpy as np

    def jpeg(images):
        coded = []
        for image in images:
            array = (image.permute(1, 2, 0).numpy() * 255).round().clip(0, 255).astype(np.uint8)
            coded.append(torch.from_numpy(cv2.imdecode(cv2.imencode('.jpg', array)[1], cv2.IMREAD_COLOR)))
        return torch.stack(coded).permute(0, 3, 1, 2).float() / 255

    photo = photo[..., :32, :32]
    defended = nn.Sequential(BPDA(jpeg), real_network)
    with torch.no_grad():
        clean = defended(photo)
        blind, knowing = (
            (defended(attack(net, photo)) - clean).square().sum()
            for attack, net in ((RandomNoise(eps=8), defended), (PGD(eps=8, steps=10, keep_best=True), defended))
        )
    assert knowing > 2 * blind


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


def test_detectors_are_checked(photo):
    ones = torch.ones_like(photo)
    for detector, message in ((lambda x: x.mean(), 'one logit per image'), (lambda x: torch.zeros(len(x)), 'gradient')):
        with pytest.raises(ValueError, match=message):
            DetectorAware(steps=1, detector=detector, objective=Along())(
                Brighter(), torch.cat([photo] * 2)[..., :8], torch.cat([ones] * 2)[..., :8]
            )


def test_worst_of_measures_the_deployed_network(photo):
    # With a forced gate, an attack sees masks that the deployed network never draws.
    net = DefendedGain(defense={'gate': 'never'}).eval()
    always, never = IFGSM(eps=8, steps=3, gate='always'), IFGSM(eps=1, steps=3, gate='never')
    _, loss, which = worst_of([never, always]).results(net, photo)
    assert which.item() == 1 and loss.item() > 0
