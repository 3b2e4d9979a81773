"""Constraints of perturbations: balls, bands, 8 bit; and large images, attacked in tiles as in one pass."""

import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.fft
import torch
from reach import Reach
from torch import nn

from networks import Valley
from rsr_basicsr import defend
from rsr_basicsr.attacks import APGD, IFGSM, PGD, BandLimited, RandomNoise, to_8_bit
from rsr_basicsr.attacks.constraints import L2, Band, Linf, settle, to_8_bit_inside
from rsr_basicsr.ops.tiled import tile_within, upscale

RADIUS = torch.tensor(8 / 255)


@pytest.mark.parametrize('ball, order', [(Linf(), np.inf), (L2(), 2)])
def test_projection_is_the_nearest_point_of_the_ball(ball, order):
    delta = torch.randn(4, 3, 5, 6) * 0.1
    projected = ball.project(delta, RADIUS)
    scale = 1 if order == np.inf else (3 * 5 * 6) ** 0.5
    norms = np.linalg.norm(projected.flatten(1).numpy(), ord=order, axis=1)
    assert (norms <= 8 / 255 * scale * (1 + 1e-5)).all()
    # No other point of the ball is nearer: the variational inequality of a projection onto a convex set.
    for _ in range(50):
        inside = ball.project(torch.randn_like(delta), RADIUS)
        assert ((delta - projected) * (inside - projected)).flatten(1).sum(1).max() <= 1e-6


def test_size_of_tiny_gradients():
    gradient = torch.full((1, 3, 4, 4), 1e-30)
    assert L2().size(gradient).item() == pytest.approx(1e-30)
    torch.testing.assert_close(L2().steepest(gradient), torch.ones(1, 3, 4, 4))


def outside(delta, low, high):
    """Share of the energy outside the band, by scipy's DCT."""
    height, width = delta.shape[-2:]
    energy = scipy.fft.dctn(delta.double().numpy(), axes=(-2, -1), norm='ortho') ** 2
    distance = np.hypot(np.arange(height)[:, None], np.arange(width)) / np.hypot(height, width)
    return energy[..., (distance < low) | (distance > high)].sum() / energy.sum()


@pytest.mark.parametrize('band', [(0.0, 0.43), (0.5, 1.0), (0.2, 0.3)])
@pytest.mark.parametrize('norm', ['Linf', 'L2'])
def test_band_limited(band, norm, real_network, photo):
    photo = photo.clone()
    photo[..., :20, :20], photo[..., 40:, 40:] = 0, 1  # where the perturbation can have one sign only
    attack = BandLimited(eps=4, steps=4, band=band, norm=norm)
    attacked = attack(real_network, photo)
    delta = attacked - photo
    assert outside(delta, *band) < 1e-4
    size = delta.abs().max() if norm == 'Linf' else delta.square().mean().sqrt()
    assert 2 / 255 < size <= 4 / 255 + 1e-6 and attacked.min() >= 0 and attacked.max() <= 1
    with torch.no_grad():
        loss, noise = (
            (real_network(x) - real_network(photo)).square().sum()
            for x in (attacked, (photo + torch.randn_like(delta).sign() * delta.square().mean().sqrt()).clamp(0, 1))
        )
    if band != (0.2, 0.3):
        assert loss > noise


def test_an_image_without_room_for_the_band_is_unchanged():
    lq = torch.rand(1, 3, 32, 32).round()
    lq = torch.cat([lq, torch.full_like(lq, 0.5)])
    found = settle(Band(Linf(), 0, 0.1), (lq + 0.03 * torch.randn_like(lq)).clamp(0, 1), lq, RADIUS)
    assert torch.equal(found[0], lq[0]) and not torch.equal(found[1], lq[1])


@pytest.mark.parametrize('settings', [dict(keep_best=True), dict(restarts=2)], ids=str)
def test_the_best_image_is_inside_the_band(settings):
    lq = 0.2 + 0.6 * torch.rand(1, 3, 32, 32)
    lq[..., :8, :8] = 0
    attack = BandLimited(eps=8, steps=4, step_size=8, band=(0.1, 0.2), objective=Valley(), **settings)
    assert outside(attack(nn.Identity(), lq, lq) - lq, 0.1, 0.2) < 1e-4


def test_a_hard_image_does_not_change_its_neighbours():
    easy, hard = torch.full((1, 3, 32, 32), 0.5), torch.rand(1, 3, 32, 32).round()
    start = torch.cat([easy, hard]) + 0.03 * torch.randn(2, 3, 32, 32)
    band = Band(Linf(), 0.5, 0.6)
    together = settle(band, start.clamp(0, 1), torch.cat([easy, hard]), RADIUS)
    assert torch.equal(together[:1], settle(band, start[:1], easy, RADIUS))


def test_a_band_without_a_coefficient_is_refused():
    with pytest.raises(ValueError, match=r'band \[0.9, 0.91\] holds no DCT coefficient of a 4x4 image'):
        BandLimited(steps=1, band=(0.9, 0.91))(nn.Identity(), torch.rand(1, 3, 4, 4))


def test_only_rounding_down_darkens():
    lq = torch.randint(20, 230, (1, 3, 64, 64)).float() / 255
    attacked = lq + (torch.rand_like(lq) * 8 - 4) / 255
    radius = torch.tensor(4.5 / 255)
    shift = {
        rounding: (to_8_bit(attacked, lq, radius, rounding) - attacked).mean().item() * 255
        for rounding in (torch.floor, torch.round)
    }
    assert shift[torch.floor] == pytest.approx(-0.5, abs=0.02)  # of a uniform fraction
    assert shift[torch.round] == pytest.approx(0, abs=0.02)


def test_to_8_bit_stays_in_a_fractional_ball():
    lq = torch.tensor([10 / 255, 10.4 / 255]).view(1, 1, 1, 2)
    rounded = to_8_bit(lq + 1.6 / 255, lq, torch.tensor(1.6 / 255))
    np.testing.assert_allclose(rounded.flatten().numpy() * 255, [11, 12], atol=1e-4)


@pytest.mark.parametrize('eps', [0.3, 1, 3.7])
def test_to_8_bit_stays_in_an_l2_ball_and_uses_it(eps):
    lq = torch.randint(0, 256, (3, 3, 16, 16)).float() / 255
    radius = torch.tensor(eps / 255).view(1, 1, 1, 1)
    attacked = (lq + L2().project(torch.randn_like(lq), radius)).clamp(0, 1)
    rounded = to_8_bit_inside(L2(), attacked, lq, radius)
    np.testing.assert_allclose(rounded * 255, (rounded * 255).round(), atol=1e-3)
    size = L2().size(rounded - lq) * 255
    assert (size <= eps + 1e-3).all() and (size > 0.6 * eps).all()


class Gather(nn.Module):
    """:class:`Reach`, and a gain, so that each value of the output depends on inputs up to 2 pixels away."""

    def __init__(self):
        super().__init__()
        self.reach, self.gain = Reach(), nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.reach(x).square() * self.gain


@pytest.mark.parametrize('attack', [IFGSM, PGD, APGD])
def test_tiles_attack_as_the_whole_image_does(attack):
    # In float64, where sums in another order flip no sign.
    lq, target = torch.rand(2, 3, 40, 27, dtype=torch.float64), torch.rand(2, 3, 80, 54, dtype=torch.float64)
    whole, tiled = (
        attack(eps=8, steps=5, objective='ground_truth', **tile)(
            Gather(), lq, target, generator=torch.Generator().manual_seed(0)
        )
        for tile in ({}, dict(tile=16, overlap=2))
    )
    torch.testing.assert_close(tiled, whole)
    short = attack(eps=8, steps=5, objective='ground_truth', tile=16, overlap=0)(
        Gather(), lq, target, generator=torch.Generator().manual_seed(0)
    )
    assert not torch.allclose(short, whole)


def test_with_too_little_overlap_only_the_seams_differ():
    lq, target = torch.rand(1, 3, 48, 48, dtype=torch.float64), torch.rand(1, 3, 96, 96, dtype=torch.float64)
    whole, tiled = (
        IFGSM(eps=8, steps=1, objective='ground_truth', **tile)(Gather(), lq, target)
        for tile in ({}, dict(tile=16, overlap=1))
    )
    differs = ((whole - tiled).abs() > 1e-6).any(dim=1)[0]
    near = (torch.arange(48)[:, None] - torch.tensor([15.5, 31.5])).abs().amin(dim=1) <= 4
    assert differs.any() and not differs[~near][:, ~near].any()


def test_real_network_in_tiles(real_network, photo):
    # 18 layers of 3x3: an output pixel sees inputs up to 18 pixels away.
    x = photo.repeat(1, 1, 2, 1)[..., :96, :40].clone().requires_grad_()
    gradients = []
    for tile in (None, 32):
        output = upscale(real_network, x, tile=tile, overlap=18)
        gradients.append(torch.autograd.grad(output.square().sum(), x)[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


PEAK = """
import re, sys, torch, rsr_basicsr
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from rsr_basicsr.attacks import IFGSM

def peak():
    return int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])

torch.set_num_threads(2)
net, lq = SRVGGNetCompact(num_conv=16, upscale=4), torch.rand(1, 3, 256, 256)
target, settings = torch.rand(1, 3, 1024, 1024), {'memory': float(sys.argv[1])} if sys.argv[1] != 'whole' else {}
IFGSM(steps=1, objective='ground_truth')(net, lq[..., :16, :16], target[..., :64, :64])
open('/proc/self/clear_refs', 'w').write('5')
before = peak()
IFGSM(steps=1, objective='ground_truth', **settings)(net, lq, target)
print((peak() - before) / 2**20)
"""


def test_memory_stays_within_the_bound():
    if not os.access('/proc/self/clear_refs', os.W_OK):
        pytest.skip('needs to reset the peak of a process, which only Linux lets it')

    def peak(setting):
        # The threshold returns freed memory at once; otherwise the allocator's caching adds to the peak.
        run = subprocess.run(
            [sys.executable, '-c', PEAK, setting],
            capture_output=True,
            text=True,
            env={**os.environ, 'MALLOC_MMAP_THRESHOLD_': '65536'},
        )
        assert run.returncode == 0, run.stderr
        return float(run.stdout.split()[-1])

    # Images, target, output and gradients come on top of the bound: the large ones take 12 MiB each.
    assert peak('0.1') < 0.1 + 0.06
    assert peak('whole') > 0.25


def test_memory_is_that_of_the_gate_in_force():
    net = defend(Gather)(defense={'mask_samples': 8, 'classifier': {'threshold': 0.0}}).eval()
    lq, seen = torch.rand(1, 3, 128, 128), []
    net.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[-1]))
    IFGSM(steps=1, memory=0.005, gate='always')(net, lq)
    always = min(seen[-4:])
    seen.clear()
    IFGSM(steps=1, memory=0.005)(net, lq)
    assert always < min(seen[-4:])


@pytest.mark.parametrize('net', [nn.Upsample(scale_factor=1.5), nn.AvgPool2d(2)], ids=['1.5', '0.5'])
def test_tiles_refuse_networks_of_other_scales(net):
    with pytest.raises(ValueError, match='only networks that upscale by an integer can work in tiles'):
        PGD(steps=1, tile=8)(net, torch.rand(1, 3, 24, 24))
    assert PGD(steps=1)(net, torch.rand(1, 3, 24, 24)).shape == (1, 3, 24, 24)


def test_tile_within():
    net, lq = Gather(), torch.rand(1, 3, 400, 400)
    assert tile_within(net, lq, memory=4) is None
    small, large = (tile_within(net, lq, memory, overlap=2) for memory in (0.002, 0.008))
    assert small % 8 == large % 8 == 0 and 1.5 * small < large < 2.5 * small
    with pytest.raises(ValueError, match='memory: 1e-06 GiB is too little for a tile of 8 pixels .* it takes 0.'):
        tile_within(net, lq, memory=1e-6)


def test_noise_has_the_size_of_the_attacks(photo):
    grey = torch.full_like(photo, 0.5)
    assert ((RandomNoise(eps=4)(nn.Identity(), grey) - grey).abs() * 255 - 4).abs().max() < 1e-3
    assert L2().size(RandomNoise(eps=4, norm='L2')(nn.Identity(), grey) - grey).item() * 255 == pytest.approx(4, 1e-4)
