"""Measure networks on real images, for docs/results.md: fidelity on real pairs, naturalness without a reference.

    python scripts/measure_results.py released=realesr-general-x4v3 defended=defended-general-x4v3 \
        --pairs City100 --images RealSRSet --photos BSD100

--pairs names a folder with the subfolders HR and LRx4 of equal file names: PSNR (Y) and LPIPS of the outputs.
--images names a folder of low-resolution images: NIQE of the outputs, and how steady they are, PSNR between the outputs
for two draws of noise, and between those with and without JPEG. --photos names a folder of photos: PSNR and LPIPS
of the outputs for their middle, 160x160, reduced, and behind Real-ESRGAN's degradations. All are means over images,
outputs rounded to 8 bits.
"""

from __future__ import annotations

import rsr_basicsr  # noqa: F401  # isort: skip  (it makes ``import basicsr`` possible on new torchvision)

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from basicsr.metrics import calculate_metric
from basicsr.utils import img2tensor, tensor2img
from torch import nn

from rsr_basicsr.data.degraded_image_dataset import DegradedImageDataset
from rsr_basicsr.data.reduced_image_dataset import ReducedImageDataset
from rsr_basicsr.inference.recognition import open_network
from rsr_basicsr.ops.perceptual import perceptual_measure
from rsr_basicsr.utils.errors import RSRError

SCALE, CROP = 4, 160
BORDER = 4  # pixels that no measure sees
NOISE = 2  # grey levels, standard deviation of each of the two draws
QUALITY = 90  # of JPEG


def main() -> int:
    """Print one table per folder, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('networks', nargs='+', metavar='NAME=WEIGHTS', help='weight files, or names of rsr weights')
    parser.add_argument('--pairs', type=Path, help='folder with HR and LRx4')
    parser.add_argument('--images', type=Path, help='folder of low-resolution images')
    parser.add_argument('--photos', type=Path, help='folder of high-resolution photos')
    parser.add_argument('--backbone', help='weights of the network of LPIPS, instead of fetching them')
    args = parser.parse_args()
    try:
        networks = opened(args.networks)
    except RSRError as error:
        print(f'measure_results: {error}', file=sys.stderr)
        return error.exit_code
    sets: dict[str, list[Pair]] = {}
    if args.pairs:
        sets[args.pairs.name] = [read_pair(hr, args.pairs / 'LRx4' / hr.name) for hr in images(args.pairs / 'HR')]
    if args.photos:
        for kind, cls in (('reduced', ReducedImageDataset), ('degraded', DegradedImageDataset)):
            sets[f'{args.photos.name}, {kind}'] = reduced(cls, args.photos)
    for name, pairs in sets.items():
        lpips = perceptual_measure('lpips', args.backbone)
        print(f'\n| {name}, {len(pairs)} images | PSNR | LPIPS |\n|---|---|---|')
        for label, net in networks.items():
            psnr, distance = np.mean([fidelity(net, pair, lpips) for pair in pairs], axis=0)
            print(f'| {label} | {psnr:.2f} | {distance:.3f} |', flush=True)
    if args.images:
        print(f'\n| {args.images.name} | NIQE | noise of {NOISE} twice, dB | JPEG {QUALITY}, dB |\n|---|---|---|---|')
        for name, net in networks.items():
            paths = images(args.images)
            noise, jpeg = np.mean([steadiness(net, path) for path in paths], axis=0)
            natural = np.mean([naturalness(net, path) for path in paths])
            print(f'| {name} | {natural:.2f} | {noise:.2f} | {jpeg:.2f} |', flush=True)
    return 0


def opened(words: Sequence[str]) -> dict[str, nn.Module]:
    """The networks of words NAME=WEIGHTS, by name.

    Raises:
        RSRError: weights cannot be opened.
    """
    return {name: open_network(weights).eval() for name, _, weights in (word.partition('=') for word in words)}


def images(folder: Path) -> list[Path]:
    """The images of a folder, by name."""
    return sorted(path for path in folder.iterdir() if cv2.haveImageReader(str(path)))


class Pair(NamedTuple):
    """A low-resolution image and its original, (H, W, 3) BGR of 8 bits."""

    lq: np.ndarray
    hr: np.ndarray


def read_pair(hr: Path, lq: Path) -> Pair:
    """The pair of two files."""
    return Pair(read(lq), read(hr))


def read(path: Path) -> np.ndarray:
    """An image of a folder, (H, W, 3) BGR of 8 bits."""
    image = cv2.imread(str(path))
    if image is None:
        raise RSRError(f'{path}: it cannot be read as an image; save it again or remove it')
    return np.asarray(image, np.uint8)


def reduced(cls: type[ReducedImageDataset], photos: Path) -> list[Pair]:
    """The pairs of a data set, from the middle of each photo."""
    options = {'name': 'photos', 'type': cls.__name__, 'dataroot_gt': str(photos), 'io_backend': {'type': 'disk'}}
    dataset = cls({**options, 'scale': SCALE, 'phase': 'val', 'crop': CROP})
    items = [dataset[number] for number in range(len(dataset))]
    return [Pair(tensor2img(item['lq']), tensor2img(item['gt'])) for item in items]


def fidelity(net: nn.Module, pair: Pair, lpips: nn.Module) -> tuple[float, float]:
    """PSNR (Y) and LPIPS of the output for a low-resolution image."""
    output = upscaled(net, pair.lq)
    tensors = [img2tensor(x[BORDER:-BORDER, BORDER:-BORDER] / 255.0, float32=True)[None] for x in (output, pair.hr)]
    metric = {'type': 'calculate_psnr', 'crop_border': BORDER, 'test_y_channel': True}
    with torch.no_grad():
        return calculate_metric({'img': output, 'img2': pair.hr}, metric), float(lpips(*tensors))


def naturalness(net: nn.Module, path: Path) -> float:
    """NIQE of the output for an image."""
    output = upscaled(net, read(path))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return float(calculate_metric({'img': output}, {'type': 'calculate_niqe', 'crop_border': BORDER}))


def steadiness(net: nn.Module, path: Path) -> tuple[float, float]:
    """PSNR in dB between the outputs for an image with two draws of noise, and between those with and without JPEG."""
    image = read(path)
    draw = np.random.default_rng(0)
    noisy = [np.clip(image + np.rint(draw.normal(0, NOISE, image.shape)), 0, 255).astype(np.uint8) for _ in range(2)]
    saved = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    jpeg = np.asarray(cv2.imdecode(saved, cv2.IMREAD_COLOR), np.uint8)
    metric = {'type': 'calculate_psnr', 'crop_border': BORDER}
    pairs = [noisy, [image, jpeg]]
    found = [[upscaled(net, each) for each in pair] for pair in pairs]
    first, second = (float(calculate_metric({'img': a, 'img2': b}, dict(metric))) for a, b in found)
    return first, second


def upscaled(net: nn.Module, image: np.ndarray) -> np.ndarray:
    """The output for an image, both (H, W, 3) BGR of 8 bits."""
    with torch.no_grad():
        return tensor2img(net(img2tensor(image / 255.0, float32=True)[None]))


if __name__ == '__main__':
    sys.exit(main())
