"""The adversarial sample classifier of Yue et al. 2021."""

from __future__ import annotations

from typing import Optional

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn
from torch.nn import functional as F

from rsr_basicsr.archs.classifier import SampleClassifier
from rsr_basicsr.constants import any_size
from rsr_basicsr.frequency import log_spectrum

POOL_BY = ('size', 'height')

# Mean and spread of the features over degraded photos. The first layer could absorb them, so the classifier is still
# the paper's; but with raw features around -4.3 it learns several times more slowly.
_FEATURE_MEAN, _FEATURE_SPREAD = -4.3, 1.43


@ARCH_REGISTRY.register()
class FrequencyClassifier(SampleClassifier):
    """The paper's classifier: tells attacked pictures from clean ones by their log spectrum.

    RGB -> DCT -> mean over channels -> log magnitude -> 48x48 -> 16x16 by 3x3 means -> MLP 256-512-256-2 with
    LeakyReLU. 263,426 parameters.

    Args:
        pool_by: ``size`` pools every spectrum that is not 48x48 to it, on both axes; ``height`` only those that are
            not 48 high, as the published code does, which leaves it without an answer for a picture of 48xW.
        weights: a file with its state dict, or ``builtin``; None leaves it untrained.

    Shape:
        (B, 3, H, W) in [0, 1] -> logits (B, 2), float32, float64 for float64 input; class 0 is clean, class 1 attacked.
    """

    spectrum_size = 48

    def __init__(self, pool_by: str = 'size', weights: Optional[str] = None):
        super().__init__()
        if pool_by not in POOL_BY:
            raise ValueError(f'pool_by must be one of {", ".join(POOL_BY)}, got {pool_by!r}')
        self.pool_by = pool_by
        self.body = nn.Sequential(
            nn.Linear(256, 512), nn.LeakyReLU(0.2), nn.Linear(512, 256), nn.LeakyReLU(0.2), nn.Linear(256, 2))
        self.take(weights)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The 256 numbers that the decision rests on, shape (B, 256).

        Raises:
            ValueError: ``pool_by`` is ``height`` and the pictures are 48 high, but not 48 wide.
        """
        spectrum = log_spectrum(x).unsqueeze(1)
        if any_size():
            spectrum = _pool_any_size(spectrum, self.spectrum_size)
            return F.avg_pool2d(spectrum, 3).flatten(1)
        height, width = spectrum.shape[-2:]
        if height != self.spectrum_size or width != self.spectrum_size and self.pool_by == 'size':
            spectrum = F.adaptive_avg_pool2d(spectrum, self.spectrum_size)
        elif width != self.spectrum_size:
            raise ValueError(f'pool_by: height does not pool pictures of {height}x{width}; write pool_by: size')
        return F.avg_pool2d(spectrum, 3).flatten(1)

    def raw_logits(self, x):
        features = (self.features(x) - _FEATURE_MEAN) / _FEATURE_SPREAD
        return self.body(features.to(self.body[0].weight.dtype))


def _pool_any_size(x, size):
    """``adaptive_avg_pool2d`` as a product with two matrices, which leaves what has the size as it is."""
    for _ in range(2):
        length = x.shape[-1]
        bin_, place = torch.arange(size, device=x.device)[:, None], torch.arange(length, device=x.device)[None]
        inside = ((place + 1) * size > bin_ * length) & (place * size < (bin_ + 1) * length)
        mean = inside.to(x.dtype) / inside.sum(dim=1, keepdim=True)
        x = torch.mm(x.reshape(-1, length), mean.T).view(*x.shape[:-1], size).transpose(-1, -2)
    return x
