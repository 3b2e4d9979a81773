"""ContrastL1Loss against its formula and finite differences, and for what it is there."""

import numpy as np
import pytest
import torch
from basicsr.losses import build_loss
from skimage import data
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from rsr_basicsr.ops.local_contrast import LocalContrast


def photo(dtype=torch.float64):
    return torch.from_numpy(data.astronaut()[40:104, 180:244] / 255.0).permute(2, 0, 1)[None].to(dtype)


def hatched(x, levels):
    rows = torch.arange(x.shape[-2]).view(-1, 1) // 2 % 2 * 2 - 1
    return (x + levels / 255 * rows).clamp(0, 1)


def test_is_l1_plus_the_difference_in_contrast():
    x, y = hatched(photo(), 6), photo()
    loss = build_loss({'type': 'ContrastL1Loss', 'contrast_weight': 0.2, 'loss_weight': 3.0})(x, y)
    expected = 3 * ((x - y).abs().mean() + 0.2 * LocalContrast()(x, y).mean())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    l1 = build_loss({'type': 'ContrastL1Loss', 'contrast_weight': 0})(x, y)
    assert l1.item() == F.l1_loss(x, y).item()


def test_blur_and_hatching_cost_more_than_a_shift_of_the_same_error():
    y = photo() / 2
    blurred = gaussian_blur(y, 7, 1.5)
    error = F.l1_loss(blurred, y)
    striped, shifted = hatched(y + 0.2, 255 * error.item()) - 0.2, y + error
    loss = build_loss({'type': 'ContrastL1Loss'})
    assert loss(shifted, y).item() == pytest.approx(error.item(), rel=1e-6)
    assert loss(blurred, y) > 1.5 * error and loss(striped, y) > 1.2 * error


def test_gradient_against_finite_differences():
    y = photo()
    x = (y + torch.from_numpy(np.random.default_rng(0).normal(0, 0.05, y.shape))).requires_grad_()
    loss = build_loss({'type': 'ContrastL1Loss', 'contrast_weight': 1.0})
    (gradient,) = torch.autograd.grad(loss(x, y), x)
    direction = torch.from_numpy(np.random.default_rng(1).standard_normal(x.shape))
    with torch.no_grad():
        step = 1e-6
        difference = (loss(x + step * direction, y) - loss(x - step * direction, y)).item() / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(difference, rel=1e-3)


def test_negative_weights_are_refused():
    with pytest.raises(ValueError, match='contrast_weight must not be negative, got -1'):
        build_loss({'type': 'ContrastL1Loss', 'contrast_weight': -1})
