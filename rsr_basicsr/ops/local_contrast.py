"""Local contrast difference: a full-reference measure of sharpness that needs no weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.transforms.functional import rgb_to_grayscale

_BANDS = 2  # octaves below the finest details, of width 1 and 2 pixels
_WINDOW, _WINDOW_SIDE = 1.5, 11  # in which contrast is local, in pixels
_FLOOR = 50.0  # squared grey levels: contrast below about 7 levels is not visible


class LocalContrast(nn.Module):
    """How much the contrast of fine details differs from that of a reference, wherever the details are.

    The images are split into two band-pass octaves; in each, local contrast is the mean square in a Gaussian window.
    The distance is the mean of ``|ln((c + f) / (r + f))| / 2`` over pixels and octaves, with the contrasts ``c`` and
    ``r`` of the two images and a floor ``f``: 0.1 means that contrasts differ by 10 %. It punishes blur, as missing
    contrast, and noise or hatching, as surplus contrast, but not details at wrong places.

    Fidelity measures cannot serve here: HaarPSI, MDSI, GMSD, VIF, FSIM and DSS rate a network the better the blurrier
    it is, as the mean squared error does. docs/benchmark.md compares them with LPIPS.

    Shape:
        output, reference: (B, 3, H, W) in [0, 1], sides of at least 11 pixels -> (B,).

    Examples:
        >>> image = torch.rand(1, 3, 32, 32)
        >>> blurred = F.avg_pool2d(image, 5, stride=1, padding=2)
        >>> bool(LocalContrast()(blurred, image) > LocalContrast()(image, image))
        True
    """

    def forward(self, output: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Distance per sample, (B,)."""
        ratios = [
            ((c + _FLOOR) / (r + _FLOOR)).log().abs().flatten(1).mean(1) / 2
            for c, r in zip(_contrasts(output), _contrasts(reference))
        ]
        return torch.stack(ratios).mean(0)


def _contrasts(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """Local contrast in squared grey levels, (B, 1, H, W), per octave."""
    base = rgb_to_grayscale(images) * 255
    for octave in range(_BANDS):
        sigma = 2.0**octave
        low = _blur(base, 2 * int(3 * sigma) + 1, sigma)
        yield _blur((base - low).square(), _WINDOW_SIDE, _WINDOW)
        base = low


def _blur(images: torch.Tensor, side: int, sigma: float) -> torch.Tensor:
    """Gaussian blur, reflecting at the border, as torchvision's ``gaussian_blur``.

    By sums of shifted images: 20 times as fast on a CPU as a convolution of one channel, which counts in a loss.
    """
    reach = side // 2
    weights = torch.linspace(-reach, reach, side, dtype=torch.float64).square().div(-2 * sigma**2).exp()
    weights = weights / weights.sum()
    height, width = images.shape[-2:]
    padded = F.pad(images, [reach] * 4, mode='reflect')
    rows = sum(weight * padded[..., shift : shift + height, :] for shift, weight in enumerate(weights.tolist()))
    return sum(weight * rows[..., shift : shift + width] for shift, weight in enumerate(weights.tolist()))
