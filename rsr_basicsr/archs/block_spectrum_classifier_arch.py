"""A classifier of attacked pictures by the spectra of small blocks at native resolution."""

from __future__ import annotations

from typing import Iterable, Optional

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn
from torch.nn import functional as F

from rsr_basicsr.archs.classifier import SampleClassifier, constant, mirrored
from rsr_basicsr.constants import constant_tensor
from rsr_basicsr.frequency import dct_basis


@constant_tensor(maxsize=8)
def _colour_axes(device, dtype):
    """Brightness, red against green, blue against green, in grey levels: noise of cameras and of JPEG differs there."""
    axes = ((1 / 3, 1 / 3, 1 / 3), (0.5, -0.5, 0.0), (0.0, -0.5, 0.5))
    return 255 * torch.tensor(axes, device=device, dtype=dtype).view(3, 3, 1, 1)


@ARCH_REGISTRY.register()
class BlockSpectrumClassifier(SampleClassifier):
    """Histograms of the DCT coefficients of overlapping blocks, and two linear layers on them.

    The paper's classifier pools the magnitudes of one spectrum of the whole picture. This one keeps, for each
    frequency and colour axis, how the magnitudes are distributed over the picture: flat blocks without noise tell a
    clean picture from one whose every pixel was moved, and how the tails fall off tells the noise of a sensor from
    the sign of a gradient. Block by block at native resolution, it means the same in a picture of any size.

    Args:
        num_feat: width of the hidden layer.
        dropout: of the histograms and of the hidden layer, in training.
        weights: a file with its state dict, or ``builtin``; None leaves it untrained.

    Shape:
        (B, 3, H, W) in [0, 1], of any size -> logits (B, 2).
    """

    blocks = ((8, 4), (4, 2))  # size and stride in pixels
    bins = 8  # of log2 of the magnitude: 0, 0.25, 0.75, 1.75, ... 31.75 grey levels
    smallest = 16  # pixels; smaller pictures are continued by their mirror images
    band = 2**18  # pixels that are worked on at once; larger pictures are taken in bands of rows

    def __init__(self, num_feat: int = 96, dropout: float = 0.3, weights: Optional[str] = None):
        super().__init__()
        features = sum(3 * (size**2 - 1) * self.bins for size, _ in self.blocks)
        self.mean = constant(torch.full((features,), 0.3))
        self.spread = constant(torch.full((features,), 0.2))
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(features, num_feat), nn.LeakyReLU(0.2),
                                  nn.Dropout(dropout), nn.Linear(num_feat, 2))
        self.take(weights)

    @torch.no_grad()
    def prepare(self, batches: Iterable[torch.Tensor]) -> None:
        """Shift and scale the features by what they are in some pictures, once, before the training.

        Args:
            batches: pictures, (B, 3, H, W) each.
        """
        features = torch.cat([self.features(x) for x in batches])
        self.mean.copy_(features.mean(dim=0))
        self.spread.copy_(features.std(dim=0, correction=0) + 0.005)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Square roots of the histograms, (B, 3 * 78 * bins): the share of the blocks in each bin."""
        x = F.conv2d(mirrored(x, self.smallest), _colour_axes(x.device, x.dtype))
        found = []
        for size, stride in self.blocks:
            reached, count = 0, 0
            for band in self._bands(x, size, stride):
                more, blocks = self._reached(band, dct_basis(size, x.device, x.dtype)[1:, None], stride)
                reached, count = reached + more, count + blocks
            share = reached / count
            padded = torch.cat([torch.ones_like(share[:1]), share, torch.zeros_like(share[:1])])
            found.append((padded[:-1] - padded[1:]).permute(1, 2, 0).flatten(1))
        # The square root makes the noise of a count the same whatever the count.
        return (torch.cat(found, dim=1).clamp(min=0) + 1e-4).sqrt()

    def raw_logits(self, x):
        # In the precision of the picture: counts of a large one are beyond half precision.
        features = (self.features(x) - self.mean.to(x.dtype)) / self.spread.to(x.dtype)
        return self.head(features.clamp(-6, 6).to(self.head[1].weight.dtype))

    def _bands(self, x, size, stride):
        """The picture, or where it is large and nothing asks for its gradient, bands of its rows."""
        height, width = x.shape[-2:]
        rows = max(64, self.band // width // stride * stride)  # block rows that begin in a band
        if x.requires_grad or height <= rows + size:
            return [x]
        return [x[..., top:top + rows + size - stride, :] for top in range(0, height - size + 1, rows)]

    def _reached(self, x, basis, stride):
        """How many blocks reach each bin but the first, (bins - 1, B, coefficients), and the number of blocks.

        A coefficient on its way from one bin to the next counts in part, so that there is a gradient.
        """
        c = F.conv2d(x.flatten(0, 1)[:, None], basis, stride=stride).flatten(2)
        level = (c.abs() + 0.25).log2() + 2
        up_to = torch.stack([level.clamp(max=k).sum(dim=2) for k in range(self.bins)])
        reached = up_to[1:] - up_to[:-1]  # the sums of (level - k).clamp(0, 1), in half the time
        return reached.view(self.bins - 1, x.shape[0], -1), c.shape[2]
