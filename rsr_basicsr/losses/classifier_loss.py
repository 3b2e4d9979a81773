"""The loss of the adversarial sample classifier."""

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import nn
from torch.nn import functional as F


@LOSS_REGISTRY.register()
class ClassifierLoss(nn.Module):
    """Cross-entropy of the adversarial sample classifier (Yue et al. 2021).

    Args:
        loss_weight: factor of the loss.
        label_smoothing: in [0, 1); see ``torch.nn.functional.cross_entropy``.
    """

    def __init__(self, loss_weight: float = 1.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.label_smoothing = label_smoothing

    def forward(self, logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Loss of logits (B, 2) against class indices (B,), a scalar."""
        return self.loss_weight * F.cross_entropy(logits, classes, label_smoothing=self.label_smoothing)
