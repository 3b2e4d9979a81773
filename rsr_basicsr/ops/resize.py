"""Upscaling by interpolation, and the antialiased bicubic reduction that makes low-resolution images."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from basicsr.utils.matlab_functions import imresize
from torch.nn import functional as F


def upscaled(x: torch.Tensor, scale: int, mode: str = 'bicubic') -> torch.Tensor:
    """Upscale images by interpolation.

    Args:
        x: images, (B, C, H, W).
        scale: factor of the upscaling.
        mode: ``nearest``, ``bilinear`` or ``bicubic``.

    Returns:
        (B, C, scale*H, scale*W); bicubic may slightly leave the range of ``x``.
    """
    return F.interpolate(x, scale_factor=scale, mode=mode, align_corners=None if mode == 'nearest' else False)


def reduced(image: np.ndarray, scale: int) -> np.ndarray:
    """Reduce an image by the antialiased bicubic filter, MATLAB's ``imresize``, and round to 8 bits.

    Args:
        image: floats (H, W, C) in [0, 1].
        scale: factor of the reduction.

    Returns:
        float64 (ceil(H / scale), ceil(W / scale), C): whole multiples of 1/255 in [0, 1].
    """
    small = cast(np.ndarray, imresize(image.astype(np.float64), 1 / scale, antialiasing=True))
    return np.rint(small.clip(0, 1) * 255) / 255
