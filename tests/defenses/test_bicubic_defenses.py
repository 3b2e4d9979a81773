"""The defences relative to bicubic upscaling, against torch's own and closed forms."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rsr_basicsr.defenses import Blend, ClipToBicubic, build_defense

SCALES = pytest.mark.parametrize('scale', [1, 2, 3, 4])


def random_network(scale):
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 3, 3, padding=1), nn.Upsample(None, scale)
    )


def bicubic(x, scale):
    return F.interpolate(x, scale_factor=scale, mode='bicubic', align_corners=False)


class Brighter(nn.Module):
    """Bicubic upscaling x2 plus an offset per channel."""

    def __init__(self, *levels):
        super().__init__()
        self.levels = torch.tensor(levels).view(3, 1, 1)

    def forward(self, x):
        return bicubic(x, 2) + self.levels / 255


@SCALES
def test_blend_reaches_both_ends_exactly(scale):
    net, x = random_network(scale), torch.rand(2, 3, 9, 14)
    assert torch.equal(Blend(net, alpha=0)(x), bicubic(x, scale))
    assert torch.equal(Blend(net, alpha=1)(x), net(x))


@SCALES
@pytest.mark.parametrize('alpha', [0.25, 0.5, 1.4])
def test_blend_against_its_formula(scale, alpha):
    net, x = random_network(scale).double(), torch.rand(2, 3, 9, 14, dtype=torch.float64)
    expected = (1 - alpha) * bicubic(x, scale) + alpha * net(x)
    torch.testing.assert_close(Blend(net, alpha=alpha)(x), expected, rtol=0, atol=1e-14)


def test_blend_scales_the_residual():
    x = torch.rand(1, 3, 8, 8)
    moved = (Blend(Brighter(10.0, -20.0, 40.0), alpha=1.4)(x) - bicubic(x, 2)) * 255
    torch.testing.assert_close(moved.mean((0, 2, 3)), torch.tensor([14.0, -28.0, 56.0]))


def test_clip_cuts_off_at_its_levels():
    x = torch.rand(1, 3, 8, 8)
    net = Brighter(5.0, -8.5, 40.0)
    moved = (ClipToBicubic(net, levels=8)(x) - bicubic(x, 2)) * 255
    torch.testing.assert_close(moved.mean((0, 2, 3)), torch.tensor([5.0, -8.0, 8.0]))
    assert torch.equal(ClipToBicubic(net, levels=0)(x), bicubic(x, 2))
    assert torch.equal(ClipToBicubic(net, levels=41)(x), net(x))


@pytest.mark.parametrize('make', [lambda net: Blend(net, alpha=0.7), lambda net: ClipToBicubic(net, levels=50)])
def test_gradcheck(make):
    x = torch.rand(1, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    net = make(random_network(2).double())
    clipped = (net(x) != net.net(x)).double().mean()
    assert isinstance(net, Blend) or 0 < clipped < 1
    assert torch.autograd.gradcheck(net, x)


def test_gradient_where_the_clip_cuts_off():
    x = torch.rand(1, 3, 6, 6, requires_grad=True)
    (found,) = torch.autograd.grad(ClipToBicubic(Brighter(90.0, 90.0, 90.0))(x).square().sum(), x)
    (expected,) = torch.autograd.grad((bicubic(x, 2) + 8 / 255).square().sum(), x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    'options, sentence',
    [
        ({'type': 'Blend', 'alpha': -0.1}, 'expected alpha >= 0 and <= 10, got -0.1'),
        ({'type': 'Blend', 'alpha': float('nan')}, 'got nan'),
        ({'type': 'Blend', 'alpha': 'half'}, "got 'half'"),
        ({'type': 'ClipToBicubic', 'levels': 256}, 'expected levels in 1/255 units >= 0 and <= 255, got 256'),
        ({'type': 'Blend', 'alfa': 1}, "Blend has no argument 'alfa'; did you mean 'alpha'?"),
    ],
)
def test_build_exception(options, sentence):
    with pytest.raises(ValueError) as error:
        build_defense(options, nn.Identity())
    assert sentence in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('net', [nn.Upsample(scale_factor=1.5), nn.AvgPool2d(2), nn.Upsample(size=(16, 24))])
def test_a_network_without_a_whole_scale(net):
    with pytest.raises(ValueError, match='need a network that upscales by a whole factor'):
        Blend(net)(torch.rand(1, 3, 8, 8))
