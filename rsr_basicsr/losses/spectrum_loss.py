"""A pixel loss that asks for sharpness: what keeps a network sharp while it learns to hold under attack."""

from __future__ import annotations

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import nn
from torch.nn import functional as F

from rsr_basicsr.ops.local_spectrum import LocalSpectrum

_CELLS = 5  # side of the window that a grid is measured in, in low-resolution pixels


@LOSS_REGISTRY.register()
class SpectrumL1Loss(nn.Module):
    """``L1 + spectrum_weight * LocalSpectrum + grid_weight * grid``, times ``loss_weight``; a ``pixel_opt``.

    L1 alone prefers a blurry output wherever details cannot be known, and the more so under attack. The second term
    punishes energy that is missing, as blur, and energy that is not in the target, as the hatching which attacks cause;
    see :class:`rsr_basicsr.ops.local_spectrum.LocalSpectrum`. The third, :func:`grid`, forbids a pattern with the
    period of a low-resolution pixel, which holds under every attack, since it does not depend on the input, and which
    LPIPS does not mind. No term needs weights.

    Args:
        loss_weight: factor of the sum.
        spectrum_weight: factor of the difference in the local spectrum.
        grid_weight: factor of the grid.
        scale: of the network, the period of the grid.

    Raises:
        ValueError: a weight is negative.
    """

    def __init__(
        self, loss_weight: float = 1.0, spectrum_weight: float = 0.25, grid_weight: float = 10.0, scale: int = 4
    ) -> None:
        super().__init__()
        for name, value in (('spectrum_weight', spectrum_weight), ('grid_weight', grid_weight)):
            if value < 0:
                raise ValueError(f'{name} must not be negative, got {value}')
        self.loss_weight, self.spectrum_weight, self.grid_weight = loss_weight, spectrum_weight, grid_weight
        self.scale = scale
        self.spectrum = LocalSpectrum()

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of RGB images (B, 3, H, W) in [0, 1], sides multiples of the scale and at least 20, a scalar."""
        loss = F.l1_loss(pred, target)
        if self.spectrum_weight:
            loss = loss + self.spectrum_weight * self.spectrum(pred, target).mean()
        if self.grid_weight:
            loss = loss + self.grid_weight * grid(pred, target, self.scale)
        return self.loss_weight * loss


def grid(pred: torch.Tensor, target: torch.Tensor, scale: int) -> torch.Tensor:
    """How strong a pattern with the period of a low-resolution pixel is, the mark of an upscaling by pixel shuffle.

    A low-resolution pixel covers ``scale * scale`` places. The error at each place, less the mean error of all places,
    is averaged over 5x5 low-resolution pixels: errors at edges cancel out, a pattern stays.

    Args:
        pred, target: (B, C, H, W) in [0, 1], sides multiples of the scale, at least 5 times as long.
        scale: the period.

    Returns:
        The mean magnitude, a scalar in [0, 1].
    """
    error = F.pixel_unshuffle((pred - target).mean(1, keepdim=True), scale)
    return F.avg_pool2d(error - error.mean(1, keepdim=True), _CELLS, stride=1).abs().mean()
