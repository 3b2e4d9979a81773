"""The default classifier: the mean of a statistical and a convolutional one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from rsr_basicsr.archs.classifier import SampleClassifier
from rsr_basicsr.archs.residual_classifier_arch import ResidualClassifier
from rsr_basicsr.archs.statistics_classifier_arch import StatisticsClassifier


@ARCH_REGISTRY.register()
class EnsembleClassifier(SampleClassifier):
    """The mean of the logits of a :class:`StatisticsClassifier` and a :class:`ResidualClassifier`.

    They err on different images, and the mean errs on fewer than either. In training each sees every other image of a
    batch: so each learns on its own, and a step costs no more than one of them.

    Args:
        num_feat: width of the hidden layer of the statistical classifier.
        weights: a file with its state dict, or ``builtin``; None leaves it untrained.

    Shape:
        (B, 3, H, W) in [0, 1], of any size -> logits (B, 2).
    """

    def __init__(self, num_feat: int = 96, weights: str | Path | None = None) -> None:
        super().__init__()
        self.members = nn.ModuleList([StatisticsClassifier(num_feat), ResidualClassifier()])
        self.take(weights)

    def prepare(self, batches: Iterable[torch.Tensor]) -> None:
        """As :meth:`StatisticsClassifier.prepare`."""
        first: Any = self.members[0]
        first.prepare(batches)

    def raw_logits(self, x: torch.Tensor) -> torch.Tensor:
        """As in the base class."""
        members: list[Any] = list(self.members)
        count = len(members)
        if not self.training or len(x) < count:
            return sum(member.raw_logits(x) for member in members) / count
        found = [member.raw_logits(x[first::count]) for first, member in enumerate(members)]
        logits = found[0].new_empty(len(x), found[0].shape[1])
        for first, each in enumerate(found):
            logits[first::count] = each
        return logits
