"""Consistency: whether the output, reduced again, is the input."""

from __future__ import annotations

from typing import Any

import numpy as np
from basicsr.metrics import calculate_psnr
from basicsr.metrics.metric_util import reorder_image
from basicsr.utils.registry import METRIC_REGISTRY

from rsr_basicsr.ops.resize import reduced


@METRIC_REGISTRY.register()
def calculate_lr_consistency(
    img: np.ndarray,
    lq: np.ndarray,
    crop_border: int,
    scale: int | None = None,
    input_order: str = 'HWC',
    test_y_channel: bool = False,
    **kwargs: Any,
) -> float:
    """PSNR between the output, reduced, and the input it was computed from, in dB.

    The reduction is that of :class:`rsr_basicsr.data.ReducedImageDataset`: the antialiased bicubic one, rounded to
    8 bits. Infinite if both are equal. Higher is better: the network keeps the content of its input, and what it adds
    is detail. Of a degraded input a good network is not consistent: it removes the degradation.

    Args:
        img: the output, (sH, sW, C) or (C, sH, sW) as ``input_order`` says, range [0, 255].
        lq: the input, (H, W, C) or (C, H, W), range [0, 255].
        crop_border: pixels of the output left out at each edge; of the reduced image as many as they cover.
        scale: factor s; None takes it from the sizes.
        input_order: ``HWC`` or ``CHW``.
        test_y_channel: compare the Y channel of YCbCr only; images must then be BGR.

    Raises:
        ValueError: the output is not ``scale`` times as large as the input, or ``crop_border`` leaves nothing.
    """
    output, given = (reorder_image(image, input_order=input_order) for image in (img, lq))
    scale = scale or max(output.shape[0] // given.shape[0], 1)
    if output.shape[:2] != (scale * given.shape[0], scale * given.shape[1]):
        raise ValueError(
            f'expected an output {scale} times as large as the input, got {output.shape[0]}x{output.shape[1]} of '
            f'{given.shape[0]}x{given.shape[1]}'
        )
    border = -(-crop_border // scale)
    if min(given.shape[:2]) <= 2 * border:
        raise ValueError(
            f'crop_border: {crop_border} leaves nothing of an image of {output.shape[0]}x{output.shape[1]}'
        )
    small = np.rint(reduced(output / 255.0, scale) * 255)
    return float(calculate_psnr(small, given, border, test_y_channel=test_y_channel))
