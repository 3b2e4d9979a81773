"""Attacks: closed forms on linear networks, invariants on real weights."""

import copy

import cv2
import numpy as np
import pytest
import torch
from skimage import data
from torch import nn

from rsr_basicsr.attacks import IFGSM, PGD, Objective, build_attack, to_8_bit
from rsr_basicsr.attacks.base import input_gradient
from rsr_basicsr.attacks.objectives import build_objective


class Affine(nn.Module):
    """Maps x to weight * x, elementwise."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        return self.weight * x


@pytest.fixture(scope='module')
def photo():
    """A photo reduced to 64x64, 8 bit, as (1, 3, 64, 64) in [0, 1]."""
    reduced = cv2.resize(data.astronaut()[:256, 100:356], (64, 64), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(reduced).permute(2, 0, 1)[None].float() / 255


def damage(net, attacked, lq):
    with torch.no_grad():
        return (net(attacked).clamp(0, 1) - net(lq).clamp(0, 1)).square().sum().item()


@pytest.mark.parametrize('attack', [IFGSM, PGD])
def test_linear_network_optimum(attack):
    # |weight x - target| with target far below grows fastest along sign(weight): the optimum is a corner of the ball.
    weight = torch.randn(1, 3, 6, 6)
    lq, net = torch.full((2, 3, 6, 6), 0.5), Affine(weight)
    target = net(lq).detach() - 10
    attacked = attack(eps=8, steps=10, objective='ground_truth')(net, lq, target)
    torch.testing.assert_close(attacked, lq + 8 / 255 * weight.sign(), atol=1e-6, rtol=0)


def test_input_gradient_against_finite_differences():
    net = nn.Conv2d(3, 3, 3, padding=1).double()
    x, reference = torch.rand(1, 3, 5, 5).double(), torch.rand(1, 3, 5, 5).double()
    objective = build_objective('ground_truth')
    gradient, _ = input_gradient(net, x, objective, reference)
    step = torch.zeros_like(x)
    step[0, 1, 2, 3] = 1e-6
    with torch.no_grad():
        difference = objective(net(x + step), reference) - objective(net(x - step), reference)
    assert gradient[0, 1, 2, 3].item() == pytest.approx(difference.item() / 2e-6, rel=1e-6)


@pytest.mark.parametrize('attack', [
    IFGSM(eps=4, steps=3), PGD(eps=4, steps=3), IFGSM(eps=4, steps=3, quantize='nearest'),
    PGD(eps=2.5, steps=3, restarts=2, quantize='nearest'), PGD(eps=2.5, steps=3, quantize='floor')], ids=repr)
def test_invariants(attack, real_network, photo):
    real_network.train()
    before = [p.detach().clone() for p in real_network.parameters()]
    attacked = attack(real_network, photo)
    assert (attacked - photo).abs().max() <= attack.eps / 255 + 1e-6
    assert attacked.min() >= 0 and attacked.max() <= 1
    assert not attacked.requires_grad
    if attack.quantize != 'none':
        torch.testing.assert_close(attacked * 255, (attacked * 255).round(), atol=1e-4, rtol=0)
    assert real_network.training
    assert all(p.grad is None and p.requires_grad for p in real_network.parameters())
    assert all(torch.equal(p, q) for p, q in zip(before, real_network.parameters()))
    real_network.eval()


def test_rounding_down_darkens_by_half_a_level_and_to_the_nearest_does_not():
    lq = torch.randint(20, 230, (1, 3, 64, 64)).float() / 255
    attacked = lq + (torch.rand_like(lq) * 8 - 4) / 255
    radius = torch.tensor(4.5 / 255)
    shift = {rounding: (to_8_bit(attacked, lq, radius, rounding) - attacked).mean().item() * 255
             for rounding in (torch.floor, torch.round)}
    assert shift[torch.floor] == pytest.approx(-0.5, abs=0.02)  # of a uniform fraction
    assert shift[torch.round] == pytest.approx(0, abs=0.02)


def test_without_the_clamp_pictures_leave_the_value_range_but_not_the_ball():
    net, lq = Affine(torch.ones(1, 3, 4, 4)), torch.ones(1, 3, 4, 4)
    options = dict(eps=8, steps=2, objective='ground_truth')
    torch.testing.assert_close(IFGSM(**options, clamp=False)(net, lq, lq - 1), lq + 8 / 255)
    assert IFGSM(**options)(net, lq, lq - 1).max() == 1


@pytest.mark.parametrize('wrong, sentence', [
    (dict(quantize='up'), "quantize must be one of nearest, floor, none, got 'up'"),
    (dict(quantize='floor', clamp=False), 'quantize: floor needs clamp')])
def test_wrong_rounding_is_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        IFGSM(eps=4, steps=2, **wrong)


def test_damage_grows_with_eps_and_beats_noise(real_network, photo):
    damages = [damage(real_network, IFGSM(eps=eps, steps=5)(real_network, photo), photo) for eps in (1, 2, 4, 8)]
    assert damages == sorted(damages)
    noise = (photo + 8 / 255 * torch.randn_like(photo).sign()).clamp(0, 1)
    assert damages[-1] > 2 * damage(real_network, noise, photo)


def test_pgd_is_at_least_fgsm(real_network, photo):
    for eps in (2, 8):
        fgsm = IFGSM(eps=eps, steps=1, random_start=1)(real_network, photo)
        pgd = PGD(eps=eps, steps=10, keep_best=True)(real_network, photo)
        assert damage(real_network, pgd, photo) >= damage(real_network, fgsm, photo)


class Valley(Objective):
    """Damage that peaks 3/255 above the reference, so that a step of 8/255 from there overshoots."""

    def reference(self, model, lq, target):
        return target

    def __call__(self, output, reference):
        return -(output - reference - 3 / 255).square().flatten(1).sum(1)


@pytest.mark.parametrize('keep_best, expected', [(True, 0), (False, 8)])
def test_keep_best_returns_the_worst_picture_met(keep_best, expected):
    net, lq = Affine(torch.ones(1, 3, 4, 4)), torch.full((1, 3, 4, 4), 0.5)
    attack = PGD(eps=8, steps=3, step_size=8, random_start=0, keep_best=keep_best, objective=Valley())
    torch.testing.assert_close(attack(net, lq, lq), lq + expected / 255)


def test_results_do_not_depend_on_the_batch(real_network, photo):
    # In float64, where convolutions of one and of two samples round alike enough for no sign to flip.
    net, lq = copy.deepcopy(real_network).double(), photo.double()
    attack = IFGSM(eps=4, steps=3, objective='ground_truth', random_start=0)
    target = torch.zeros(1, 3, 256, 256, dtype=torch.float64)
    together = attack(net, torch.cat([lq, lq.flip(-1)]), target.repeat(2, 1, 1, 1))
    torch.testing.assert_close(together[:1], attack(net, lq, target))


def test_eps_of_each_sample():
    net, lq = Affine(torch.ones(1, 3, 4, 4)), torch.full((3, 3, 4, 4), 0.5)
    attacked = IFGSM(steps=4, objective='ground_truth')(net, lq, lq - 1, eps=torch.tensor([0.0, 2.0, 6.0]))
    torch.testing.assert_close((attacked - lq).flatten(1).mean(1) * 255, torch.tensor([0.0, 2.0, 6.0]))


def test_repeatable_with_a_generator(real_network, photo):
    first, second = (PGD(eps=4, steps=2)(real_network, photo, generator=torch.Generator().manual_seed(1))
                     for _ in range(2))
    assert torch.equal(first, second)


def test_works_inside_no_grad(real_network, photo):
    with torch.no_grad():
        attacked = IFGSM(eps=8, steps=2)(real_network, photo)
    assert damage(real_network, attacked, photo) > 0


def test_to_8_bit_stays_in_a_fractional_ball():
    lq = torch.tensor([10 / 255, 10.4 / 255]).view(1, 1, 1, 2)
    rounded = to_8_bit(lq + 1.6 / 255, lq, torch.tensor(1.6 / 255))
    np.testing.assert_allclose(rounded.flatten().numpy() * 255, [11, 12], atol=1e-4)


@pytest.mark.parametrize('options, message', [
    (dict(type='FGSMM'), 'IFGSM, PGD'), (dict(type='PGD', eps=300), '1/255'), (dict(type='PGD', steps=0), 'steps'),
    (dict(type='PGD', objective='chaos'), 'ground_truth'),
])
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_attack(options)


def test_ground_truth_must_be_given(photo):
    with pytest.raises(ValueError, match='needs target'):
        IFGSM(objective='ground_truth')(nn.Identity(), photo)


def test_repr_names_the_parameters():
    assert 'eps=4' in repr(PGD(eps=4)) and 'Stability' in repr(PGD())
