"""The blend of a network with bicubic upscaling as a defence."""

from __future__ import annotations

import torch
from torch import nn

from rsr_basicsr.attacks.checks import expect
from rsr_basicsr.defenses.base import DEFENSE_REGISTRY, NetworkWrapper
from rsr_basicsr.defenses.bicubic import bicubic_like


@DEFENSE_REGISTRY.register()
class Blend(NetworkWrapper):
    """``bicubic(x) + alpha * (net(x) - bicubic(x))``: a network that is less sharp, or sharper.

    The blends of a network with different ``alpha`` tell how stable it is at a given sharpness. The output may leave
    [0, 1].

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW) in [0, 1], of a whole scale s.
        alpha: from 0, bicubic upscaling, over 1, the network itself, to at most 10.

    Shape:
        (B, 3, H, W) in [0, 1] -> as of ``net``.

    Raises:
        ValueError: ``alpha`` is out of range.
    """

    def __init__(self, net: nn.Module, *, alpha: float = 0.5) -> None:
        super().__init__(net)
        self.alpha = float(expect('alpha', alpha, 0, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output = self.net(x)
        base = bicubic_like(x, output)
        # torch.lerp is exact at both ends.
        return torch.lerp(base, output.to(base.dtype), self.alpha).to(output.dtype)
