"""The median filter as a defence."""

from __future__ import annotations

import torch
from torch import nn

from rsr_basicsr.attacks.checks import expect
from rsr_basicsr.defenses.base import DEFENSE_REGISTRY, InputTransform
from rsr_basicsr.defenses.padding import reflect_pad


@DEFENSE_REGISTRY.register()
class Median(InputTransform):
    """Replaces each value by the median of a square around it, per channel (Xu et al., NDSS 2018).

    The gradient goes to the pixel that holds the median.

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW) in [0, 1].
        size: side of the square in pixels, odd. Memory grows with ``size**2``.

    Shape:
        (B, 3, H, W) in [0, 1] -> as of ``net``.

    Raises:
        ValueError: ``size`` is even or too small.
    """

    def __init__(self, net: nn.Module, *, size: int = 3) -> None:
        super().__init__(net)
        self.size = int(expect('size', size, 3, whole=True))
        if self.size % 2 == 0:
            raise ValueError(f'expected size to be odd, got {size!r}; take {self.size - 1} or {self.size + 1}')

    def transform(self, x: torch.Tensor) -> torch.Tensor:
        return median_filter(x, self.size)


def median_filter(x: torch.Tensor, size: int) -> torch.Tensor:
    """Median filter over squares of an odd size, (B, C, H, W) -> (B, C, H, W); the border is mirrored."""
    padded = reflect_pad(x, *[size // 2] * 4)
    squares = padded.unfold(-2, size, 1).unfold(-2, size, 1)  # (B, C, H, W, size, size)
    return squares.flatten(-2).median(dim=-1).values
