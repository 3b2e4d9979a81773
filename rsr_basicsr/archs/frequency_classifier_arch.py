"""The adversarial sample classifiers of Yue et al. 2021, for CDC and for RRDB."""

from __future__ import annotations

from pathlib import Path

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

# Mean and standard deviation of the features over degraded photos. The first layer could absorb them, so the classifier
# is still that of the paper; but on raw features around -4.3 it learns several times more slowly.
_FEATURE_MEAN, _FEATURE_SPREAD = -4.3, 1.43
_SLOPE = 0.01  # of LeakyReLU; CDC has 0.2


@ARCH_REGISTRY.register()
class FrequencyClassifier(SampleClassifier):
    """The classifier of the paper: an MLP on the pooled log spectrum.

    RGB -> DCT -> mean over channels -> log magnitude -> 48x48 -> 16x16 by 3x3 means -> MLP 256-512-256-2 with
    LeakyReLU of slope 0.01. 263,426 parameters.

    Args:
        pool_by: ``size`` pools every spectrum to 48x48; ``height`` only those that are not 48 high, as in the published
            code, which therefore fails for images of 48xW, W != 48.
        weights: a file with its state dict, or ``builtin``; None leaves it untrained.

    Raises:
        ValueError: unknown ``pool_by``.
        WeightsError: the weights cannot be loaded.

    Shape:
        (B, 3, H, W) in [0, 1] -> logits (B, 2), float32, float64 for float64 input; class 0 is clean, class 1 attacked.
    """

    spectrum_size = 48
    _version = 2  # in version 1, LeakyReLU had the slope 0.2, and features of flat images were rounding noise

    def __init__(self, pool_by: str = 'size', weights: str | Path | None = None) -> None:
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
            'its LeakyReLU had the slope 0.2, now 0.01, so it would not decide as it was trained to; train it again',
        )
        self.take(weights)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The pooled log spectrum, (B, 256).

        Args:
            x: images, (B, 3, H, W) in [0, 1].

        Raises:
            ValueError: ``pool_by`` is ``height`` and the images are 48 high, but not 48 wide.
        """
        spectrum = log_spectrum(x).unsqueeze(1)
        if any_size():
            spectrum = _pool_any_size(spectrum, self.spectrum_size)
            return F.avg_pool2d(spectrum, 3).flatten(1)
        height, width = spectrum.shape[-2:]
        if height != self.spectrum_size or (width != self.spectrum_size and self.pool_by == 'size'):
            spectrum = F.adaptive_avg_pool2d(spectrum, self.spectrum_size)
        elif width != self.spectrum_size:
            raise ValueError(f'pool_by: height does not pool images of {height}x{width}; write pool_by: size')
        return F.avg_pool2d(spectrum, 3).flatten(1)

    def raw_logits(self, x: torch.Tensor) -> torch.Tensor:
        """As in the base class."""
        features = (self.features(x) - _FEATURE_MEAN) / _FEATURE_SPREAD
        return self.body(features.to(next(self.body.parameters()).dtype))


@ARCH_REGISTRY.register()
class RRDBFrequencyClassifier(FrequencyClassifier):
    """The classifier of the paper's RRDB: arg-max of both classes (threshold 0.5), on a random 48x48 crop.

    The crop is drawn at every call, at one place for the whole batch. Images with a side below 48 are taken whole, and
    so are all images in an exported graph. Its parameters can be trained, but there is no gradient of the images.

    Args and Shape as in :class:`FrequencyClassifier`.
    """

    calibration = {**CALIBRATION, 'threshold': 0.5}
    has_gradient = False

    def seen(self, x: torch.Tensor, seed: int | None = None) -> torch.Tensor:
        """The random crop, (B, 3, 48, 48); see the base class."""
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
        """As in the base class."""
        return super().raw_logits(self.seen(x.detach()))


def for_scaled_features(weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Convert the first layer from raw features to our shifted and scaled ones; the logits are unchanged.

    Args:
        weight: (512, 256), as in published weight files.
        bias: (512,).

    Returns:
        Weight and bias.
    """
    return weight * _FEATURE_SPREAD, bias + _FEATURE_MEAN * weight.sum(dim=1)


@constant_tensor(maxsize=64)
def _repeatable_corner(seed: int, last_top: int, last_left: int, device: torch.device) -> torch.Tensor:
    """First row and column, (2,), of the crop that a seed determines for a size; the same on every device."""
    random = np.random.default_rng([seed, last_top, last_left])
    return torch.tensor([random.integers(last_top + 1), random.integers(last_left + 1)], device=device)


def _pool_any_size(x: torch.Tensor, size: int) -> torch.Tensor:
    """``adaptive_avg_pool2d`` to (size, size) as products with two matrices, for symbolic sizes."""
    for _ in range(2):
        length = x.shape[-1]
        bin_, place = torch.arange(size, device=x.device)[:, None], torch.arange(length, device=x.device)[None]
        inside = ((place + 1) * size > bin_ * length) & (place * size < (bin_ + 1) * length)
        mean = inside.to(x.dtype) / inside.sum(dim=1, keepdim=True)
        x = torch.mm(x.reshape(-1, length), mean.T).view(*x.shape[:-1], size).transpose(-1, -2)
    return x
