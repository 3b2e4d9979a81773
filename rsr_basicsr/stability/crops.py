"""The parts of images that are attacked: the most textured windows, rounded to 8 bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from rsr_basicsr.inference.batch import find_files
from rsr_basicsr.inference.image_io import read_image
from rsr_basicsr.utils.errors import ImageError

#: Crops in all, at least: few images give several each, so that an interval means something
CROPS = 8
#: Of an image and of a crop, in pixels
MIN_SIDE = 16
_LUMA = 299, 587, 114  # ITU-R BT.601 in thousandths; whole numbers make the choice of windows exact

Value = TypeVar('Value')


class SourceImage(NamedTuple):
    """An image to take crops of.

    Args:
        name: name in reports, without the folders of this machine.
        rgb: (1, 3, H, W), 8-bit values in [0, 1].
        notes: changes worth knowing, such as a dropped alpha channel.
    """

    name: str
    rgb: torch.Tensor
    notes: tuple[str, ...] = ()


class Crop(NamedTuple):
    """A window of an image.

    Args:
        image: the image.
        left, top: corner of the window in pixels.
        lq: the window, (1, 3, h, w), 8-bit values in [0, 1].
    """

    image: SourceImage
    left: int
    top: int
    lq: torch.Tensor


def read_images(images: Sequence[str | Path | torch.Tensor], num_images: int = 0) -> Iterator[SourceImage | ImageError]:
    """Yield each image, or the error that prevents it.

    Args:
        images: files, folders, and tensors (1, 3, H, W) in [0, 1].
        num_images: how many to take, evenly spread over those found; 0 takes all.

    Raises:
        OptionsError: a folder holds no image, or no file exists.
    """
    found: list[tuple[str, Path | torch.Tensor]] = [
        (f'image {number + 1}', image) for number, image in enumerate(images) if isinstance(image, torch.Tensor)
    ]
    paths = [image for image in images if not isinstance(image, torch.Tensor)]
    if paths:
        files = find_files(paths).files
        times = Counter(inside / file.name for file, inside in files)
        for file, inside in files:
            short = inside / file.name
            found.append((str(short if times[short] == 1 else Path(file.absolute().parent.name, file.name)), file))
    for name, image in spread(found, num_images):
        try:
            yield _from_file(name, image) if isinstance(image, Path) else _from_tensor(name, image)
        except ImageError as error:
            # Reports are passed on, and name no folder of this machine.
            yield ImageError(str(error).replace(str(image), name) if isinstance(image, Path) else str(error))


def spread(values: Sequence[Value], count: int) -> list[Value]:
    """``count`` of the values, evenly spread; all if there are fewer, or if ``count`` is 0."""
    if not 0 < count < len(values):
        return list(values)
    return [values[(2 * number + 1) * len(values) // (2 * count)] for number in range(count)]


def take_crops(images: Sequence[SourceImage], side: int) -> list[Crop]:
    """The most textured windows of each image, without overlap; at least :data:`CROPS` in all if there is room.

    Args:
        images: of any size.
        side: of a window in pixels; a shorter side of an image is taken whole.
    """
    each = -(-CROPS // max(len(images), 1))
    return [
        Crop(image, left, top, image.rgb[..., top : top + side, left : left + side].contiguous())
        for image in images
        for left, top in textured_windows(image.rgb, side, each)
    ]


def textured_windows(rgb: torch.Tensor, side: int, count: int) -> list[tuple[int, int]]:
    """Corners (left, top) of windows without overlap, the most textured first.

    The texture of a window is the sum of the absolute differences of neighbouring pixels in luma.

    Args:
        rgb: (1, 3, H, W), 8-bit values in [0, 1].
        side: of the windows in pixels; a shorter side of the image is taken whole.
        count: number of windows, less if there is no room.
    """
    levels = (rgb[0] * 255).round().cpu().numpy().astype(np.int64)
    luma = np.tensordot(np.array(_LUMA), levels, axes=1)
    rows, columns = luma.shape
    texture = np.zeros_like(luma)
    texture[:, 1:] += abs(np.diff(luma, axis=1))
    texture[1:] += abs(np.diff(luma, axis=0))
    height, width = min(side, rows), min(side, columns)
    total = np.pad(texture.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    found: list[tuple[int, int]] = []
    while len(found) < count and sums.max() >= 0:
        top, left = (int(place) for place in np.unravel_index(sums.argmax(), sums.shape))
        found.append((left, top))
        sums[max(top - height + 1, 0) : top + height, max(left - width + 1, 0) : left + width] = -1
    return found


def _from_file(name: str, path: Path) -> SourceImage:
    image = read_image(path)
    notes = [*image.notes]
    if image.grey:
        notes.append('grey; attacked in colour, as the network sees it')
    if image.alpha is not None:
        notes.append('alpha channel left out')
    if image.bits == 16:
        notes.append('16 bits rounded to 8')
    return _checked(name, image.rgb, tuple(notes))


def _from_tensor(name: str, image: torch.Tensor) -> SourceImage:
    if image.dim() != 4 or image.shape[:2] != (1, 3) or not image.is_floating_point():
        raise ImageError(f'{name}: expected floats (1, 3, H, W) in [0, 1], got {image.dtype} {tuple(image.shape)}')
    if not (image.isfinite().all() and image.min() >= 0 and image.max() <= 1):
        raise ImageError(f'{name}: it has values that are not numbers in [0, 1]; divide 8-bit images by 255')
    return _checked(name, image.detach().cpu().float(), ())


def _checked(name: str, rgb: torch.Tensor, notes: tuple[str, ...]) -> SourceImage:
    height, width = rgb.shape[-2:]
    if min(height, width) < MIN_SIDE:
        raise ImageError(
            f'{name}: {width}x{height} pixels are too few to measure; take an image of at least {MIN_SIDE}x{MIN_SIDE}'
        )
    return SourceImage(name, (rgb * 255).round() / 255, notes)
