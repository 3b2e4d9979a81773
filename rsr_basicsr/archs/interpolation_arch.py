"""Upscaling by interpolation, a baseline for networks."""

from __future__ import annotations

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from rsr_basicsr.ops.resize import upscaled

MODES = ('nearest', 'bilinear', 'bicubic')


@ARCH_REGISTRY.register()
class Interpolation(nn.Module):
    """Nearest, bilinear or bicubic interpolation, as a network without parameters.

    Args:
        scale: factor of the upscaling.
        mode: ``nearest``, ``bilinear`` or ``bicubic``.

    Raises:
        ValueError: unknown mode.

    Shape:
        (B, C, H, W) in [0, 1] -> (B, C, scale*H, scale*W); bicubic may slightly leave [0, 1].
    """

    def __init__(self, scale: int = 4, mode: str = 'bicubic') -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f'mode must be one of {", ".join(MODES)}, got {mode!r}')
        self.scale, self.mode = scale, mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Upscale ``x``."""
        return upscaled(x, self.scale, self.mode)

    def extra_repr(self) -> str:
        return f'scale={self.scale}, mode={self.mode}'
