"""SpectrumL1Loss against SciPy and finite differences, and for what it is there."""

import numpy as np
import pytest
import scipy.fft
import torch
from basicsr.losses import build_loss
from skimage import data
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from rsr_basicsr.losses.spectrum_loss import grid
from rsr_basicsr.ops.local_contrast import LocalContrast
from rsr_basicsr.ops.local_spectrum import LocalSpectrum


def photo(dtype=torch.float64):
    return torch.from_numpy(data.astronaut()[40:104, 180:244] / 255.0).permute(2, 0, 1)[None].to(dtype)


def hatched(x, levels):
    rows = torch.arange(x.shape[-2]).view(-1, 1) // 2 % 2 * 2 - 1
    return (x + levels / 255 * rows).clamp(0, 1)


def checkered(x, levels):
    rows, columns = torch.arange(x.shape[-2]).view(-1, 1), torch.arange(x.shape[-1])
    return (x + levels / 255 * ((rows + columns) % 2 * 2 - 1)).clamp(0, 1)


def spectrum_by_definition(x, y):
    """Mean of |ln((c + f) / (r + f))| / 2 over windows and bands, by SciPy's DCT of each block."""

    def energies(image):
        grey = np.einsum('i,ihw->hw', [0.2989, 0.587, 0.114], image[0].numpy()) * 255
        grey = np.pad(grey, 4, mode='reflect')
        rows, columns = ((side - 8) // 4 + 1 for side in grey.shape)
        blocks = [[grey[4 * i : 4 * i + 8, 4 * j : 4 * j + 8] for j in range(columns)] for i in range(rows)]
        squared = scipy.fft.dctn(np.array(blocks), axes=(2, 3), norm='ortho') ** 2
        windows = np.lib.stride_tricks.sliding_window_view(squared, (3, 3), axis=(0, 1)).mean((-1, -2))
        return windows.reshape(*windows.shape[:2], 64)[..., 1:]

    return np.abs(np.log((energies(x) + 50) / (energies(y) + 50))).mean() / 2


def grid_by_definition(x, y, scale):
    error = (x - y)[0].mean(0).numpy()
    places = error.reshape(error.shape[0] // scale, scale, error.shape[1] // scale, scale).transpose(0, 2, 1, 3)
    places = places - places.mean((2, 3), keepdims=True)
    return np.abs(np.lib.stride_tricks.sliding_window_view(places, (5, 5), axis=(0, 1)).mean((-1, -2))).mean()


@pytest.mark.parametrize('change', [lambda y: hatched(y, 6), lambda y: gaussian_blur(y, 7, 1.5)])
def test_spectrum_and_grid_against_their_definitions(change):
    y = photo()
    x = change(y)
    expected = spectrum_by_definition(x, y)
    assert expected > 0.02 and LocalSpectrum()(x, y).item() == pytest.approx(expected, rel=1e-6)
    assert grid(x, y, 4).item() == pytest.approx(grid_by_definition(x, y, 4), rel=1e-6)


def test_a_checkerboard_does_not_stand_in_for_texture():
    y = photo()
    blurred = gaussian_blur(y, 7, 1.5)
    filled = [checkered(blurred, levels) for levels in (1, 2, 3, 4)]
    contrast = [LocalContrast()(x, y).item() for x in (blurred, *filled)]
    spectrum = [LocalSpectrum()(x, y).item() for x in (blurred, *filled)]
    assert min(contrast[1:]) < contrast[0] - 0.02  # two bands take it for detail
    assert min(spectrum[1:]) > spectrum[0] - 0.02


def test_is_the_sum_of_its_terms():
    x, y = hatched(photo(), 6), photo()
    loss = build_loss({'type': 'SpectrumL1Loss', 'spectrum_weight': 0.2, 'grid_weight': 7, 'loss_weight': 3.0})(x, y)
    expected = 3 * ((x - y).abs().mean() + 0.2 * LocalSpectrum()(x, y).mean() + 7 * grid(x, y, 4))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    l1 = build_loss({'type': 'SpectrumL1Loss', 'spectrum_weight': 0, 'grid_weight': 0})(x, y)
    assert l1.item() == F.l1_loss(x, y).item()


def test_blur_and_hatching_cost_more_than_a_shift_of_the_same_error():
    y = photo() / 2
    blurred = gaussian_blur(y, 7, 1.5)
    error = F.l1_loss(blurred, y)
    striped, shifted = hatched(y + 0.2, 255 * error.item()) - 0.2, y + error
    loss = build_loss({'type': 'SpectrumL1Loss', 'grid_weight': 0})
    assert loss(shifted, y).item() == pytest.approx(error.item(), rel=1e-3)
    assert loss(blurred, y) > 1.5 * error and loss(striped, y) > 1.2 * error


def test_gradient_against_finite_differences():
    y = photo()
    x = (y + torch.from_numpy(np.random.default_rng(0).normal(0, 0.05, y.shape))).requires_grad_()
    loss = build_loss({'type': 'SpectrumL1Loss', 'spectrum_weight': 1.0})
    (gradient,) = torch.autograd.grad(loss(x, y), x)
    direction = torch.from_numpy(np.random.default_rng(1).standard_normal(x.shape))
    with torch.no_grad():
        step = 1e-6
        difference = (loss(x + step * direction, y) - loss(x - step * direction, y)).item() / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(difference, rel=1e-3)


def test_negative_weights_are_refused():
    with pytest.raises(ValueError, match='spectrum_weight must not be negative, got -1'):
        build_loss({'type': 'SpectrumL1Loss', 'spectrum_weight': -1})
