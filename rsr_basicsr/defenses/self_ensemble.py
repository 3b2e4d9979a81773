"""The self-ensemble as a defence."""

from __future__ import annotations

import torch

from rsr_basicsr.defenses.base import DEFENSE_REGISTRY, NetworkWrapper


@DEFENSE_REGISTRY.register()
class SelfEnsemble(NetworkWrapper):
    """The mean over the eight flips and turns of each image, turned back (Timofte et al., CVPR 2016).

    It costs eight passes.

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW) in [0, 1], and upright images as well as lying ones.

    Shape:
        (B, 3, H, W) in [0, 1] -> as of ``net``.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Pass by pass, not as one batch of eight: a decision on B images then fits each pass.
        return sum(self._turned(x, turns, flips) for turns in range(4) for flips in ([], [-1])) / 8

    def _turned(self, x, turns, flips):
        output = self.net(x.rot90(turns, (-2, -1)).flip(flips))
        return output.flip(flips).rot90(-turns, (-2, -1))
