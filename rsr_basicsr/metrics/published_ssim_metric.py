"""SSIM as the published code of Yue et al. 2021 computes it."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from basicsr.metrics.metric_util import to_y_channel
from basicsr.utils.registry import METRIC_REGISTRY

from rsr_basicsr.metrics.stability_metric import cropped

_SIDE, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


@METRIC_REGISTRY.register()
def calculate_ssim_zero_padded(
    img: np.ndarray, img2: np.ndarray, crop_border: int = 0, input_order: str = 'HWC', **kwargs: Any
) -> float:
    """SSIM (Wang et al. 2004) on the Y channel, with zero padding outside the image.

    The published code of Yue et al. 2021 reports this variant: a Gaussian window of 11x11 with sigma 1.5, Y of YCbCr
    (BT.601, 16 to 235) without rounding, no border left out, C1 = (0.01 * 255)^2 and C2 = (0.03 * 255)^2. BasicSR's
    leaves out the border instead; values of the two differ by up to 0.03 on photographs and are not comparable. At
    most 1, for equal images. Higher is better.

    Args:
        img: an image in BGR, (H, W, 3) or (3, H, W) as ``input_order`` says, or grey, (H, W), range [0, 255].
        img2: the image it is compared with, likewise.
        crop_border: pixels left out at each edge before anything else; 0 in the published code.
        input_order: ``HWC`` or ``CHW``.

    Raises:
        ValueError: the images differ in size, or ``crop_border`` leaves nothing of them.
    """
    if img.shape != img2.shape:
        raise ValueError(f'expected two images of one size, got {img.shape} and {img2.shape}')
    x, y = (
        to_y_channel(cropped(image, crop_border, input_order).astype(np.float64))[..., 0].astype(np.float64)
        for image in (img, img2)
    )
    mean_x, mean_y = _local_mean(x), _local_mean(y)
    variances = _local_mean(x * x) + _local_mean(y * y) - mean_x**2 - mean_y**2
    covariance = _local_mean(x * y) - mean_x * mean_y
    ssim = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2) / ((mean_x**2 + mean_y**2 + _C1) * (variances + _C2))
    return float(ssim.mean())


def _local_mean(values: np.ndarray) -> np.ndarray:
    """Gaussian-weighted mean around each pixel, (H, W); values outside the image are zero."""
    window = cv2.getGaussianKernel(_SIDE, _SIGMA)
    return cv2.sepFilter2D(values, -1, window, window, borderType=cv2.BORDER_CONSTANT)
