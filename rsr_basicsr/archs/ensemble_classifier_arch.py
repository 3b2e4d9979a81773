"""The classifier that comes with the package: two that look at different things, and agree."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from rsr_basicsr.archs.classifier import SampleClassifier
from rsr_basicsr.archs.residual_classifier_arch import ResidualClassifier
from rsr_basicsr.archs.statistics_classifier_arch import StatisticsClassifier


@ARCH_REGISTRY.register()
class EnsembleClassifier(SampleClassifier):
    """The mean of the logits of a :class:`StatisticsClassifier` and a :class:`ResidualClassifier`.

    They err on different images, and the mean on fewer than either. In training each sees every other image of a
    batch, so that neither learns to lean on the other, and a step costs no more than one of them.

    Args:
        num_feat: width of the hidden layer of the first one.
        weights: a file with its state dict, or ``builtin``; None leaves it untrained.

    Shape:
        (B, 3, H, W) in [0, 1], of any size -> logits (B, 2).
    """

    def __init__(self, num_feat: int = 96, weights: str | None = None):
        super().__init__()
        self.members = nn.ModuleList([StatisticsClassifier(num_feat), ResidualClassifier()])
        self.take(weights)

    def prepare(self, batches: Iterable[torch.Tensor]) -> None:
        """As :meth:`StatisticsClassifier.prepare`."""
        self.members[0].prepare(batches)

    def raw_logits(self, x):
        count = len(self.members)
        if not self.training or len(x) < count:
            return sum(member.raw_logits(x) for member in self.members) / count
        found = [member.raw_logits(x[first::count]) for first, member in enumerate(self.members)]
        logits = found[0].new_empty(len(x), found[0].shape[1])
        for first, each in enumerate(found):
            logits[first::count] = each
        return logits
