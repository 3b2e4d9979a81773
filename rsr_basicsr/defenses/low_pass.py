"""A fixed low-pass filter as a defence: the frequency mask without its randomness."""

from __future__ import annotations

import math

import torch
from torch import nn

from rsr_basicsr.defenses.base import DEFENSE_REGISTRY, InputTransform, expect_bounds
from rsr_basicsr.ops.caching import constant_tensor
from rsr_basicsr.ops.frequency import filter_dct, radial_distance


@DEFENSE_REGISTRY.register()
class LowPass(InputTransform):
    """Keeps the lowest DCT coefficients of each image, as many as the random mask keeps on average.

    The mask is :class:`rsr_basicsr.archs.RandomFrequencyMask` (Yue et al. 2021) with the same ``keep_radius``. Both
    pass the same share of white noise at any image size; they differ in the coefficients they keep. The result may
    overshoot [0, 1], as with the mask.

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW) in [0, 1].
        keep_radius: bounds of the uniform distribution of the random mask's radius, within [0, 1].

    Shape:
        (B, 3, H, W) in [0, 1] -> as of ``net``.

    Raises:
        ValueError: ``keep_radius`` is out of range.
    """

    def __init__(self, net: nn.Module, *, keep_radius: tuple[float, float] = (0.43, 0.50)) -> None:
        super().__init__(net)
        self.keep_radius = expect_bounds('keep_radius', keep_radius, 0, 1)

    def transform(self, x: torch.Tensor) -> torch.Tensor:
        return filter_dct(x, lowest(self.keep_radius, *x.shape[-2:], x.device))


@constant_tensor(maxsize=16)
def lowest(keep_radius: tuple[float, float], height: int, width: int, device: torch.device) -> torch.Tensor:
    """The coefficients to keep, bool (1, 1, H, W): those nearest to DC, at equal distance the upper ones.

    The result is cached: do not modify it.
    """
    distance = radial_distance(height, width).flatten()
    kept = torch.zeros(height * width, dtype=torch.bool)
    kept[distance.argsort(stable=True)[: round(mean_kept(keep_radius, height, width))]] = True
    return kept.view(1, 1, height, width).to(device)


def mean_kept(keep_radius: tuple[float, float], height: int, width: int) -> float:
    """The mean number of coefficients that the random mask keeps."""
    distance = radial_distance(height, width).double()
    low, high = keep_radius
    radius = distance / math.hypot(height, width)
    always = ((high - radius) / (high - low)).clamp(0, 1) if high > low else (radius <= low).double()
    by_chance = 1 - distance / max(math.hypot(height - 1, width - 1), 1)
    return (always + (1 - always) * by_chance).sum().item()
