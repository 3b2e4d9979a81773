"""Reflection padding by any number of pixels."""

from __future__ import annotations

import torch


def reflect_pad(x: torch.Tensor, left: int, right: int, top: int, bottom: int) -> torch.Tensor:
    """Mirror an image at its border pixels, repeatedly if it is smaller than the padding.

    ``torch.nn.functional.pad`` refuses a padding as large as the image.

    Args:
        x: (B, C, H, W).
        left, right, top, bottom: number of pixels.

    Returns:
        (B, C, top + H + bottom, left + W + right), a new tensor, or ``x`` itself if there is nothing to pad.
    """
    for dim, before, after in ((-2, top, bottom), (-1, left, right)):
        if before or after:
            x = x.index_select(dim, _mirrored(before, x.shape[dim], after, x.device))
    return x


def _mirrored(before: int, length: int, after: int, device: torch.device) -> torch.Tensor:
    """Indices of the ``length`` pixels at the positions ``-before`` to ``length + after - 1``."""
    period = max(2 * (length - 1), 1)  # a single pixel is its own mirror image
    places = torch.arange(-before, length + after, device=device).remainder(period)
    return torch.minimum(places, period - places) if length > 1 else places
