"""Local contrast difference: a full-reference measure of sharpness that needs no weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torchvision.transforms.functional import gaussian_blur, rgb_to_grayscale

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
        >>> blurred = gaussian_blur(image, 5)
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
        low = gaussian_blur(base, [2 * int(3 * sigma) + 1] * 2, [sigma] * 2)
        yield gaussian_blur((base - low).square(), [_WINDOW_SIDE] * 2, [_WINDOW] * 2)
        base = low
