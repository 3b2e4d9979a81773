"""Stability: how far an attack moves the output of a network, regardless of the ground truth."""

from typing import Any

import numpy as np
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.metrics.metric_util import reorder_image
from basicsr.utils.registry import METRIC_REGISTRY


@METRIC_REGISTRY.register()
def calculate_stability(
    img: np.ndarray,
    img_clean: np.ndarray,
    crop_border: int,
    input_order: str = 'HWC',
    test_y_channel: bool = False,
    **kwargs: Any,
) -> float:
    """PSNR of the output for an attacked image against the output of the same network for the clean one, in dB.

    PSNR to the ground truth rates a blurry network as robust, and misses that a GAN invents another texture under
    attack; stability does not. Higher is better.

    Args:
        img: output for the attacked image, (H, W, C) or (C, H, W) as ``input_order`` says, range [0, 255].
        img_clean: output for the clean image, likewise.
        crop_border: pixels left out at each edge.
        input_order: ``HWC`` or ``CHW``.
        test_y_channel: compare the Y channel of YCbCr only; images must then be BGR.

    Examples:
        >>> clean = np.full((16, 16, 3), 128.0)
        >>> print(round(calculate_stability(clean + 8, clean, crop_border=0), 2))  # 20 log10(255 / 8)
        30.07
    """
    return calculate_psnr(img, img_clean, crop_border, input_order=input_order, test_y_channel=test_y_channel)


def rms_gain(stability: float, eps: float) -> float:
    """The gain behind a stability: the RMS change of the output relative to the radius of the attack.

    Stability is ``20 log10(255 / eps) - 20 log10(gain)``. The RMS change of the input is at most ``eps``, so the ratio
    of both changes, :func:`calculate_gain`, is at least this gain.

    Args:
        stability: of one image, in dB.
        eps: radius of the attack in 1/255, above 0.

    Returns:
        The gain, at least 0; 0 if the output did not change and stability is infinite.

    Raises:
        ValueError: ``eps`` is not above 0.

    Examples:
        >>> print(round(rms_gain(30.07, eps=8), 3), round(rms_gain(36.09, eps=2), 3))
        1.0 2.0
    """
    if not eps > 0:
        raise ValueError(f'expected eps > 0 in 1/255 units, got {eps!r}')
    return float(255 / eps * 10 ** (-stability / 20))


@METRIC_REGISTRY.register()
def calculate_stability_ssim(
    img: np.ndarray,
    img_clean: np.ndarray,
    crop_border: int,
    input_order: str = 'HWC',
    test_y_channel: bool = False,
    **kwargs: Any,
) -> float:
    """SSIM (Wang et al. 2004) of the output for an attacked image against the output for the clean one.

    At most 1, for equal outputs. Higher is better.

    Args:
        img: output for the attacked image, (H, W, C) or (C, H, W) as ``input_order`` says, range [0, 255]; at
            least 11x11 pixels, the window of SSIM, within ``crop_border``.
        img_clean: output for the clean image, likewise.
        crop_border: pixels left out at each edge.
        input_order: ``HWC`` or ``CHW``.
        test_y_channel: compare the Y channel of YCbCr only; images must then be BGR.
    """
    return float(calculate_ssim(img, img_clean, crop_border, input_order=input_order, test_y_channel=test_y_channel))


@METRIC_REGISTRY.register()
def calculate_gain(
    img: np.ndarray,
    img_clean: np.ndarray,
    lq: np.ndarray,
    lq_clean: np.ndarray,
    crop_border: int = 0,
    input_order: str = 'HWC',
    **kwargs: Any,
) -> float:
    """The change of the output relative to the change of the input that caused it.

    The ratio of their root mean squares. Each is a mean over its own image, so nearest-neighbour upscaling has a gain
    of 1 at any scale. Lower is better: below 1 the network damps the attack, above 1 it amplifies it.

    Args:
        img: output for the attacked image, (sH, sW, C) or (C, sH, sW) as ``input_order`` says, range [0, 255].
        img_clean: output for the clean image, likewise.
        lq: the attacked image, (H, W, C) or (C, H, W), range [0, 255].
        lq_clean: the clean image, likewise.
        crop_border: pixels left out at each edge of the output; the full input counts.
        input_order: ``HWC`` or ``CHW``.

    Returns:
        The ratio, at least 0. If the input did not change, it is infinite if the output did, as with a network that
        draws random masks, and NaN if the output did not either: an attack that was rounded away tells nothing about
        the network. A single NaN makes a mean over images NaN.

    Raises:
        ValueError: two images differ in size, or ``crop_border`` leaves nothing of the output.

    Examples:
        >>> lq, output = np.full((8, 8, 3), 128.0), np.full((32, 32, 3), 128.0)
        >>> print(calculate_gain(output + 8, output, lq + 2, lq))  # 2 levels of the input became 8 of the output
        4.0
    """
    of_output = _rms(cropped(img, crop_border, input_order), cropped(img_clean, crop_border, input_order))
    of_input = _rms(lq, lq_clean)
    if of_input == 0:
        return float('nan') if of_output == 0 else float('inf')
    return of_output / of_input


def cropped(img: np.ndarray, crop_border: int, input_order: str = 'HWC') -> np.ndarray:
    """An image as (H, W, C), without ``crop_border`` pixels at each edge.

    Raises:
        ValueError: nothing is left.
    """
    img = reorder_image(img, input_order=input_order)
    height, width = img.shape[:2]
    if min(height, width) <= 2 * crop_border:
        raise ValueError(f'crop_border: {crop_border} leaves nothing of an image of {height}x{width}')
    return img[crop_border : height - crop_border, crop_border : width - crop_border]


def _rms(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square of the difference."""
    if a.shape != b.shape:
        raise ValueError(f'expected two images of one size, got {a.shape} and {b.shape}')
    # Differences of 8-bit images do not fit in 8 bit.
    return float(np.sqrt(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)))
