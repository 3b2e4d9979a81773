"""The self-ensemble as a defence."""

from __future__ import annotations

from typing import cast

import torch

from rsr_basicsr.defenses.base import DEFENSE_REGISTRY, NetworkWrapper


@DEFENSE_REGISTRY.register()
class SelfEnsemble(NetworkWrapper):
    """The mean of the outputs for the eight flips and rotations of each image (Timofte et al., CVPR 2016).

    It costs eight passes.

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW) in [0, 1], in portrait and in landscape format.

    Shape:
        (B, 3, H, W) in [0, 1] -> as of ``net``.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Pass by pass, not as one batch of eight: a gate's decision on B images then fits each pass.
        outputs = (self._rotated(x, turns, flips) for turns in range(4) for flips in ([], [-1]))
        return cast(torch.Tensor, sum(outputs)) / 8

    def _rotated(self, x: torch.Tensor, turns: int, flips: list[int]) -> torch.Tensor:
        output = self.net(x.rot90(turns, (-2, -1)).flip(flips))
        return output.flip(flips).rot90(-turns, (-2, -1))
