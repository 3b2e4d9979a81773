"""The parts that touch tensors directly, on the device of ``--device``: against scipy, or against the CPU."""

import pytest
import scipy.fft
import torch
from torch import nn

from rsr_basicsr import defend
from rsr_basicsr.archs import RandomFrequencyMask
from rsr_basicsr.archs.defense import build_classifier
from rsr_basicsr.attacks import APGD, FGSM, PGD, RandomNoise, Square
from rsr_basicsr.ops.frequency import dct2, filter_dct, idct2


@pytest.mark.parametrize('shape', [(2, 3, 48, 48), (1, 1, 37, 91), (1, 3, 800, 770)])
def test_dct_is_scipys(device, shape):
    x = torch.rand(shape)
    spectrum = dct2(x.to(device))
    assert spectrum.device.type == device.type
    expected = torch.from_numpy(scipy.fft.dctn(x.numpy(), axes=(-2, -1), norm='ortho'))
    torch.testing.assert_close(spectrum.cpu(), expected, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(idct2(spectrum).cpu(), x, atol=1e-5, rtol=1e-4)


def test_dct_is_full_precision_under_autocast(device):
    x = torch.rand(1, 3, 32, 32, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        spectrum = dct2(x)
    torch.testing.assert_close(spectrum, dct2(x), atol=1e-5, rtol=1e-5)


def test_mask_with_a_generator_of_the_cpu_is_the_same(device):
    mask, x = RandomFrequencyMask(), torch.rand(2, 3, 40, 56)
    on_cpu, on_device = (
        mask.draw(images, [torch.Generator().manual_seed(seed) for seed in (1, 2)]) for images in (x, x.to(device))
    )
    # A coefficient whose chance equals the number drawn for it may fall to either side.
    assert (on_cpu != on_device.cpu()).float().mean() < 1e-3
    expected = filter_dct(x, on_device.cpu())
    torch.testing.assert_close(mask.erase(x.to(device), on_device).cpu(), expected, atol=1e-5, rtol=1e-4)


def test_mask_draws_on_the_device(device):
    mask, x = RandomFrequencyMask(), torch.rand(2, 3, 40, 56, device=device)
    drawn = mask.draw(x)
    assert drawn.device.type == device.type and not torch.equal(drawn[0], drawn[1])
    assert 0.2 < drawn.mean() < 0.9


ATTACKS = [FGSM(eps=4), PGD(eps=4, steps=3), APGD(eps=4, steps=5), Square(eps=4, queries=5)]


@pytest.mark.parametrize('attack', ATTACKS, ids=lambda attack: type(attack).__name__)
def test_attack_stays_in_the_ball_and_beats_noise(device, attack):
    net = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)).to(device)
    lq = torch.rand(2, 3, 24, 24, device=device)
    attacked, noisy = attack(net, lq), RandomNoise(eps=4)(net, lq)
    assert attacked.device.type == device.type
    assert (attacked - lq).abs().max() * 255 < 4.01 and attacked.min() >= 0 and attacked.max() <= 1
    with torch.no_grad():
        effect, baseline = ((net(images) - net(lq)).square().mean() for images in (attacked, noisy))
    assert effect > baseline


def test_attack_with_a_seed_does_as_on_the_cpu(device):
    net, lq = nn.Conv2d(3, 3, 3, padding=1), torch.rand(1, 3, 16, 16)
    attack = PGD(eps=4, steps=3, seed=0)
    on_cpu = attack(net, lq)
    on_device = attack(net.to(device), lq.to(device)).cpu()
    # Signs of gradients near zero may differ; they move single values.
    assert ((on_cpu - on_device).abs() > 1e-4).float().mean() < 0.05


def test_classifier_says_the_same(device, photo):
    classifier = build_classifier({'weights': 'builtin'}).eval()
    with torch.no_grad():
        expected = classifier.clean_probability(photo)
        found = classifier.to(device).clean_probability(photo.to(device)).cpu()
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_defended_network_decides_and_masks(device, photo):
    net = defend(nn.Conv2d)(3, 3, 3, padding=1, defense={'gate': 'always', 'seed': 0}).eval()
    with torch.no_grad():
        expected, plain = net(photo), nn.Conv2d.forward(net, photo)
        found = net.to(device)(photo.to(device)).cpu()
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert (found - plain).abs().max() > 1e-3
