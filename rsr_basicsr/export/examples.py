"""Images that verify that an export computes the same as the network."""

from __future__ import annotations

import cv2
import torch

from rsr_basicsr.archs.defense import Defense
from rsr_basicsr.data.sample_photos import EVALUATION

_SIZES = ((48, 64), (67, 45))  # pixels; different, and odd where the network supports it
_EPS = (0, 4, 8)  # strength of random signs added to the photos, in 1/255


def example_images(
    multiple: int, size: tuple[int, int] | None = None, defense: Defense | None = None
) -> list[torch.Tensor]:
    """Photos with and without noise: a batch of two and two single images of another size, or two of one size.

    Args:
        multiple: the sides are multiples of this.
        size: height and width in pixels; None for two built-in sizes.
        defense: if given, each size has one image that its classifier flags and one that it does not, if available.

    Returns:
        Tensors of shape (B, 3, H, W) in [0, 1].
    """
    if size is not None:
        return list(_pair(size, defense).split(1))
    first, second = ((-(-h // multiple) * multiple, -(-w // multiple) * multiple) for h, w in _SIZES)
    return [_pair(first, defense), *_pair(second, defense).split(1)]


def _pair(size: tuple[int, int], defense: Defense | None) -> torch.Tensor:
    """The candidates with the highest and the lowest P(clean), (2, 3, H, W)."""
    candidates = _candidates(*size)
    if defense is None:
        return candidates[:2]
    with torch.no_grad():
        clean = torch.cat([defense.classifier.clean_probability(x[None]) for x in candidates])
    return candidates[[int(clean.argmax()), int(clean.argmin())]]


def _candidates(height: int, width: int) -> torch.Tensor:
    """Photos with noise of each strength, (N, 3, H, W)."""
    generator, found = torch.Generator().manual_seed(0), []
    for photo, (top, left) in EVALUATION.values():
        crop = cv2.resize(photo()[top : top + 256, left : left + 256], (width, height), interpolation=cv2.INTER_AREA)
        image = torch.from_numpy(crop).permute(2, 0, 1).float() / 255
        signs = torch.randint(0, 2, image.shape, generator=generator) * 2 - 1
        found += [((image + eps / 255 * signs).clamp(0, 1) * 255).round() / 255 for eps in _EPS]
    return torch.stack(found)
