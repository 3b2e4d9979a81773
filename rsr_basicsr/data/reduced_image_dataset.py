"""Pairs from high-resolution images and their antialiased bicubic reductions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from basicsr.data.single_image_dataset import SingleImageDataset
from basicsr.utils.registry import DATASET_REGISTRY

from rsr_basicsr.ops.resize import reduced


@DATASET_REGISTRY.register()
class ReducedImageDataset(SingleImageDataset):
    """Pairs for validation and benchmarks, from the high-resolution images of a folder or an LMDB data set.

    The low-resolution image is the antialiased bicubic reduction (MATLAB's ``imresize``), rounded to 8 bits.

    Args (keys of ``opt``):
        dataroot_gt: folder or LMDB data set.
        io_backend: as in BasicSR.
        scale: reduction factor, a whole number.
        crop: side of a centre crop in pixels of the high-resolution image; smaller images stay whole.
        meta_info_file: as in BasicSR's SingleImageDataset.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__({**opt, 'dataroot_lq': opt['dataroot_gt']})

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``gt`` (3, H, W) and ``lq`` (3, H / scale, W / scale), RGB in [0, 1], with ``gt_path`` and ``lq_path``."""
        item = super().__getitem__(index)
        gt = _centre(item['lq'], self.opt.get('crop'), self.opt['scale'])
        lq = self.low_resolution(gt, item['lq_path'])
        return {'lq': lq, 'gt': gt, 'lq_path': item['lq_path'], 'gt_path': item['lq_path']}

    def low_resolution(self, gt: torch.Tensor, path: str) -> torch.Tensor:
        """The low-resolution image (3, H / scale, W / scale) of an original (3, H, W), both RGB in [0, 1].

        Args:
            gt: the original.
            path: its file.
        """
        return torch.from_numpy(reduced(gt.permute(1, 2, 0).numpy(), self.opt['scale'])).float().permute(2, 0, 1)


def _centre(image: torch.Tensor, side: int | None, scale: int) -> torch.Tensor:
    """The centre crop, or the whole image, with sides reduced to multiples of the scale."""
    sides = [min(side or length, length) // scale * scale for length in image.shape[-2:]]
    top, left = ((length - kept) // 2 for length, kept in zip(image.shape[-2:], sides))
    return image[..., top : top + sides[0], left : left + sides[1]].contiguous()
