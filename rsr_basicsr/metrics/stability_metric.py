"""Stability: how far an attack moves the output of a network, whatever the ground truth is."""

import numpy as np
from basicsr.metrics import calculate_psnr
from basicsr.utils.registry import METRIC_REGISTRY


@METRIC_REGISTRY.register()
def calculate_stability(img: np.ndarray, img_clean: np.ndarray, crop_border: int, input_order: str = 'HWC',
                        test_y_channel: bool = False, **kwargs) -> float:
    """PSNR of the output for an attacked picture against the output of the same network for the clean one, in dB.

    PSNR to the ground truth alone calls a blurry network robust and does not notice that a GAN invented another
    texture; stability does. Higher is better.

    Args:
        img: output for the attacked picture, (H, W, C) or (C, H, W) as ``input_order`` says, range [0, 255].
        img_clean: output for the clean picture, likewise.
        crop_border: pixels left out at each edge.
        input_order: ``HWC`` or ``CHW``.
        test_y_channel: compare the Y channel of YCbCr only; pictures are then BGR.
    """
    return calculate_psnr(img, img_clean, crop_border, input_order=input_order, test_y_channel=test_y_channel)
