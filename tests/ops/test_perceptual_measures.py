"""The perceptual measures against their papers' formulas, finite differences, and what they are for."""

import numpy as np
import pytest
import scipy.ndimage
import torch
from lpips_by_hand import by_definition, save_features, squeezenet_features
from skimage import data

from rsr_basicsr.ops.perceptual import MEASURES, SMALLEST, WEIGHT_FREE, perceptual_measure
from rsr_basicsr.utils.errors import WeightsError

pytest.importorskip('piq')
FREE = pytest.mark.parametrize('name', list(WEIGHT_FREE))


def photo(side=64, dtype=torch.float64):
    crop = data.astronaut()[40 : 40 + side, 180 : 180 + side]
    return torch.from_numpy(crop / 255.0).permute(2, 0, 1)[None].to(dtype)


def noisy(x, levels):
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, levels / 255, x.shape)).to(x.dtype)
    return (x + noise).clamp(0, 1)


def yiq(x):
    weights = [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]
    return np.einsum('ij,jhw->ihw', weights, x[0].numpy())


def gmsd_by_definition(x, y):
    """Xue et al. 2014: deviation of the similarity of Prewitt magnitudes of the halved luma."""

    def magnitude(image):
        luma = yiq(image)[0]
        halved = luma.reshape(luma.shape[0] // 2, 2, luma.shape[1] // 2, 2).mean((1, 3))
        kernel = np.array([[1, 0, -1]] * 3) / 3
        return np.hypot(*(scipy.ndimage.correlate(halved, k, mode='constant') for k in (kernel, kernel.T)))

    a, b, c = magnitude(x), magnitude(y), 170 / 255**2
    return ((2 * a * b + c) / (a**2 + b**2 + c)).std()


def haarpsi_by_definition(x, y, c=30, alpha=4.2):
    """Reisenhofer et al. 2018, equations 8 to 13, with colour."""
    halved = [
        channels.reshape(3, channels.shape[1] // 2, 2, channels.shape[2] // 2, 2).mean((2, 4))
        for channels in (yiq(x) * 255, yiq(y) * 255)
    ]

    def wavelets(luma):
        found = []
        for scale in (1, 2, 3):
            side = 2**scale
            kernel = np.ones((side, side)) / side
            kernel[side // 2 :] *= -1
            # The origin of an even kernel is above and to the left of its middle.
            found.append(
                [np.abs(scipy.ndimage.correlate(luma, k, mode='constant', origin=-1)) for k in (kernel, kernel.T)]
            )
        return found

    def similarity(a, b):
        return (2 * a * b + c) / (a**2 + b**2 + c)

    first, second = (wavelets(channels[0]) for channels in halved)
    weights = [np.maximum(first[2][k], second[2][k]) for k in (0, 1)]
    maps = [(similarity(first[0][k], second[0][k]) + similarity(first[1][k], second[1][k])) / 2 for k in (0, 1)]
    means = [
        [np.abs(scipy.ndimage.correlate(plane, np.full((2, 2), 0.25), mode='constant', origin=-1)) for plane in c[1:]]
        for c in halved
    ]
    maps.append((similarity(means[0][0], means[1][0]) + similarity(means[0][1], means[1][1])) / 2)
    weights.append((weights[0] + weights[1]) / 2)
    squashed = sum((w / (1 + np.exp(-alpha * m))).sum() for w, m in zip(weights, maps)) / sum(w.sum() for w in weights)
    return 1 - (np.log(squashed / (1 - squashed)) / alpha) ** 2


def test_gmsd_against_its_definition():
    x = photo()
    found = perceptual_measure('gmsd')(noisy(x, 10), x)
    assert found.item() == pytest.approx(gmsd_by_definition(noisy(x, 10), x), rel=1e-4)


def test_haarpsi_against_its_definition():
    x = photo()
    found = perceptual_measure('haarpsi')(noisy(x, 10), x)
    assert found.item() == pytest.approx(haarpsi_by_definition(noisy(x, 10), x), rel=1e-4)


def test_lpips_on_squeezenet_against_its_definition(tmp_path):
    pytest.importorskip('lpips')
    features = squeezenet_features()
    path = save_features(features, tmp_path / 'squeezenet.pth')
    pair = torch.rand(2, 2, 3, 64, 64)
    found = perceptual_measure('lpips_squeeze', path)(*pair)
    torch.testing.assert_close(found, by_definition(features, *pair, net='squeeze'), rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match="squeezenet.pth holds no features of torchvision's AlexNet; name another"):
        perceptual_measure('lpips', path)


def local_contrast_by_definition(x, y):
    """Mean of |ln((c + f) / (r + f))| / 2 over two octaves."""

    def contrasts(image):
        base = np.einsum('i,ihw->hw', [0.2989, 0.587, 0.114], image[0].numpy()) * 255
        for sigma in (1, 2):
            low = scipy.ndimage.gaussian_filter(base, sigma, mode='mirror', radius=3 * sigma)
            yield scipy.ndimage.gaussian_filter((base - low) ** 2, 1.5, mode='mirror', radius=5)
            base = low

    ratios = [np.abs(np.log((c + 50) / (r + 50))).mean() / 2 for c, r in zip(contrasts(x), contrasts(y))]
    return np.mean(ratios)


def test_local_contrast_against_its_definition():
    x = photo()
    y = noisy(x, 15)[..., :40]
    expected = local_contrast_by_definition(y, x[..., :40])
    assert expected > 0.1
    assert perceptual_measure('local_contrast')(y, x[..., :40]).item() == pytest.approx(expected, rel=1e-6)


@FREE
def test_zero_for_equal_images_and_growing(name):
    measure, x = perceptual_measure(name), photo(dtype=torch.float32)
    distances = [measure(noisy(x, levels), x).item() for levels in (0, 5, 10, 20)]
    assert distances[0] == pytest.approx(0, abs=1e-5)
    assert distances == sorted(distances) and distances[1] > 0.001


@FREE
def test_samples_are_independent(name):
    measure, x = perceptual_measure(name), photo(dtype=torch.float32)
    batch = torch.cat([noisy(x, 20), x, noisy(x, 5)])
    found = measure(batch, x.expand(3, -1, -1, -1))
    assert found.shape == (3,)
    torch.testing.assert_close(found, torch.cat([measure(one[None], x) for one in batch]), atol=1e-6, rtol=1e-5)


@FREE
def test_gradient_against_finite_differences(name):
    measure, y = perceptual_measure(name), photo()
    x = noisy(y, 15).clamp(0.02, 0.98).requires_grad_()
    (gradient,) = torch.autograd.grad(measure(x, y).sum(), x)
    direction = torch.from_numpy(np.random.default_rng(1).standard_normal(x.shape))
    with torch.no_grad():
        step = 1e-6
        difference = (measure(x + step * direction, y) - measure(x - step * direction, y)).item() / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(difference, rel=1e-3)


@FREE
def test_gradient_of_flat_areas_is_finite(name):
    y = photo(dtype=torch.float32)
    y[..., :32] = 1
    x = noisy(y, 10)
    x[..., :20] = 1
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(perceptual_measure(name)(x, y).sum(), x)
    assert gradient.isfinite().all() and gradient[..., 40:].abs().max() > 0


@FREE
def test_values_outside_the_range_are_clamped(name):
    y = photo(dtype=torch.float32)
    x = 1.5 * (noisy(y, 10) - 0.2)
    assert x.min() < 0 and x.max() > 1
    assert torch.equal(perceptual_measure(name)(x, y), perceptual_measure(name)(x.clamp(0, 1), y))


@FREE
def test_smallest_image(name):
    side = SMALLEST[name]
    x = photo(side)
    assert perceptual_measure(name)(noisy(x, 10), x).isfinite().all()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (('haarpsy',), "there is no perceptual measure 'haarpsy'; did you mean 'haarpsi'"),
        ((3,), 'there is no perceptual measure 3; known are lpips, lpips_squeeze, local_contrast'),
        (('gmsd', 'a.pth'), 'backbone: a.pth is for lpips and lpips_squeeze; gmsd has no weights'),
    ],
)
def test_measure_exception(arguments, message):
    with pytest.raises(ValueError, match=message):
        perceptual_measure(*arguments)


def test_damaged_or_missing_files(tmp_path):
    pytest.importorskip('lpips')
    (tmp_path / 'text.pth').write_text('no weights')
    for file, message in (('text.pth', 'is damaged'), ('none.pth', 'does not exist')):
        with pytest.raises(WeightsError, match=message):
            perceptual_measure('lpips_squeeze', tmp_path / file)


@FREE
def test_without_the_package(name, monkeypatch):
    from rsr_basicsr.ops.perceptual import forget_measures

    forget_measures()
    monkeypatch.setitem(__import__('sys').modules, 'piq', None)
    with pytest.raises(ValueError, match=f'the measure {name} needs the package piq; install the extra metrics'):
        perceptual_measure(name)


def test_not_a_number_is_said():
    x = photo()
    with pytest.raises(ValueError, match='values that are not numbers'):
        perceptual_measure('haarpsi')(x * torch.nan, x)


def test_every_measure_has_its_smallest_size():
    assert set(SMALLEST) == set(MEASURES)
