"""Cost of the built-in detectors, and attacks that evade them: python scripts/measure_detector.py [--only ...]

``time`` compares a decision with a forward pass of the networks it protects, timed in turn. ``aware`` attacks a network
together with its detector (DetectorAware) and prints how many images evade it, and the stability under those. ``crops``
counts false alarms on random crops of photos.
"""

from __future__ import annotations

import rsr_basicsr  # noqa: F401  isort: skip  (it makes ``import basicsr`` possible on new torchvision)

import argparse
import functools
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from basicsr.archs import build_network
from timing import describe, fastest

from rsr_basicsr.archs.defense import CLASSIFIERS, Defense, build_classifier
from rsr_basicsr.attacks import PGD, DetectorAware
from rsr_basicsr.catalog.choices import BUILTIN, UNTRAINED
from rsr_basicsr.catalog.weights import WEIGHTS
from rsr_basicsr.data import write_evaluation_pairs
from rsr_basicsr.inference.image_io import read_image
from rsr_basicsr.inference.listing import find_images
from rsr_basicsr.weights.official import fetch
from rsr_basicsr.weights.state_dict import load_network

NETWORKS = ('RealESRGAN_x4plus', 'realesr-general-x4v3', 'realesr-animevideov3')


def measure_time(size: int) -> None:
    """Print the time of a decision as a share of a forward pass."""
    x = torch.rand(1, 3, size, size)
    classifiers = {name: build_classifier({'type': name, 'weights': UNTRAINED}).eval() for name in CLASSIFIERS}
    with torch.no_grad():
        for name in NETWORKS:
            net = build_network(dict(WEIGHTS[name].network)).eval()
            sides: list[Callable[[], Any]] = [functools.partial(each, x) for each in (net, *classifiers.values())]
            whole, *decisions = fastest(sides, 2, x.device)
            shares = '; '.join(
                f'{kind} {1000 * time:.1f} ms, {100 * time / whole:.2f} %' for kind, time in zip(classifiers, decisions)
            )
            print(f'{name} on {size}x{size}: {whole:.2f} s. A decision by {shares}', flush=True)


def measure_aware(name: str, kinds: Sequence[str], photos: str | None, eps: float, steps: int, images: int) -> None:
    """Print how many images evade each detector, and the stability under PGD and under the evading images."""
    options = dict(WEIGHTS[name].network)
    options.update(type=f'Defended{options["type"]}', weights=fetch(name))
    lq = _images(photos)[:images]
    for kind in kinds:
        net: Any = load_network({**options, 'defense': {'classifier': {'type': kind, 'weights': BUILTIN}, 'seed': 0}})
        with torch.no_grad(), net.defense.forced(False):
            clean = net(lq).clamp(0, 1)
        plain = PGD(eps=eps, steps=steps, quantize='nearest', gate='never', seed=0)(net, lq)
        found = DetectorAware(eps=eps, steps=steps, quantize='nearest', seed=0).evade(net, lq)
        with torch.no_grad(), net.defense.forced(False):
            loss = {
                label: -10 * (net(x).clamp(0, 1) - clean).square().mean(dim=(1, 2, 3)).log10()
                for label, x in (('plain', plain), ('evading', found.undetected))
            }
        evaded = found.evaded
        print(
            f'{name}, {kind}, eps {eps:g}, {len(lq)} images: flagged clean {int(net.defense.attacked(lq).sum())}, '
            f'flagged under PGD {int(net.defense.attacked(plain).sum())}; {int(evaded.sum())} evade under '
            f'DetectorAware({steps} steps per weight). Stability, unmasked: PGD {loss["plain"].mean():.1f} dB, '
            'evading ' + (f'{loss["evading"][evaded].mean():.1f} dB' if evaded.any() else 'none'),
            flush=True,
        )


def measure_crops(folder: str, kinds: Sequence[str], per_image: int = 20) -> None:
    """Print how many random crops of photos as they come are flagged, and of which photos most are."""
    for kind in kinds:
        defense = Defense(classifier={'type': kind, 'weights': BUILTIN}).eval()
        for side in (64, 128):
            drawn, flagged, generator = 0, Counter[str](), torch.Generator().manual_seed(0)
            for path in find_images([folder]):
                image = read_image(path).rgb
                if min(image.shape[-2:]) < side:
                    continue
                for _ in range(per_image):
                    top, left = (
                        int(torch.randint(length - side + 1, (), generator=generator)) for length in image.shape[-2:]
                    )
                    crop = image[..., top : top + side, left : left + side]
                    flagged[Path(path).name] += int(defense.attacked(crop).sum())
                    drawn += 1
            worst = ', '.join(f'{name} {count}' for name, count in flagged.most_common(3) if count)
            print(f'{folder}, {kind}: {flagged.total()} of {drawn} crops of {side}x{side} flagged; {worst}', flush=True)


def _images(folder: str | None) -> torch.Tensor:
    """Centre crops of 64x64 of the images in a folder, by default of scikit-image photos reduced by 4."""
    with tempfile.TemporaryDirectory() as scratch:
        if folder is None:
            write_evaluation_pairs(Path(scratch) / 'gt', Path(scratch) / 'lq')
        windows = []
        for path in find_images([folder or str(Path(scratch) / 'lq')]):
            image = read_image(path).rgb
            top, left = ((side - 64) // 2 for side in image.shape[-2:])
            windows.append(image[..., top : top + 64, left : left + 64])
    return torch.cat(windows)


def main() -> None:
    """Run the sections asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--only', choices=['time', 'aware', 'crops'])
    parser.add_argument('--size', type=int, default=256)
    parser.add_argument('--network', choices=NETWORKS, default=NETWORKS[-1])
    parser.add_argument('--types', nargs='+', choices=tuple(CLASSIFIERS), default=['ensemble'])
    parser.add_argument('--photos', metavar='FOLDER', help='low-quality images of at least 64x64')
    parser.add_argument('--eps', type=float, nargs='+', default=[8.0])
    parser.add_argument('--steps', type=int, default=10)
    parser.add_argument('--images', type=int, default=8)
    args = parser.parse_args()
    print(describe(torch.device('cpu')))
    if args.only == 'crops':
        if args.photos is None:
            parser.error('--only crops: name the photos by --photos')
        measure_crops(args.photos, args.types)
    if args.only in (None, 'time'):
        measure_time(args.size)
    if args.only in (None, 'aware'):
        for eps in args.eps:
            measure_aware(args.network, args.types, args.photos, eps, args.steps, args.images)


if __name__ == '__main__':
    main()
