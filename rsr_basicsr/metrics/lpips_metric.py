"""LPIPS: how different two images look, by a network trained on human judgements."""

from __future__ import annotations

import os.path as osp
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.utils.registry import METRIC_REGISTRY

from rsr_basicsr.metrics.stability_metric import cropped
from rsr_basicsr.ops.perceptual import lpips_distance

#: Smallest side in pixels, below which AlexNet's strided layers leave nothing
SMALLEST_FOR_LPIPS = 31


@METRIC_REGISTRY.register()
def calculate_lpips(
    img: np.ndarray,
    img2: np.ndarray,
    crop_border: int,
    backbone: str | Path | None = None,
    input_order: str = 'HWC',
    **kwargs: Any,
) -> float:
    """Learned perceptual distance (LPIPS v0.1 on AlexNet, Zhang et al. 2018), computed on the CPU.

    0 for equal images, below 1 for most pairs. Lower is better; options files need ``better: lower``.

    Args:
        img: an image in BGR, (H, W, 3) or (3, H, W) as ``input_order`` says, range [0, 255].
        img2: the image it is compared with, likewise.
        crop_border: pixels left out at each edge.
        backbone: file with the weights of torchvision's AlexNet, read once per process; None takes torchvision's own,
            see :func:`rsr_basicsr.ops.perceptual.lpips_distance`.
        input_order: ``HWC`` or ``CHW``.

    Raises:
        ValueError: the package ``lpips`` is missing, the weights are not available, the images differ in size, do not
            have three channels, or are smaller than 31x31 within ``crop_border``.
        WeightsError: the file is missing or damaged.
    """
    images = [cropped(image, crop_border, input_order) for image in (img, img2)]
    if images[0].shape != images[1].shape:
        raise ValueError(f'expected two images of one size, got {img.shape} and {img2.shape}')
    height, width, channels = images[0].shape
    if channels != 3:
        raise ValueError(f'LPIPS compares images of three channels, got {channels}')
    if min(height, width) < SMALLEST_FOR_LPIPS:
        raise ValueError(
            f'LPIPS needs at least {SMALLEST_FOR_LPIPS}x{SMALLEST_FOR_LPIPS} pixels, '
            f'got {height}x{width} within crop_border: {crop_border}'
        )
    with torch.no_grad():
        distance = lpips_distance(None if backbone is None else osp.expanduser(backbone))
        return distance(*map(_to_tensor, images)).item()


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    """Convert (H, W, 3) in BGR, range [0, 255], to (1, 3, H, W) in RGB, range [0, 1]."""
    rgb = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy(rgb)[None] / 255
