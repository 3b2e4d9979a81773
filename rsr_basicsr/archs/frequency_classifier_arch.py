"""The adversarial sample classifier of Yue et al. 2021."""

from __future__ import annotations

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn
from torch.nn import functional as F

from rsr_basicsr.frequency import log_spectrum

CLEAN, ATTACKED = 0, 1

# Mean and spread of the features over degraded photos. The first layer could absorb them, so the classifier is still
# the paper's; but with raw features around -4.3 it learns several times more slowly.
_FEATURE_MEAN, _FEATURE_SPREAD = -4.3, 1.43


@ARCH_REGISTRY.register()
class FrequencyClassifier(nn.Module):
    """Tells attacked pictures from clean ones by their log spectrum.

    RGB -> DCT -> mean over channels -> log magnitude -> 48x48 -> 16x16 by 3x3 means -> MLP 256-512-256-2 with
    LeakyReLU. 263,426 parameters. A spectrum of another size than 48x48 is pooled to it, on both axes.

    Shape:
        (B, 3, H, W) in [0, 1] -> logits (B, 2), float32; class 0 is clean, class 1 attacked.
    """

    spectrum_size = 48

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(256, 512), nn.LeakyReLU(0.2), nn.Linear(512, 256), nn.LeakyReLU(0.2), nn.Linear(256, 2))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The 256 numbers that the decision rests on, shape (B, 256)."""
        spectrum = log_spectrum(x).unsqueeze(1)
        if spectrum.shape[-2:] != (self.spectrum_size, self.spectrum_size):
            spectrum = F.adaptive_avg_pool2d(spectrum, self.spectrum_size)
        return F.avg_pool2d(spectrum, 3).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            features = (self.features(x) - _FEATURE_MEAN) / _FEATURE_SPREAD
            return self.body(features.to(self.body[0].weight.dtype)).float()

    def attacked(self, x: torch.Tensor, threshold: float = 0.9) -> torch.Tensor:
        """Decide per picture: True where P(clean) < ``threshold``. Shape (B,), bool."""
        return self(x).softmax(dim=1)[:, CLEAN] < threshold
