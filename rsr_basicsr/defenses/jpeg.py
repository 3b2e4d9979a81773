"""JPEG compression as a defence."""

from __future__ import annotations

import copy
import functools
from typing import cast

import cv2
import numpy as np
import torch
from basicsr.utils import DiffJPEG
from torch import nn
from torch.nn import functional as F

from rsr_basicsr.attacks.adaptive import BPDA
from rsr_basicsr.attacks.checks import expect
from rsr_basicsr.defenses.base import DEFENSE_REGISTRY, InputTransform


@DEFENSE_REGISTRY.register()
class JPEG(InputTransform):
    """Compresses and decompresses each image by JPEG (Dziugaite et al. 2016; Guo et al., ICLR 2018).

    The codec itself computes the images, in 8 bit and with half the chroma resolution. The gradient is that of
    ``DiffJPEG``, whose rounding is differentiable (Shin and Song 2017).

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW) in [0, 1].
        quality: of the codec, a whole number from 1 to 100 (the best).

    Shape:
        RGB (B, 3, H, W) in [0, 1] -> as of ``net``.

    Raises:
        ValueError: ``quality`` is out of range.
    """

    def __init__(self, net: nn.Module, *, quality: int = 75) -> None:
        super().__init__(net)
        self.quality = int(expect('quality', quality, 1, 100, whole=True))
        self.codec = BPDA(
            functools.partial(through_codec, quality=self.quality),
            functools.partial(through_surrogate, quality=self.quality),
        )

    def transform(self, x: torch.Tensor) -> torch.Tensor:
        return self.codec(x)


def through_codec(x: torch.Tensor, quality: int) -> torch.Tensor:
    """Compress RGB images (B, 3, H, W) in [0, 1] by JPEG; the result is 8 bit, in [0, 1], without a gradient."""
    pixels = (x.detach().clamp(0, 1) * 255).round().to('cpu', torch.uint8)
    bgr = np.ascontiguousarray(pixels.flip(1).permute(0, 2, 3, 1).numpy())
    coded = [cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for image in bgr]
    decoded = np.stack([cast(np.ndarray, cv2.imdecode(code, cv2.IMREAD_COLOR)) for code in coded])
    return torch.from_numpy(decoded).permute(0, 3, 1, 2).flip(1).to(x.device, x.dtype) / 255


def through_surrogate(x: torch.Tensor, quality: int) -> torch.Tensor:
    """A differentiable approximation of JPEG, for RGB images (B, 3, H, W) in [0, 1]."""
    height, width = x.shape[-2:]
    # Incomplete blocks are filled by repetition, as in the codec; DiffJPEG itself would fill them with black.
    full = F.pad(x.float(), (0, -width % 16, 0, -height % 16), mode='replicate').contiguous()
    # At a quality of 100 its quantisation steps are 0, those of the codec 1.
    coded = _diff_jpeg(x.device)(full, quality=min(quality, 99))
    return coded[..., :height, :width].to(x.dtype)


@functools.cache
def _diff_jpeg(device: torch.device) -> nn.Module:
    """DiffJPEG on a device, outside any network: its buffers are neither trained nor saved.

    A deep copy, since all instances share two tables: moving one instance would move the tables of all.
    """
    return copy.deepcopy(DiffJPEG(differentiable=True)).requires_grad_(False).to(device, torch.float32)
