"""A bound on the distance to bicubic upscaling as a defence."""

from __future__ import annotations

import torch
from torch import nn

from rsr_basicsr.attacks.checks import expect
from rsr_basicsr.defenses.base import DEFENSE_REGISTRY, NetworkWrapper
from rsr_basicsr.defenses.bicubic import bicubic_like


@DEFENSE_REGISTRY.register()
class ClipToBicubic(NetworkWrapper):
    """Clips the output to an interval around bicubic upscaling of the input.

    No attack moves the output further than ``2 * levels / 255`` plus its effect on bicubic upscaling. Where the output
    is clipped, the gradient is that of bicubic upscaling. The output may leave [0, 1].

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW) in [0, 1], of a whole scale s.
        levels: half the width of the interval in 1/255, from 0 to 255.

    Shape:
        (B, 3, H, W) in [0, 1] -> as of ``net``.

    Raises:
        ValueError: ``levels`` is out of range.
    """

    def __init__(self, net: nn.Module, *, levels: float = 8.0) -> None:
        super().__init__(net)
        self.levels = float(expect('levels in 1/255 units', levels, 0, 255))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output = self.net(x)
        base = bicubic_like(x, output)
        reach = self.levels / 255
        return output.to(base.dtype).clamp(base - reach, base + reach).to(output.dtype)
