"""Perceptual distances: to the original, and between the outputs for the attacked and the clean image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.utils.registry import METRIC_REGISTRY

from rsr_basicsr.metrics.stability_metric import cropped
from rsr_basicsr.ops.perceptual import AUTO, SMALLEST, available_measure, perceptual_measure


@METRIC_REGISTRY.register()
def calculate_perceptual(
    img: np.ndarray,
    img2: np.ndarray,
    crop_border: int,
    measure: str = AUTO,
    backbone: str | Path | None = None,
    input_order: str = 'HWC',
    **kwargs: Any,
) -> float:
    """Perceptual distance between the output and the original, computed on the CPU.

    0 for equal images. Lower is better.

    Args:
        img: the output, in BGR, (H, W, 3) or (3, H, W) as ``input_order`` says, range [0, 255].
        img2: the original, likewise.
        crop_border: pixels left out at each edge.
        measure: see :func:`rsr_basicsr.ops.perceptual.perceptual_measure`. ``auto`` depends on the machine; options
            files that are checked keep the name it stood for.
        backbone: weights of LPIPS's network, read once per process; None takes torchvision's own.
        input_order: ``HWC`` or ``CHW``.

    Raises:
        ValueError: the measure is unknown or not available, or the images differ in size, do not have three channels,
            or are too small for the measure within ``crop_border``.
        WeightsError: the file is missing or damaged, or weights cannot be downloaded.
    """
    return perceptual_distance(img, img2, crop_border, measure, backbone, input_order)


@METRIC_REGISTRY.register()
def calculate_perceptual_stability(
    img: np.ndarray,
    img_clean: np.ndarray,
    crop_border: int,
    measure: str = AUTO,
    backbone: str | Path | None = None,
    input_order: str = 'HWC',
    **kwargs: Any,
) -> float:
    """Perceptual distance between the outputs of a network for the attacked and for the clean image.

    0 if the attack did not change the output. Lower is better.

    Args:
        img: output for the attacked image, in BGR, (H, W, 3) or (3, H, W) as ``input_order`` says, range [0, 255].
        img_clean: output for the clean image, likewise.
        crop_border: pixels left out at each edge.
        measure: as of :func:`calculate_perceptual`.
        backbone: likewise.
        input_order: ``HWC`` or ``CHW``.

    Raises:
        ValueError: as :func:`calculate_perceptual`.
        WeightsError: likewise.
    """
    return perceptual_distance(img, img_clean, crop_border, measure, backbone, input_order)


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

    0 for equal images, below 1 for most pairs. Lower is better. :func:`calculate_perceptual` with ``measure: lpips``.

    Args:
        img: an image in BGR, (H, W, 3) or (3, H, W) as ``input_order`` says, range [0, 255].
        img2: the image it is compared with, likewise.
        crop_border: pixels left out at each edge.
        backbone: file with the weights of torchvision's AlexNet, read once per process; None takes torchvision's own,
            see :func:`rsr_basicsr.ops.perceptual.perceptual_measure`.
        input_order: ``HWC`` or ``CHW``.

    Raises:
        ValueError: as :func:`calculate_perceptual`.
        WeightsError: likewise.
    """
    return perceptual_distance(img, img2, crop_border, 'lpips', backbone, input_order)


def perceptual_distance(
    img: np.ndarray,
    img2: np.ndarray,
    crop_border: int,
    measure: str,
    backbone: str | Path | None = None,
    input_order: str = 'HWC',
) -> float:
    """The distance behind all metrics of this module; see :func:`calculate_perceptual`."""
    images = [cropped(image, crop_border, input_order) for image in (img, img2)]
    if images[0].shape != images[1].shape:
        raise ValueError(f'expected two images of one size, got {img.shape} and {img2.shape}')
    height, width, channels = images[0].shape
    if channels != 3:
        raise ValueError(f'{measure} compares images of three channels, got {channels}')
    name = available_measure(backbone) if measure == AUTO else measure
    least = SMALLEST.get(name, 1)
    if min(height, width) < least:
        raise ValueError(
            f'{name} needs at least {least}x{least} pixels, got {height}x{width} within crop_border: {crop_border}'
        )
    module = perceptual_measure(name, backbone)
    if np.array_equal(images[0], images[1]):
        return 0.0  # without the rounding noise of some measures
    with torch.no_grad():
        return float(module(*map(_to_tensor, images)).item())


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    """Convert (H, W, 3) in BGR, range [0, 255], to (1, 3, H, W) in RGB, range [0, 1]."""
    rgb = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy(rgb)[None] / 255
