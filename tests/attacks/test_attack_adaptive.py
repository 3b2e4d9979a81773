"""Attacks that know the defence: its randomness, its gate, and transforms without a gradient."""

import pytest
import torch
from reach import Reach
from torch import nn

from networks import Along, DefendedGain, Gain
from rsr_basicsr import defend
from rsr_basicsr.attacks import BPDA, FGSM, IFGSM, PGD, RandomNoise, worst_of

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


def test_worst_of_measures_the_deployed_network(photo):
    # With a forced gate, an attack sees masks that the deployed network never draws.
    net = DefendedGain(defense={'gate': 'never'}).eval()
    always, never = IFGSM(eps=8, steps=3, gate='always'), IFGSM(eps=1, steps=3, gate='never')
    _, loss, which = worst_of([never, always]).results(net, photo)
    assert which.item() == 1 and loss.item() > 0
