"""The baseline defences that draw at random or combine several outputs."""

import functools

import numpy as np
import pytest
import torch
from defense_cases import AS_IT_IS, honest, seeded
from torch import nn
from torch.nn import functional as F

from rsr_basicsr.defenses import MedianSmoothing, RandomResizePad, SelfEnsemble


def bilinear(scale):
    return functools.partial(F.interpolate, scale_factor=scale, mode='bilinear')


def test_self_ensemble_is_equivariant():
    net, x = SelfEnsemble(honest()), torch.rand(2, 3, 9, 14)
    for turn in (lambda y: y.flip(-1), lambda y: y.flip(-2), lambda y: y.mT, lambda y: y.rot90(1, (-2, -1))):
        torch.testing.assert_close(net(turn(x)), turn(net(x)))
        assert not torch.allclose(net.net(turn(x)), turn(net.net(x)), atol=1e-3)


def test_self_ensemble_is_the_mean_of_eight():
    seen = []
    weight = torch.arange(24.0).view(1, 1, 4, 6)

    def net(x):
        seen.append([*x.flatten().tolist(), x.shape[-1]])
        return x * (weight if x.shape == weight.shape else weight.mT)

    x = torch.rand(1, 1, 4, 6)
    array, w = x[0, 0].numpy(), weight[0, 0].numpy()
    turned = [w, w[::-1], w[:, ::-1], w[::-1, ::-1]]  # twice each: once by way of an upright image
    torch.testing.assert_close(SelfEnsemble(net)(x)[0, 0], torch.from_numpy(array * sum(turned) / 4))
    assert len(set(map(tuple, seen))) == 8


@pytest.mark.parametrize('copies', [1, 4, 5])
def test_median_smoothing_is_the_median_over_copies(copies):
    inner, x = honest(), torch.rand(2, 3, 9, 11)
    found = seeded(7, MedianSmoothing(inner, sigma=20, copies=copies), x)
    torch.manual_seed(7)
    noisy = [(x + 20 / 255 * torch.randn(x.shape)).clamp(0, 1) for _ in range(copies)]
    expected = np.median([inner(one).detach().numpy() for one in noisy], axis=0)
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-6)


def test_noise_has_the_given_deviation():
    noise = MedianSmoothing(AS_IT_IS, sigma=4, copies=1)(torch.full((1, 3, 100, 100), 0.5)) - 0.5
    assert noise.std().item() * 255 == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize('mode', ['nearest', 'bicubic'])
@pytest.mark.parametrize('scale, padding', [((1, 1), 8), ((1, 1), 0), ((1, 1), 30)])
def test_padding_alone_changes_nothing_away_from_the_border(photo, mode, scale, padding):
    net, x = nn.Upsample(scale_factor=3, mode=mode), photo[..., :21, :18].repeat(2, 1, 1, 1)
    output = RandomResizePad(net, scale=scale, padding=padding)(x)
    torch.testing.assert_close(output[..., 9:-9, 9:-9], net(x)[..., 9:-9, 9:-9], atol=1e-5, rtol=0)


@pytest.mark.parametrize('scale', [(1.0, 1.1), (1.4, 1.4), (0.6, 0.8)])
@pytest.mark.parametrize('times', [1, 2, 3])
def test_resizing_does_not_shift(scale, times):
    # A shift by half an output pixel raises or lowers a slope by at least 0.5 / times.
    height, width = 40, 51
    slope = (torch.arange(height)[:, None] + 2.0 * torch.arange(width)).expand(4, 3, height, width) / 200
    found, expected = (
        net(slope)[..., 8 * times : -8 * times, 8 * times : -8 * times] * 200
        for net in (RandomResizePad(bilinear(times), scale=scale), bilinear(times))
    )
    assert (found - expected).mean((1, 2, 3)).abs().max() < 0.02 / times
    assert (found - expected).abs().max() < 0.1


def test_random_resizing_is_drawn_for_each_sample_and_call(photo):
    net, x = RandomResizePad(honest()), photo[..., :30, :30].repeat(3, 1, 1, 1)
    first, second, again = seeded(1, net, x), net(x), seeded(1, net, x)
    assert torch.equal(first, again) and not torch.allclose(first, second)
    assert not torch.allclose(first[0], first[1]) and not torch.allclose(first[1], first[2])


def test_the_padded_size_is_fixed_and_even_if_the_image_is():
    seen = []
    net = RandomResizePad(lambda x: seen.append(tuple(x.shape)) or x)
    for _ in range(8):
        net(torch.rand(3, 3, 64, 80))
    assert set(seen) == {(3, 3, 80, 96)}


def test_fractional_scales_are_refused():
    with pytest.raises(ValueError, match='whole number'):
        RandomResizePad(nn.Upsample(scale_factor=1.5))(torch.rand(1, 3, 9, 9))
