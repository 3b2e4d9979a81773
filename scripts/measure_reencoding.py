"""What saving an attacked image does to the detector and to the attack: python scripts/measure_reencoding.py PHOTOS

Crops of photos as they come are attacked on a network, saved and resized in several ways, and shown to the built-in
detector. Thresholds for 1 % and 0.1 % of false positives are quantiles over untreated clean crops, so they need many
crops. ``effect`` is the stability of the network between the treated attacked and the treated clean image: as low as
for the PNG, the attack is still there.
"""

from __future__ import annotations

import rsr_basicsr  # noqa: F401  isort: skip  (it makes ``import basicsr`` possible on new torchvision)

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean

import cv2
import numpy as np
import torch
from basicsr.utils import img2tensor, tensor2img
from torch import nn

from rsr_basicsr.archs.classifier import SampleClassifier, log_odds
from rsr_basicsr.archs.defense import build_classifier
from rsr_basicsr.attacks import PGD
from rsr_basicsr.catalog.choices import BUILTIN
from rsr_basicsr.inference.listing import find_images
from rsr_basicsr.inference.recognition import open_network
from rsr_basicsr.metrics import calculate_stability

Treatment = Callable[[np.ndarray], np.ndarray]
RATES = (0.01, 0.001)


def encoded(suffix: str, *options: int) -> Treatment:
    """Save as a file of that type and read it again."""
    return lambda image: cv2.imdecode(cv2.imencode(suffix, image, options)[1], cv2.IMREAD_COLOR)


def resized(factor: float) -> Treatment:
    """Change the size by bicubic interpolation."""
    return lambda image: cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)


TREATMENTS: dict[str, Treatment] = {
    'PNG': lambda image: image,
    **{f'JPEG {quality}': encoded('.jpg', cv2.IMWRITE_JPEG_QUALITY, quality) for quality in (100, 95, 90, 80, 70)},
    **{f'WebP {quality}': encoded('.webp', cv2.IMWRITE_WEBP_QUALITY, quality) for quality in (90, 80)},
    **{f'resized by {factor}': resized(factor) for factor in (0.9, 0.95, 1.05, 1.1)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('photos', nargs='+', help='photos or folders of photos, as they come')
    parser.add_argument('-n', '--network', default='realesr-animevideov3', help='official name or weight file')
    parser.add_argument('--side', type=int, default=64, help='of the crops in pixels')
    parser.add_argument('--clean', type=int, default=1000, help='number of clean crops')
    parser.add_argument('--attacked', type=int, default=30, help='number of attacked crops')
    parser.add_argument('--eps', type=float, default=8)
    parser.add_argument('--steps', type=int, default=10)
    args = parser.parse_args()
    detector = build_classifier({'weights': BUILTIN}).eval()
    draw = random.Random(0)
    crops = list(_crops(find_images(args.photos), args.side, args.clean, draw))
    scores = np.array([_score(detector, crop) for crop in crops])
    limits = {rate: float(np.quantile(scores, 1 - rate)) for rate in RATES}
    print(
        f'{len(crops)} clean crops of {args.side}x{args.side}: {int((scores > 0).sum())} flagged at the shipped '
        f'threshold ({100 * np.mean(scores > 0):.1f} %)'
    )
    net = open_network(args.network).requires_grad_(False)
    clean = draw.sample(crops, args.attacked)
    attack = PGD(eps=args.eps, steps=args.steps, quantize='nearest', seed=0)
    attacked = [tensor2img(attack(net, _tensor(crop))) for crop in clean]
    print(f'{args.attacked} of them attacked on {args.network}, PGD-{args.steps}, eps {args.eps:g}')
    print('| saved as | flagged | at 1 % | at 0.1 % | effect, dB |\n|---|---:|---:|---:|---:|')
    for name, treat in TREATMENTS.items():
        found = [_score(detector, treat(image)) for image in attacked]
        counts = [sum(score > limit for score in found) for limit in (0, *limits.values())]
        effect = fmean(_effect(net, treat(image), treat(crop)) for image, crop in zip(attacked, clean))
        print(f'| {name} | {" | ".join(map(str, counts))} | {effect:.1f} |', flush=True)


def _crops(paths: Sequence[object], side: int, count: int, draw: random.Random) -> Iterator[np.ndarray]:
    """Random crops, BGR uint8, as many of each photo."""
    each = -(-count // len(paths))
    for path in paths:
        image = cv2.imread(str(path))
        if image is None or min(image.shape[:2]) < side:
            continue
        for _ in range(each):
            top, left = (draw.randint(0, length - side) for length in image.shape[:2])
            yield image[top : top + side, left : left + side]


def _tensor(image: np.ndarray) -> torch.Tensor:
    return img2tensor(image.astype(np.float32) / 255)[None]


def _score(detector: SampleClassifier, image: np.ndarray) -> float:
    """Log odds against the shipped threshold: above 0 the image is flagged."""
    with torch.no_grad():
        odds = log_odds(detector(_tensor(image)))
        return float(odds + torch.as_tensor(detector.threshold).to(odds).logit(eps=1e-6))


def _effect(net: nn.Module, attacked: np.ndarray, clean: np.ndarray) -> float:
    with torch.no_grad():
        outputs = [tensor2img(net(_tensor(image))) for image in (attacked, clean)]
    return calculate_stability(outputs[0], outputs[1], crop_border=4)


if __name__ == '__main__':
    main()
