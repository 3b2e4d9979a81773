"""A classifier of attacked images by statistics of their noise."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from rsr_basicsr.archs.classifier import SampleClassifier, constant, mirrored
from rsr_basicsr.archs.noise_statistics import FEATURES, SMALLEST, block_histograms, residual_statistics


@ARCH_REGISTRY.register()
class StatisticsClassifier(SampleClassifier):
    """Two linear layers on statistics of small blocks and of the noise in flat regions.

    The classifier of the paper pools the magnitudes of one spectrum of the whole image. This one keeps, per frequency
    and colour axis, the distribution of the magnitudes over the image: flat blocks without noise distinguish a clean
    image from one with every pixel perturbed, and the tails distinguish sensor noise from the sign of a gradient. In
    flat regions, high-pass residuals show the same without a transform, and the correlations of colours and neighbours.
    Computed at native resolution, independent of the image size.

    Args:
        num_feat: width of the hidden layer.
        dropout: probability for the statistics and for the hidden layer, in training.
        weights: a file with its state dict, or ``builtin``; None leaves it untrained.

    Shape:
        (B, 3, H, W) in [0, 1], of any size -> logits (B, 2).
    """

    band = 2**18  # pixels processed at once; larger images are processed in bands of rows

    def __init__(self, num_feat: int = 96, dropout: float = 0.3, weights: str | Path | None = None) -> None:
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
        """Set the shift and scale of the features from some images, once, before the training.

        Args:
            batches: of images, (B, 3, H, W) each.
        """
        features = torch.cat([self.features(x) for x in batches])
        self.mean.copy_(features.mean(dim=0))
        self.spread.copy_(features.std(dim=0, correction=0) + 0.005)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The statistics, (B, 2910)."""
        x = mirrored(x, SMALLEST)
        return torch.cat([block_histograms(x, self.band), residual_statistics(x, self.band)], dim=1)

    def raw_logits(self, x: torch.Tensor) -> torch.Tensor:
        """As in the base class."""
        # In the precision of the image: half precision cannot hold the counts of a large one.
        features = (self.features(x) - self.mean.to(x.dtype)) / self.spread.to(x.dtype)
        return self.head(features.clamp(-6, 6).to(next(self.head.parameters()).dtype))
