"""Pairs from high-resolution images and Real-ESRGAN's degradations of them, the same in every run."""

from __future__ import annotations

import hashlib
import os.path as osp
from collections.abc import Mapping
from typing import Any

import torch
from basicsr.utils.registry import DATASET_REGISTRY

from rsr_basicsr.data.degradations import WholeImageDegrader
from rsr_basicsr.data.reduced_image_dataset import ReducedImageDataset
from rsr_basicsr.options import degradation_blocks
from rsr_basicsr.options.parsing import parse_open
from rsr_basicsr.utils.errors import OptionsError


@DATASET_REGISTRY.register()
class DegradedImageDataset(ReducedImageDataset):
    """Pairs for validation and benchmarks: high-resolution images behind Real-ESRGAN's two-stage degradations.

    Blur, change of size, noise and JPEG, twice, and sinc filters (Wang et al. 2021), by BasicSR's code. They are drawn
    from ``seed`` and the image's file name, so that an image is the same in any order, process and worker. The
    original is not sharpened before. Last bits may differ between versions of torch.

    Args (keys of ``opt``):
        dataroot_gt, io_backend, scale, crop, meta_info_file: as of :class:`ReducedImageDataset`.
        num_images: use only the first images, by path.
        seed: what is drawn (0).
        resize_prob, ..., kernel_list, ...: the degradation keys of RealESRNetModel and RealESRGANDataset, by default
            the values that Real-ESRGAN fine-tunes x4plus with.

    Raises:
        OptionsError: a value is wrong.
    """

    paths: list[str]

    def __init__(self, opt: Mapping[str, Any]) -> None:
        checked = dict(opt)
        where = str(checked.get('name', 'DegradedImageDataset'))
        parse_open(checked, degradation_blocks.DegradedImageOptions, where)
        check_degradations(checked, where)
        super().__init__(checked)
        self.paths = sorted(self.paths)[: checked.get('num_images')]
        self.degrader = WholeImageDegrader(checked)
        crop, scale, least = checked.get('crop'), checked['scale'], self.degrader.smallest
        if crop is not None and crop // scale * scale < least:
            raise OptionsError(
                f'{where}.crop: {crop} is too small, these degradations need at least {-(-least // scale) * scale}'
            )

    def low_resolution(self, gt: torch.Tensor, path: str) -> torch.Tensor:
        least = self.degrader.smallest
        if min(gt.shape[-2:]) < least:
            raise ValueError(
                f'the image is {gt.shape[-1]}x{gt.shape[-2]}, and these degradations need at least {least} pixels per '
                'side; enlarge crop, raise the lower end of resize_range, or remove the image'
            )
        name = osp.splitext(osp.basename(path))[0]
        drawn = hashlib.sha256(f'{self.opt["seed"]} {name}'.encode()).digest()
        return self.degrader.degrade(gt, int.from_bytes(drawn[:4], 'little'))


def check_degradations(dataset: Mapping[str, Any], where: str) -> None:
    """Check what several keys of a block, each of its final type, say together.

    Raises:
        OptionsError: one sentence with the key, the value and the remedy.
    """
    for number in ('', '2'):
        kernels, shares = dataset[f'kernel_list{number}'], dataset[f'kernel_prob{number}']
        if len(kernels) != len(shares):
            raise OptionsError(
                f'{where}.kernel_prob{number}: expected a number for each of the {len(kernels)} kernels of '
                f'kernel_list{number}, got {shares}'
            )
    for name in ('color', 'mean', 'std'):
        if dataset.get(name) is not None:
            raise OptionsError(f'{where}.{name}: {dataset[name]}: DegradedImageDataset degrades RGB images; remove it')
