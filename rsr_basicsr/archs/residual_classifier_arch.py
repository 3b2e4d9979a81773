"""A classifier of attacked images by high-pass residuals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn
from torch.nn import functional as F

from rsr_basicsr.archs.classifier import SampleClassifier, constant, mirrored, row_bands
from rsr_basicsr.ops.caching import any_size


class _BatchNorm(nn.Module):
    """Batch normalization whose running statistics are constants, see :func:`rsr_basicsr.archs.classifier.constant`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.running_mean, self.running_var = constant(torch.zeros(channels)), constant(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if any_size():
            scale = self.weight * (self.running_var + 1e-5).rsqrt()
            return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training)


@ARCH_REGISTRY.register()
class ResidualClassifier(SampleClassifier):
    """A small convolutional network on noise residuals, at native resolution.

    Learned high-pass filters remove the content (as in steganalysis, Fridrich and Kodovsky 2012; the filters sum to
    zero as in Bayar and Stamm 2016). A saturating function limits edges, three convolutions describe the patterns of
    the noise, and two linear layers classify their mean and standard deviation over the image. Unlike a pooled
    spectrum, this describes neighbourhoods of a few pixels, for any image size.

    Args:
        num_feat: channels of the first convolution; the next ones have 1.5 and 2 times as many.
        num_filters: number of high-pass filters.
        weights: a file with its state dict, or ``builtin``; None leaves it untrained.

    Shape:
        (B, 3, H, W) in [0, 1], of any size -> logits (B, 2).
    """

    saturation = 8.0  # grey levels at which a residual counts half
    smallest = 16  # pixels; smaller images are extended by mirroring
    band = 2**19  # pixels processed at once; larger images are processed in bands of rows
    margin = 16  # rows around a band: more than the receptive field, a multiple of 4

    def __init__(self, num_feat: int = 24, num_filters: int = 16, weights: str | Path | None = None) -> None:
        super().__init__()
        self.filters = nn.Parameter(torch.randn(num_filters, 3, 5, 5) * 0.2)
        widths = (num_filters, num_feat, num_feat * 3 // 2, num_feat * 2)
        self.body = nn.ModuleList(
            nn.Conv2d(narrow, wide, 3, stride, 1) for narrow, wide, stride in zip(widths, widths[1:], (1, 2, 2))
        )
        self.norms = nn.ModuleList(_BatchNorm(width) for width in widths[1:])
        self.head = nn.Sequential(nn.Linear(4 * num_feat, 64), nn.LeakyReLU(0.2), nn.Linear(64, 2))
        self.take(weights)

    def residuals(self, x: torch.Tensor) -> torch.Tensor:
        """High-pass residuals of images, (B, num_filters, H, W), saturated to (-1, 1)."""
        filters = self.filters - self.filters.mean(dim=(2, 3), keepdim=True)
        return F.softsign(F.conv2d(x.to(filters.dtype), filters * (255 / self.saturation), padding=2))

    def raw_logits(self, x: torch.Tensor) -> torch.Tensor:
        """As in the base class."""
        x = mirrored(x, self.smallest)
        in_bands = not any_size() and x.shape[-2] * x.shape[-1] > self.band and not torch.is_grad_enabled()
        mean, square = self._moments_in_bands(x) if in_bands else self._moments(self.patterns(x))
        spread = (square - mean.square()).clamp(min=1e-8).sqrt()
        return self.head(torch.cat([mean, spread], dim=1).to(self.filters.dtype))

    def patterns(self, x: torch.Tensor) -> torch.Tensor:
        """Output of the convolutions, (B, 2 num_feat, ceil(H / 4), ceil(W / 4))."""
        x = self.residuals(x)
        for layer, norm in zip(self.body, self.norms):
            x = F.leaky_relu(norm(layer(x)), 0.2)
        return x

    @staticmethod
    def _moments(patterns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and mean square over the image, in double precision: the variance is their difference."""
        patterns = patterns.double()
        return patterns.mean(dim=(2, 3)), patterns.square().mean(dim=(2, 3))

    def _moments_in_bands(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same in bands of rows, so that memory does not grow with the height of the image."""
        total: Any = 0
        square: Any = 0
        count = 0
        for top, bottom in row_bands(x, x.shape[-2], self.band, 4):
            start = max(0, top - self.margin)
            seen = self.patterns(x[..., start : bottom + self.margin, :])
            own = seen[..., (top - start) // 4 : -(-(bottom - start) // 4), :].double()
            total, square = total + own.sum(dim=(2, 3)), square + own.square().sum(dim=(2, 3))
            count += own.shape[-2] * own.shape[-1]
        return total / count, square / count
