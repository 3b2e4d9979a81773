"""The input transforms among the baseline defences against independent implementations."""

import io
import math

import cv2
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import torch
from basicsr.utils import DiffJPEG
from defense_cases import AS_IT_IS, SIZES, seeded
from PIL import Image
from skimage.restoration import denoise_tv_chambolle

from rsr_basicsr.archs import RandomFrequencyMask
from rsr_basicsr.defenses import (
    JPEG,
    BitDepth,
    Gaussian,
    LowPass,
    Median,
    MedianSmoothing,
    RandomResizePad,
    SelfEnsemble,
    TotalVariation,
)


def pixels(x):
    """(1, 3, H, W) in [0, 1] -> uint8 (H, W, 3)."""
    return (x[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


@SIZES
@pytest.mark.parametrize('quality', [10, 75, 100])
def test_jpeg_against_reference(photo, size, quality):
    x = photo[..., : size[0], : size[1]]
    file = io.BytesIO()
    Image.fromarray(pixels(x)).save(file, 'JPEG', quality=quality)
    expected = np.asarray(Image.open(file)).astype(int)
    found = JPEG(AS_IT_IS, quality=quality)(x)
    levels = found * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    difference = np.abs(pixels(found).astype(int) - expected)
    assert difference.mean() < 0.5 and difference.max() <= 8  # decoders may round differently


def test_jpeg_of_a_batch_against_opencv(photo):
    x = torch.cat([photo, photo.flip(-1), photo.roll(5, 1)])[..., :40, :48]
    found = JPEG(AS_IT_IS, quality=30)(x)
    for one, coded in zip(x.split(1), found.split(1)):
        code = cv2.imencode('.jpg', cv2.cvtColor(pixels(one), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 30])[1]
        assert np.array_equal(pixels(coded), cv2.cvtColor(cv2.imdecode(code, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))


@pytest.mark.parametrize('quality', [30, 90])
def test_the_gradient_through_jpeg_is_that_of_the_surrogate(photo, quality):
    x, direction = photo[..., :32, :48].clone().requires_grad_(), torch.randn(1, 3, 32, 48)
    found, expected = (
        torch.autograd.grad((coded * direction).sum(), x)[0]
        for coded in (JPEG(AS_IT_IS, quality=quality)(x), DiffJPEG(differentiable=True)(x, quality))
    )
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected)


def test_the_surrogate_of_jpeg_does_not_affect_other_instances():
    x = torch.rand(1, 3, 16, 16, requires_grad=True)
    other = DiffJPEG(differentiable=False)
    tables = [(p, p.device, p.requires_grad) for p in other.parameters()]
    JPEG(AS_IT_IS).to(torch.float64)(x).sum().backward()
    assert all(
        p.requires_grad is asks and p.device == device and p.dtype == torch.float32 and p.grad is None
        for p, device, asks in tables
    )


@pytest.mark.parametrize('bits', [1, 5, 8])
def test_bit_depth_rounds_to_levels(bits):
    x, levels = torch.rand(2, 3, 9, 12), 2**bits - 1
    found = BitDepth(AS_IT_IS, bits=bits)(x).numpy()
    np.testing.assert_allclose(found, np.floor(x.numpy() * levels + 0.5) / levels, atol=1e-6)
    assert len(np.unique(found)) <= 2**bits


@SIZES
@pytest.mark.parametrize('filter_size', [3, 5, 19])  # the largest reaches further than the smallest image
def test_median_filter(size, filter_size):
    x = torch.rand(2, 3, *size)
    expected = scipy.ndimage.median_filter(x.numpy(), size=(1, 1, filter_size, filter_size), mode='mirror')
    assert np.array_equal(Median(AS_IT_IS, size=filter_size)(x).numpy(), expected)


@SIZES
@pytest.mark.parametrize('sigma', [0.05, 1.0, 3.3])
def test_gaussian_blur(size, sigma):
    x = torch.rand(2, 3, *size)
    expected = scipy.ndimage.gaussian_filter(x.double().numpy(), (0, 0, sigma, sigma), mode='mirror', truncate=4)
    np.testing.assert_allclose(Gaussian(AS_IT_IS, sigma=sigma)(x).numpy(), expected, atol=1e-5)


def test_total_variation_denoises_each_image(photo):
    x = torch.cat([photo, torch.rand_like(photo)])[..., :20, :31]
    found = TotalVariation(AS_IT_IS, weight=0.1)(x)
    for one, denoised in zip(x, found):
        expected = denoise_tv_chambolle(one.permute(1, 2, 0).numpy(), weight=0.1, channel_axis=2)
        np.testing.assert_allclose(denoised.permute(1, 2, 0).numpy(), expected, atol=1e-6)
    steps = [(y.diff(dim=-1).abs().sum() + y.diff(dim=-2).abs().sum()).item() for y in (found, x)]
    assert steps[0] < 0.8 * steps[1]


@pytest.mark.parametrize('cls', [BitDepth, TotalVariation])
def test_gradient_of_the_identity(cls):
    x, direction = torch.rand(1, 3, 9, 12, requires_grad=True), torch.randn(1, 3, 9, 12)
    assert torch.equal(torch.autograd.grad((cls(AS_IT_IS)(x) * direction).sum(), x)[0], direction)


@pytest.mark.parametrize('cls', [Median, Gaussian, LowPass, RandomResizePad, SelfEnsemble, MedianSmoothing])
def test_gradients_of_their_own(cls):
    x = (0.2 + 0.6 * torch.rand(1, 2, 5, 6, dtype=torch.float64)).requires_grad_()
    net = cls(AS_IT_IS)
    if isinstance(net, MedianSmoothing):
        net.sigma = 2.0
    assert torch.autograd.gradcheck(lambda y: seeded(3, net, y), x, eps=1e-7, atol=1e-5, fast_mode=True)


@pytest.mark.parametrize('keep_radius', [(0.43, 0.50), (0.0, 0.3), (0.2, 0.2)])
@pytest.mark.parametrize('size', [(8, 8), (24, 33), (48, 48)])
def test_low_pass_keeps_as_much_as_the_random_mask(keep_radius, size):
    kept = LowPass(AS_IT_IS, keep_radius=keep_radius)(scipy_idct(torch.ones(1, 1, *size)))
    kept = scipy.fft.dctn(kept.numpy(), norm='ortho', axes=(-2, -1))[0, 0]
    np.testing.assert_allclose(kept, kept.round(), atol=1e-4)
    kept = kept.round().astype(bool)
    masks = RandomFrequencyMask(keep_radius).draw(torch.zeros(1500, 1, *size)).sum((1, 2, 3)).double()
    assert abs(kept.sum() - masks.mean()) <= 0.5 + 4 * masks.std() / math.sqrt(len(masks))
    distance = np.hypot(*np.mgrid[: size[0], : size[1]])
    assert distance[kept].max() <= distance[~kept].min() + 1e-6


def scipy_idct(X):
    return torch.from_numpy(scipy.fft.idctn(X.numpy(), norm='ortho', axes=(-2, -1)))


def test_low_pass_does_not_change_what_it_keeps(photo):
    x = photo[..., :37, :50]
    before, after = (scipy.fft.dctn(y.numpy(), norm='ortho', axes=(-2, -1)) for y in (x, LowPass(AS_IT_IS)(x)))
    distance = np.hypot(*np.mgrid[:37, :50])
    low, high = distance < 0.55 * distance.max(), distance > 0.75 * distance.max()
    np.testing.assert_allclose(after[..., low], before[..., low], atol=1e-4)
    np.testing.assert_allclose(after[..., high], 0, atol=1e-4)
