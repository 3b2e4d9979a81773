"""Images that show whether what was made of a network computes the same."""

from __future__ import annotations

import cv2
import torch

from rsr_basicsr.archs.defense import Defense
from rsr_basicsr.data.sample_photos import EVALUATION

_SIZES = ((48, 64), (67, 45))  # pixels; unlike, and odd where a network takes that
_EPS = (0, 4, 8)  # of random signs on the photos, in 1/255


def example_images(
    multiple: int, size: tuple[int, int] | None = None, defense: Defense | None = None
) -> list[torch.Tensor]:
    """Photos, with noise and without: of two sizes, the first two together; or two of one size, one by one.

    Args:
        multiple: what the sides are multiples of.
        size: height and width in pixels; None for sizes of our own.
        defense: of each size there is one image that it takes for attacked and one that it does not, if there are
            such.

    Returns:
        (B, 3, H, W) in [0, 1] each.
    """
    if size is not None:
        return list(_unlike(size, defense).split(1))
    first, second = (tuple(-(-side // multiple) * multiple for side in sides) for sides in _SIZES)
    return [_unlike(first, defense), *_unlike(second, defense).split(1)]


def _unlike(size, defense):
    """The two candidates that a defence is most sure of, either way; (2, 3, H, W)."""
    candidates = _candidates(*size)
    if defense is None:
        return candidates[:2]
    with torch.no_grad():
        clean = torch.cat([defense.classifier.clean_probability(x[None]) for x in candidates])
    return candidates[[int(clean.argmax()), int(clean.argmin())]]


def _candidates(height, width):
    generator, found = torch.Generator().manual_seed(0), []
    for photo, (top, left) in EVALUATION.values():
        crop = cv2.resize(photo()[top : top + 256, left : left + 256], (width, height), interpolation=cv2.INTER_AREA)
        image = torch.from_numpy(crop).permute(2, 0, 1).float() / 255
        signs = torch.randint(0, 2, image.shape, generator=generator) * 2 - 1
        found += [((image + eps / 255 * signs).clamp(0, 1) * 255).round() / 255 for eps in _EPS]
    return torch.stack(found)
