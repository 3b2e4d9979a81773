"""Clean low-quality images: photos degraded by Real-ESRGAN's degradations or another kind."""

from __future__ import annotations

import functools
import os.path as osp
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch.utils.data import default_collate

from rsr_basicsr.data.clean_kinds import KINDS, from_8_bit, to_8_bit
from rsr_basicsr.data.degradations import GT_SIZE, Degrader, kernel_dataset
from rsr_basicsr.ops.random_streams import random_streams_seeded
from rsr_basicsr.utils.errors import ImageError
from rsr_basicsr.utils.image_formats import read_bgr

REAL_ESRGAN = 'real_esrgan'
SMALLEST = 16  # least side of a photo in pixels


class RealESRGANDegradations(Degrader):
    """Real-ESRGAN's second-order degradations, by BasicSR's data set and model, without a network.

    Each image has a random strength in (0, 1], which scales the ranges of noise, blur, compression and resizing: 0 is
    the mild end, 1 the ranges in the options.

    Args:
        photos: paths of photos.
        options: the degradation keys of BasicSR's RealESRNetModel and RealESRGANDataset, in one block.
    """

    MILD = {'resize_range': 1.0, 'noise_range': 1.0, 'poisson_scale_range': 0.05, 'jpeg_range': 95.0, 'blur_sigma': 0.2}

    def __init__(self, photos: Sequence[str], options: Mapping[str, Any]) -> None:
        super().__init__(options, GT_SIZE)
        self.photos = kernel_dataset(options)
        self.photos.paths = list(photos)  # a meta_info file cannot hold names with blanks
        self.options = {**self.photos.opt, **self.opt}

    def make(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """Degrade the photo at ``index``; float32 RGB (H, W, 3) in [0, 1]."""
        strength = rng.uniform(0.05, 1)
        options = dict(self.options)
        for name, mild in self.MILD.items():
            for key in (name, f'{name}2'):
                options[key] = [mild + strength * (end - mild) for end in self.options[key]]
        self.opt = self.photos.opt = options
        self.photos.blur_sigma, self.photos.blur_sigma2 = options['blur_sigma'], options['blur_sigma2']
        with random_streams_seeded(int(rng.integers(2**31))):
            self.feed_data(default_collate([self.photos[index]]))
        return self.lq[0].permute(1, 2, 0).numpy()


class CleanImages:
    """Clean images of several kinds, each a function of its random numbers.

    Args:
        photos: paths of 8-bit photos.
        kinds: share of each kind; keys are names of :data:`KINDS`, or ``real_esrgan``.
        size: height and width of the images.
        real_esrgan: options of :class:`RealESRGANDegradations`, for the kind ``real_esrgan``.
        grey: share of the images converted to grey.
    """

    def __init__(
        self,
        photos: Sequence[str],
        kinds: Mapping[str, float],
        size: int,
        real_esrgan: Mapping[str, Any] | None = None,
        grey: float = 0.05,
    ) -> None:
        self.photos, self.size, self.grey = list(photos), size, grey
        self.kinds, shares = list(kinds), np.array(list(kinds.values()), dtype=float)
        self.shares = shares / shares.sum()
        self.degradations = RealESRGANDegradations(self.photos, real_esrgan or {}) if REAL_ESRGAN in kinds else None
        self._read = functools.lru_cache(maxsize=64)(read_photo)

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, str, str]:
        """A random image, uint8 RGB (size, size, 3), its kind, and the file name of its photo."""
        kind, index = str(rng.choice(self.kinds, p=self.shares)), int(rng.integers(len(self.photos)))
        path = self.photos[index]
        photo = self._read(path)
        if self.degradations is not None and kind == REAL_ESRGAN:
            image = self.degradations.make(index, rng)
        else:
            image = KINDS[kind](_oriented(from_8_bit(photo), rng), rng)
        if rng.random() < self.grey:
            image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
        return to_8_bit(_cropped(image, self.size, rng)), kind, osp.basename(path)


def read_photo(path: str) -> np.ndarray:
    """Read a photo as uint8 RGB (H, W, 3).

    Raises:
        ImageError: the file cannot be read, or a side is below :data:`SMALLEST`.
    """
    bgr = read_bgr(Path(path))
    if bgr is None:
        raise ImageError(f'{path} is not an image that can be read; remove it from the folder')
    if min(bgr.shape[:2]) < SMALLEST:
        raise ImageError(
            f'{path} is {bgr.shape[1]}x{bgr.shape[0]}, expected at least {SMALLEST} pixels per side; '
            'remove it from the folder'
        )
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _oriented(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotate by a multiple of 90 degrees and mirror at random, for more variety per photo."""
    turned = np.rot90(photo, int(rng.integers(4)))
    return np.ascontiguousarray(turned[:, ::-1] if rng.random() < 0.5 else turned)


def _cropped(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random window; an image that is too small is continued by its mirror image."""
    missing = [max(0, size - side) for side in image.shape[:2]]
    if any(missing):
        image = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode='symmetric')
    for _ in range(4):
        top, left = (int(rng.integers(side - size + 1)) for side in image.shape[:2])
        window = image[top : top + size, left : left + size]
        if window.std(axis=(0, 1)).max() > 0.02:  # retry on flat areas, common in drawings and screenshots
            break
    return window
