"""The adversarial sample classifiers of Yue et al. 2021: that of CDC, and that of RRDB."""

from __future__ import annotations

import numpy as np
import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn
from torch.nn import functional as F

from rsr_basicsr.archs.classifier import CALIBRATION, SampleClassifier
from rsr_basicsr.ops.caching import any_size, constant_tensor
from rsr_basicsr.ops.frequency import log_spectrum
from rsr_basicsr.weights.versions import refuse_older_files

POOL_BY = ('size', 'height')

# Mean and spread of the features over degraded photos. The first layer could absorb them, so the classifier is still
# the paper's; but with raw features around -4.3 it learns several times more slowly.
_FEATURE_MEAN, _FEATURE_SPREAD = -4.3, 1.43
_SLOPE = 0.01  # of LeakyReLU; 0.2 is that of CDC


@ARCH_REGISTRY.register()
class FrequencyClassifier(SampleClassifier):
    """The paper's classifier: tells attacked images from clean ones by their log spectrum.

    RGB -> DCT -> mean over channels -> log magnitude -> 48x48 -> 16x16 by 3x3 means -> MLP 256-512-256-2 with
    LeakyReLU of slope 0.01. 263,426 parameters.

    Args:
        pool_by: ``size`` pools every spectrum that is not 48x48 to it, on both axes; ``height`` only those that are
            not 48 high, as the published code does, which leaves it without an answer for an image of 48xW.
        weights: a file with its state dict, or ``builtin``; None leaves it untrained.

    Shape:
        (B, 3, H, W) in [0, 1] -> logits (B, 2), float32, float64 for float64 input; class 0 is clean, class 1 attacked.
    """

    spectrum_size = 48
    _version = 2  # before, LeakyReLU had the slope 0.2, and features of flat images were rounding noise

    def __init__(self, pool_by: str = 'size', weights: str | None = None):
        super().__init__()
        if pool_by not in POOL_BY:
            raise ValueError(f'pool_by must be one of {", ".join(POOL_BY)}, got {pool_by!r}')
        self.pool_by = pool_by
        self.body = nn.Sequential(
            nn.Linear(256, 512), nn.LeakyReLU(_SLOPE), nn.Linear(512, 256), nn.LeakyReLU(_SLOPE), nn.Linear(256, 2)
        )
        refuse_older_files(
            self,
            2,
            'its LeakyReLU had the slope 0.2 where it has 0.01 now, so that it would decide '
            'otherwise than it was trained to; train it again',
        )
        self.take(weights)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The 256 numbers that the decision rests on, shape (B, 256).

        Raises:
            ValueError: ``pool_by`` is ``height`` and the images are 48 high, but not 48 wide.
        """
        spectrum = log_spectrum(x).unsqueeze(1)
        if any_size():
            spectrum = _pool_any_size(spectrum, self.spectrum_size)
            return F.avg_pool2d(spectrum, 3).flatten(1)
        height, width = spectrum.shape[-2:]
        if height != self.spectrum_size or width != self.spectrum_size and self.pool_by == 'size':
            spectrum = F.adaptive_avg_pool2d(spectrum, self.spectrum_size)
        elif width != self.spectrum_size:
            raise ValueError(f'pool_by: height does not pool images of {height}x{width}; write pool_by: size')
        return F.avg_pool2d(spectrum, 3).flatten(1)

    def raw_logits(self, x: torch.Tensor) -> torch.Tensor:
        features = (self.features(x) - _FEATURE_MEAN) / _FEATURE_SPREAD
        return self.body(features.to(self.body[0].weight.dtype))


@ARCH_REGISTRY.register()
class RRDBFrequencyClassifier(FrequencyClassifier):
    """The classifier of the paper's RRDB: arg-max of both classes, on a random 48x48 crop, without a gradient.

    Arg-max is a threshold of 0.5. Crops are drawn at every call, one place for the whole batch; images with a side
    below 48 are taken whole, and so is every image in an exported graph. Its parameters can be trained, but no
    gradient reaches the images.

    Args and Shape as of :class:`FrequencyClassifier`.
    """

    calibration = {**CALIBRATION, 'threshold': 0.5}
    has_gradient = False

    def seen(self, x: torch.Tensor, seed: int | None = None) -> torch.Tensor:
        size, (height, width) = self.spectrum_size, x.shape[-2:]
        if any_size() or min(height, width) < size or (height, width) == (size, size):
            return x
        top, left = (
            (torch.randint(side - size + 1, (1,), device=x.device) for side in (height, width))
            if seed is None
            else _repeatable_corner(seed, height - size, width - size, x.device).split(1)
        )
        place = torch.arange(size, device=x.device)
        return x.index_select(-2, top + place).index_select(-1, left + place)

    def raw_logits(self, x: torch.Tensor) -> torch.Tensor:
        return super().raw_logits(self.seen(x.detach()))


def for_scaled_features(weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first layer of a classifier of raw features, as one of our shifted and scaled features: logits stay the same.

    Args:
        weight: (512, 256), as of published weight files.
        bias: (512,).
    """
    return weight * _FEATURE_SPREAD, bias + _FEATURE_MEAN * weight.sum(dim=1)


@constant_tensor(maxsize=64)
def _repeatable_corner(seed: int, last_top: int, last_left: int, device: torch.device) -> torch.Tensor:
    """First row and column that a seed gives the crop of images of one size, (2,); the same on every device."""
    random = np.random.default_rng([seed, last_top, last_left])
    return torch.tensor([random.integers(last_top + 1), random.integers(last_left + 1)], device=device)


def _pool_any_size(x: torch.Tensor, size: int) -> torch.Tensor:
    """``adaptive_avg_pool2d`` as a product with two matrices, which leaves what has the size as it is."""
    for _ in range(2):
        length = x.shape[-1]
        bin_, place = torch.arange(size, device=x.device)[:, None], torch.arange(length, device=x.device)[None]
        inside = ((place + 1) * size > bin_ * length) & (place * size < (bin_ + 1) * length)
        mean = inside.to(x.dtype) / inside.sum(dim=1, keepdim=True)
        x = torch.mm(x.reshape(-1, length), mean.T).view(*x.shape[:-1], size).transpose(-1, -2)
    return x
