"""Clean low-quality images of many kinds, made of photos, by Real-ESRGAN's degradations and others."""

from __future__ import annotations

import functools
import os
import os.path as osp
import random
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from basicsr.data.realesrgan_dataset import RealESRGANDataset
from basicsr.models.realesrnet_model import RealESRNetModel
from basicsr.utils import DiffJPEG
from torch.utils.data import default_collate

from rsr_basicsr.data.clean_kinds import KINDS, from_8_bit, to_8_bit
from rsr_basicsr.utils.errors import ImageError
from rsr_basicsr.utils.random_streams import random_streams_kept

REAL_ESRGAN = 'real_esrgan'
SMALLEST = 16  # pixels of a side of a photo


class RealESRGANDegradations(RealESRNetModel):
    """Real-ESRGAN's second-order degradations, by BasicSR's own data set and model, without a network.

    Each image draws a strength in (0, 1]: its noise, blur, compression and resizing are drawn from ranges that
    reach from the mild ends to that share of the ones in the options.

    Args:
        photos: paths of photos.
        options: the keys of BasicSR's RealESRNetModel and RealESRGANDataset that concern degradations, in one block.
    """

    MILD = {'resize_range': 1.0, 'noise_range': 1.0, 'poisson_scale_range': 0.05, 'jpeg_range': 95.0, 'blur_sigma': 0.2}
    GT_SIZE = 400  # what RealESRGANDataset makes of any photo

    def __init__(self, photos: Sequence[str], options: Mapping[str, Any]):
        # Not the parent's, since there is no network to build.
        self.options = {**options, 'gt_usm': False, 'use_hflip': False, 'use_rot': False, 'gt_size': self.GT_SIZE}
        self.device, self.is_train = torch.device('cpu'), True
        self.jpeger = DiffJPEG(differentiable=False)
        self.photos = RealESRGANDataset(
            {**self.options, 'dataroot_gt': '', 'meta_info': os.devnull, 'io_backend': {'type': 'disk'}}
        )
        self.photos.paths = list(photos)  # of a list it would read, names end at the first blank

    def _dequeue_and_enqueue(self):
        """No pair pool: an image depends on its own random numbers only."""

    def make(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """The image made of photo number ``index``, float32 RGB (H, W, 3)."""
        strength = rng.uniform(0.05, 1)
        options = dict(self.options)
        for name, mild in self.MILD.items():
            for key in (name, f'{name}2'):
                options[key] = [mild + strength * (end - mild) for end in self.options[key]]
        self.opt = self.photos.opt = options
        self.photos.blur_sigma, self.photos.blur_sigma2 = options['blur_sigma'], options['blur_sigma2']
        with random_streams_kept():
            seed = int(rng.integers(2**31))
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
            self.feed_data(default_collate([self.photos[index]]))
        return self.lq[0].permute(1, 2, 0).numpy()


class CleanImages:
    """Clean images of the kinds asked for, each a function of its random numbers.

    Args:
        photos: paths of photos, 8 bit.
        kinds: share of each kind, by its name in :data:`KINDS`; or ``real_esrgan``.
        size: height and width of the images.
        real_esrgan: options of :class:`RealESRGANDegradations`, for the kind ``real_esrgan``.
        grey: share of the images that lose their colours.
    """

    def __init__(
        self,
        photos: Sequence[str],
        kinds: Mapping[str, float],
        size: int,
        real_esrgan: Mapping[str, Any] | None = None,
        grey: float = 0.05,
    ):
        self.photos, self.size, self.grey = list(photos), size, grey
        self.kinds, shares = list(kinds), np.array(list(kinds.values()), dtype=float)
        self.shares = shares / shares.sum()
        self.degradations = RealESRGANDegradations(self.photos, real_esrgan) if REAL_ESRGAN in kinds else None
        self._read = functools.lru_cache(maxsize=64)(read_photo)

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, str, str]:
        """One image, uint8 RGB (size, size, 3), its kind, and the name of its photo."""
        kind, index = str(rng.choice(self.kinds, p=self.shares)), int(rng.integers(len(self.photos)))
        path = self.photos[index]
        photo = self._read(path)
        image = (
            self.degradations.make(index, rng)
            if kind == REAL_ESRGAN
            else KINDS[kind](_oriented(from_8_bit(photo), rng), rng)
        )
        if rng.random() < self.grey:
            image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
        return to_8_bit(_cropped(image, self.size, rng)), kind, osp.basename(path)


def read_photo(path: str) -> np.ndarray:
    """A photo as uint8 RGB (H, W, 3).

    Raises:
        ImageError: the file cannot be read, or the photo is too small to be reduced.
    """
    bgr = cv2.imread(path, cv2.IMREAD_COLOR)
    if bgr is None:
        raise ImageError(f'{path} is not an image that can be read; take it out of the folder')
    if min(bgr.shape[:2]) < SMALLEST:
        raise ImageError(
            f'{path} is {bgr.shape[1]}x{bgr.shape[0]}, photos have at least {SMALLEST} pixels a side; '
            'take it out of the folder'
        )
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _oriented(photo, rng):
    """Turned and mirrored at random, so that a photo gives more images."""
    turned = np.rot90(photo, int(rng.integers(4)))
    return np.ascontiguousarray(turned[:, ::-1] if rng.random() < 0.5 else turned)


def _cropped(image, size, rng):
    """A random window, of the image beside its mirror image where it is too small."""
    missing = [max(0, size - side) for side in image.shape[:2]]
    if any(missing):
        image = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode='symmetric')
    for _ in range(4):
        top, left = (int(rng.integers(side - size + 1)) for side in image.shape[:2])
        window = image[top : top + size, left : left + size]
        if window.std(axis=(0, 1)).max() > 0.02:  # drawings and screenshots are flat in most places
            break
    return window
