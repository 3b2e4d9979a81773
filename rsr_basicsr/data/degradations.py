"""Real-ESRGAN's degradations of an image, by BasicSR's own data set and model, without a network."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np
import torch
from basicsr.data.realesrgan_dataset import RealESRGANDataset
from basicsr.models.realesrnet_model import RealESRNetModel
from basicsr.utils import DiffJPEG
from torch.utils.data import default_collate

from rsr_basicsr.ops.random_streams import random_streams_seeded

#: Height and width of the images of BasicSR's RealESRGANDataset
GT_SIZE = 400
_REACH = 10  # pixels that a kernel of Real-ESRGAN takes from beyond the border, by reflection


class Degrader(RealESRNetModel):
    """BasicSR's RealESRNetModel as far as it degrades images: neither network, sharpening nor pair pool.

    Args:
        options: the degradation keys of RealESRNetModel.
        gt_size: side of the square that ``feed_data`` cuts out of its results, in pixels of the original.
    """

    def __init__(self, options: Mapping[str, Any], gt_size: int) -> None:
        # Does not call the parent's, which would build a network.
        self.opt = {**options, 'gt_usm': False, 'gt_size': gt_size}
        self.device, self.is_train = torch.device('cpu'), True
        self.jpeger = DiffJPEG(differentiable=False)

    def _dequeue_and_enqueue(self) -> None:
        """No pair pool: an image depends on its own random numbers only."""


def kernel_dataset(options: Mapping[str, Any]) -> RealESRGANDataset:
    """BasicSR's data set, which draws the blur kernels; without images, flips and turns.

    Args:
        options: its keys for kernels.
    """
    return RealESRGANDataset(
        {
            **options,
            'use_hflip': False,
            'use_rot': False,
            'dataroot_gt': '',
            'meta_info': os.devnull,
            'io_backend': {'type': 'disk'},
        }
    )


class WholeImageDegrader(Degrader):
    """Degrades an image of any size as a whole; the result depends on the image and a seed alone.

    Args:
        options: the degradation keys of BasicSR's RealESRNetModel and RealESRGANDataset, and ``scale``.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options, gt_size=options['scale'])
        self.kernels = kernel_dataset(options)
        self.kernels.paths, self.kernels.file_client = [''], _Black()
        self._assigned: list[torch.Tensor] = []

    @property
    def lq(self) -> torch.Tensor:
        """The last value that ``feed_data`` set: at first the whole result, then a square cut out of it."""
        return self._assigned[-1]

    @lq.setter
    def lq(self, value: torch.Tensor) -> None:
        self._assigned.append(value)

    @property
    def smallest(self) -> int:
        """The smallest side of an original in pixels: below, a kernel would reach beyond a reduced image."""
        return int(max((_REACH + 1) / min(self.opt['resize_range'][0], 1), (_REACH + 1) * self.opt['scale'])) + 1

    def degrade(self, gt: torch.Tensor, seed: int) -> torch.Tensor:
        """Degrade and reduce an image.

        Args:
            gt: RGB (3, H, W) in [0, 1], sides multiples of the scale, at least :attr:`smallest`.
            seed: of all that is drawn.

        Returns:
            (3, H / scale, W / scale): whole multiples of 1/255 in [0, 1].
        """
        self._assigned.clear()
        # The last bits of a convolution depend on the number of threads, and loaders have another than their parent.
        with random_streams_seeded(seed), _one_thread():
            drawn = self.kernels[0]
            self.feed_data(default_collate([{**drawn, 'gt': gt}]))
        return self._assigned[0][0]


class _Black:
    """In place of BasicSR's file client: each file is a black image of the size that the data set cuts out."""

    def __init__(self) -> None:
        self.content = cv2.imencode('.png', np.zeros((GT_SIZE, GT_SIZE, 3), np.uint8))[1].tobytes()

    def get(self, path: str, client: str) -> bytes:
        return self.content


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
