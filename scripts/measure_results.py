"""Measure networks on real images, for docs/results.md: fidelity on real pairs, naturalness without a reference.

    python scripts/measure_results.py released=realesr-general-x4v3 defended=defended-general-x4v3 \
        --pairs City100 --images RealSRSet

--pairs names a folder with the subfolders HR and LRx4 of equal file names: PSNR (Y) and LPIPS of the outputs.
--images names a folder of low-resolution images: NIQE of the outputs. Both are means over images, outputs rounded to
8 bits.
"""

from __future__ import annotations

import rsr_basicsr  # noqa: F401  # isort: skip  (it makes ``import basicsr`` possible on new torchvision)

import argparse
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import torch
from basicsr.metrics import calculate_metric
from basicsr.utils import img2tensor, tensor2img
from torch import nn

from rsr_basicsr.inference.recognition import open_network
from rsr_basicsr.ops.perceptual import perceptual_measure
from rsr_basicsr.utils.errors import RSRError

BORDER = 4  # pixels that no measure sees


def main() -> int:
    """Print one table per folder, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('networks', nargs='+', metavar='NAME=WEIGHTS', help='weight files, or names of rsr weights')
    parser.add_argument('--pairs', type=Path, help='folder with HR and LRx4')
    parser.add_argument('--images', type=Path, help='folder of low-resolution images')
    parser.add_argument('--backbone', help='weights of the network of LPIPS, instead of fetching them')
    args = parser.parse_args()
    try:
        networks = {
            name: open_network(weights).eval() for name, _, weights in (w.partition('=') for w in args.networks)
        }
    except RSRError as error:
        print(f'measure_results: {error}', file=sys.stderr)
        return error.exit_code
    if args.pairs:
        lpips = perceptual_measure('lpips', args.backbone)
        print(f'\n| {args.pairs.name} | PSNR | LPIPS |\n|---|---|---|')
        for name, net in networks.items():
            rows = [fidelity(net, hr, args.pairs / 'LRx4' / hr.name, lpips) for hr in images(args.pairs / 'HR')]
            print(
                f'| {name} | {np.mean([row[0] for row in rows]):.2f} | {np.mean([row[1] for row in rows]):.3f} |',
                flush=True,
            )
    if args.images:
        print(f'\n| {args.images.name} | NIQE |\n|---|---|')
        for name, net in networks.items():
            print(f'| {name} | {np.mean([naturalness(net, path) for path in images(args.images)]):.2f} |', flush=True)
    return 0


def images(folder: Path) -> list[Path]:
    """The images of a folder, by name."""
    return sorted(path for path in folder.iterdir() if cv2.haveImageReader(str(path)))


def fidelity(net: nn.Module, hr: Path, lr: Path, lpips: nn.Module) -> tuple[float, float]:
    """PSNR (Y) and LPIPS of the output for a low-resolution image."""
    output, target = upscaled(net, cv2.imread(str(lr))), cv2.imread(str(hr))
    pair = [img2tensor(image[BORDER:-BORDER, BORDER:-BORDER] / 255.0, float32=True)[None] for image in (output, target)]
    metric = {'type': 'calculate_psnr', 'crop_border': BORDER, 'test_y_channel': True}
    with torch.no_grad():
        return calculate_metric({'img': output, 'img2': target}, metric), float(lpips(*pair))


def naturalness(net: nn.Module, path: Path) -> float:
    """NIQE of the output for an image."""
    output = upscaled(net, cv2.imread(str(path)))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return float(calculate_metric({'img': output}, {'type': 'calculate_niqe', 'crop_border': BORDER}))


def upscaled(net: nn.Module, image: np.ndarray) -> np.ndarray:
    """The output for an image, both (H, W, 3) BGR of 8 bits."""
    with torch.no_grad():
        return tensor2img(net(img2tensor(image / 255.0, float32=True)[None]))


if __name__ == '__main__':
    sys.exit(main())
