"""Fewer levels of brightness as a defence."""

from __future__ import annotations

import functools

import torch
from torch import nn

from rsr_basicsr.attacks.adaptive import BPDA
from rsr_basicsr.attacks.checks import expect
from rsr_basicsr.defenses.base import DEFENSE_REGISTRY, InputTransform


@DEFENSE_REGISTRY.register()
class BitDepth(InputTransform):
    """Rounds each value to the nearest of ``2**bits`` levels, from 0 to 1 (Xu et al., NDSS 2018).

    The gradient is that of the identity.

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW) in [0, 1].
        bits: a whole number from 1 to 8.

    Shape:
        (B, 3, H, W) in [0, 1] -> as of ``net``.

    Raises:
        ValueError: ``bits`` is out of range.
    """

    def __init__(self, net: nn.Module, *, bits: int = 5) -> None:
        super().__init__(net)
        self.bits = int(expect('bits', bits, 1, 8, whole=True))
        self.rounding = BPDA(functools.partial(to_levels, levels=2**self.bits))

    def transform(self, x: torch.Tensor) -> torch.Tensor:
        return self.rounding(x)


def to_levels(x: torch.Tensor, levels: int) -> torch.Tensor:
    """Round (B, C, H, W) to the nearest of ``levels`` values, evenly spaced from 0 to 1."""
    return (x.clamp(0, 1) * (levels - 1)).round() / (levels - 1)
