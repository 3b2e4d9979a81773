"""Padding by reflection, by any number of pixels."""

from __future__ import annotations

import torch


def reflect_pad(x: torch.Tensor, left: int, right: int, top: int, bottom: int) -> torch.Tensor:
    """Mirror an image at its border pixels, to and fro where it is smaller than the padding.

    ``torch.nn.functional.pad`` refuses a padding as large as the image, which a small one meets soon.

    Args:
        x: (B, C, H, W).
        left, right, top, bottom: number of pixels.

    Returns:
        (B, C, top + H + bottom, left + W + right), a new tensor or ``x`` itself where there is nothing to pad.
    """
    for dim, before, after in ((-2, top, bottom), (-1, left, right)):
        if before or after:
            x = x.index_select(dim, _mirrored(before, x.shape[dim], after, x.device))
    return x


def _mirrored(before, length, after, device):
    """Which of ``length`` pixels stands at each place from ``-before`` to ``length + after``."""
    period = max(2 * (length - 1), 1)  # of a single pixel every mirror image is itself
    places = torch.arange(-before, length + after, device=device).remainder(period)
    return torch.minimum(places, period - places) if length > 1 else places
