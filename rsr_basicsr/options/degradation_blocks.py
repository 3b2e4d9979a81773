"""The keys of DegradedImageDataset: Real-ESRGAN's degradations, with the values that it fine-tunes x4plus with."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from rsr_basicsr.options.parsing import OpenBlock, key
from rsr_basicsr.options.types import (
    Count,
    Keys,
    Listed,
    Natural,
    NonNegative,
    NonNegativeRange,
    OneOf,
    Positive,
    Range,
    Share,
    Text,
)

_KERNELS = ('iso', 'aniso', 'generalized_iso', 'generalized_aniso', 'plateau_iso', 'plateau_aniso')
_KERNEL_SHARES = [0.45, 0.25, 0.12, 0.03, 0.12, 0.03]
_UP_DOWN_KEEP = 'shares of upscaling, reducing, keeping the size'


def _with_a_share(shares: list[float]) -> list[float]:
    if sum(shares) <= 0:
        raise ValueError('expected a share above 0')
    return shares


def _three(shares: list[float]) -> list[float]:
    if len(shares) != 3:
        raise ValueError('expected three numbers, for up, down and keep')
    return shares


def _apart(bounds: list[float]) -> list[float]:
    if bounds[0] == bounds[1]:
        raise ValueError('expected [low, high] with low < high, as BasicSR asserts')
    return bounds


_Shares = Annotated[list[NonNegative], Listed(), AfterValidator(_with_a_share)]
_UpDownKeep = Annotated[list[NonNegative], Listed(), AfterValidator(_three), AfterValidator(_with_a_share)]
_PositiveRange = Annotated[list[Positive], Listed(pair=True, ascending=True)]
_Sigmas = Annotated[_PositiveRange, AfterValidator(_apart)]
# At 100 the quantisation steps of DiffJPEG are 0, and its images not numbers.
_Qualities = Annotated[list[Annotated[float, Range(ge=1, le=99)]], Listed(pair=True, ascending=True)]
_KernelNames = Annotated[list[Annotated[str, OneOf(_KERNELS)]], Listed()]


class DegradedImageOptions(OpenBlock):
    """A block of DegradedImageDataset."""

    dataroot_gt: Text = key('the high-resolution images', ..., values='folder, or LMDB data set')
    io_backend: Keys = key('as in BasicSR', {'type': 'disk'}, values='block')
    crop: Count | None = key('side of a centre crop', unit='pixels of the original', by_default='none')
    num_images: Count | None = key('use only the first images, by path', by_default='all')
    seed: Natural = key('another seed degrades each image in another way', 0)

    blur_kernel_size: Count = key("unused by BasicSR's code, which draws sizes of 7 to 21", 21)
    kernel_list: _KernelNames = key('blur kernels of the first stage', list(_KERNELS))
    kernel_prob: _Shares = key('share of each', _KERNEL_SHARES)
    sinc_prob: Share = key('share of sinc filters in place of a blur', 0.1)
    blur_sigma: _Sigmas = key('standard deviation of the blur', [0.2, 3.0], unit='pixels')
    betag_range: _PositiveRange = key('shape of generalized Gaussian kernels', [0.5, 4.0])
    betap_range: _PositiveRange = key('shape of plateau kernels', [1.0, 2.0])
    resize_prob: _UpDownKeep = key(_UP_DOWN_KEEP, [0.2, 0.7, 0.1])
    resize_range: _PositiveRange = key('factor of the change of size', [0.15, 1.5])
    gaussian_noise_prob: Share = key('share of Gaussian noise; the others get Poisson noise', 0.5)
    noise_range: NonNegativeRange = key('standard deviation of Gaussian noise', [1.0, 30.0], unit='1/255')
    poisson_scale_range: NonNegativeRange = key('strength of Poisson noise', [0.05, 3.0])
    gray_noise_prob: Share = key('share of noise that all channels have in common', 0.4)
    jpeg_range: _Qualities = key('quality of JPEG', [30.0, 95.0])

    second_blur_prob: Share = key('share of images that the second stage blurs', 0.8)
    blur_kernel_size2: Count = key('as `blur_kernel_size`', 21)
    kernel_list2: _KernelNames = key('as `kernel_list`, of the second stage', list(_KERNELS))
    kernel_prob2: _Shares = key('as `kernel_prob`', _KERNEL_SHARES)
    sinc_prob2: Share = key('as `sinc_prob`', 0.1)
    blur_sigma2: _Sigmas = key('as `blur_sigma`', [0.2, 1.5], unit='pixels')
    betag_range2: _PositiveRange = key('as `betag_range`', [0.5, 4.0])
    betap_range2: _PositiveRange = key('as `betap_range`', [1.0, 2.0])
    resize_prob2: _UpDownKeep = key(_UP_DOWN_KEEP, [0.3, 0.4, 0.3])
    resize_range2: _PositiveRange = key('factor, relative to the final size', [0.3, 1.2])
    gaussian_noise_prob2: Share = key('as `gaussian_noise_prob`', 0.5)
    noise_range2: NonNegativeRange = key('as `noise_range`', [1.0, 25.0], unit='1/255')
    poisson_scale_range2: NonNegativeRange = key('as `poisson_scale_range`', [0.05, 2.5])
    gray_noise_prob2: Share = key('as `gray_noise_prob`', 0.4)
    jpeg_range2: _Qualities = key('as `jpeg_range`', [30.0, 95.0])

    final_sinc_prob: Share = key('share of images with a final sinc filter', 0.8)
