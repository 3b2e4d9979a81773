"""A classifier of attacked images by statistics of their noise."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from rsr_basicsr.archs.classifier import SampleClassifier, constant, mirrored
from rsr_basicsr.archs.noise_statistics import FEATURES, SMALLEST, block_histograms, residual_statistics


@ARCH_REGISTRY.register()
class StatisticsClassifier(SampleClassifier):
    """Statistics of small blocks and of the noise in flat places, and two linear layers on them.

    The paper's classifier pools the magnitudes of one spectrum of the whole image. This one keeps, for each
    frequency and colour axis, how the magnitudes are distributed over the image: flat blocks without noise tell a
    clean image from one whose every pixel was moved, and how the tails fall off tells the noise of a sensor from
    the sign of a gradient. Where the image is flat, the differences of neighbouring pixels show the same without the
    sums of a transform, and how colours and neighbours go together. All of it is summed at native resolution, and
    means the same in an image of any size.

    Args:
        num_feat: width of the hidden layer.
        dropout: of the statistics and of the hidden layer, in training.
        weights: a file with its state dict, or ``builtin``; None leaves it untrained.

    Shape:
        (B, 3, H, W) in [0, 1], of any size -> logits (B, 2).
    """

    band = 2**18  # pixels that are worked on at once; larger images are taken in bands of rows

    def __init__(self, num_feat: int = 96, dropout: float = 0.3, weights: str | None = None):
        super().__init__()
        self.mean = constant(torch.full((FEATURES,), 0.3))
        self.spread = constant(torch.full((FEATURES,), 0.2))
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(FEATURES, num_feat),
            nn.LeakyReLU(0.2),
            nn.Dropout(dropout),
            nn.Linear(num_feat, 2),
        )
        self.take(weights)

    @torch.no_grad()
    def prepare(self, batches: Iterable[torch.Tensor]) -> None:
        """Shift and scale the features by what they are in some images, once, before the training.

        Args:
            batches: images, (B, 3, H, W) each.
        """
        features = torch.cat([self.features(x) for x in batches])
        self.mean.copy_(features.mean(dim=0))
        self.spread.copy_(features.std(dim=0, correction=0) + 0.005)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The statistics, (B, 2910)."""
        x = mirrored(x, SMALLEST)
        return torch.cat([block_histograms(x, self.band), residual_statistics(x, self.band)], dim=1)

    def raw_logits(self, x):
        # In the precision of the image: counts of a large one are beyond half precision.
        features = (self.features(x) - self.mean.to(x.dtype)) / self.spread.to(x.dtype)
        return self.head(features.clamp(-6, 6).to(self.head[1].weight.dtype))
