"""Median randomised smoothing as a defence."""

from __future__ import annotations

import torch
from torch import nn

from rsr_basicsr.attacks.checks import expect
from rsr_basicsr.defenses.base import DEFENSE_REGISTRY, NetworkWrapper, in_full_precision


@DEFENSE_REGISTRY.register()
class MedianSmoothing(NetworkWrapper):
    """The median of the network's outputs for noisy copies of the image, per value (Chiang et al., NeurIPS 2020).

    The noise is Gaussian. Every call draws it per sample, in evaluation too, from torch's generator on the device of
    the images. The noisy copies are clamped to [0, 1].

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW) in [0, 1].
        sigma: standard deviation of the noise in 1/255, at least 0.
        copies: number of noisy copies; each costs a pass. For an even number the median is the mean of the two middle
            values.

    Shape:
        (B, 3, H, W) in [0, 1] -> as of ``net``.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, net: nn.Module, *, sigma: float = 4.0, copies: int = 8) -> None:
        super().__init__(net)
        self.sigma = float(expect('sigma in 1/255 units', sigma, 0, 255))
        self.copies = int(expect('copies', copies, 1, whole=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = torch.stack([self.net(self._noisy(x)) for _ in range(self.copies)])  # (copies, B, 3, sH, sW)
        ordered = outputs.sort(dim=0).values
        return (ordered[(self.copies - 1) // 2] + ordered[self.copies // 2]) / 2

    def _noisy(self, x: torch.Tensor) -> torch.Tensor:
        full = in_full_precision(x)
        noise = torch.randn(x.shape, dtype=full.dtype, device=x.device)  # randn_like depends on the memory layout
        return (full + self.sigma / 255 * noise).clamp(0, 1).to(x.dtype)
