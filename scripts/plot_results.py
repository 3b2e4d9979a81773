"""Draw the image of docs/results.md: a typical and the worst image of a run of rsr benchmark, chosen by rule.

    python scripts/plot_results.py results/benchmark BSD100 released=realesr-general-x4v3 \
        defended=defended-general-x4v3 -o docs/results.jpg

Typical is the image whose LPIPS to the original under the worst attack is the median one of the last network, worst the
one where it is largest, both at the largest eps. Both are attacked again by every attack of the run.
"""

from __future__ import annotations

import rsr_basicsr  # noqa: F401  # isort: skip  (it makes ``import basicsr`` possible on new torchvision)

import argparse
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import numpy as np
import torch
from basicsr.utils import tensor2img
from measure_results import opened
from results_tables import results_of
from torch import nn

from rsr_basicsr.attacks import Attack, build_attack
from rsr_basicsr.benchmark.images import open_dataset
from rsr_basicsr.benchmark.names import NO_DEFENSE, WORST_CASE
from rsr_basicsr.benchmark.summary import Results, Subject
from rsr_basicsr.utils.errors import RSRError

METRIC = 'lpips'
GAP, LINE = 4, 22  # pixels between images, and of a line of text
FONT, SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.42


def main() -> int:
    """Write the image, print what it shows, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('folder', type=Path, help='of rsr benchmark -o')
    parser.add_argument('photos', type=Path, help='folder of the first data set of the run')
    parser.add_argument('networks', nargs='+', metavar='NAME=WEIGHTS', help='networks of the run')
    parser.add_argument('-o', '--output', type=Path, required=True, help='image to write')
    parser.add_argument('--backbone', help='weights of the network of LPIPS, instead of fetching them')
    args = parser.parse_args()
    results = results_of(args.folder)
    options: dict[str, Any] = {**results.options}
    dataset, eps = results.datasets[0], results.strengths[-1]
    options['datasets'][dataset]['dataroot_gt'] = str(args.photos)
    try:
        networks = opened(args.networks)
    except RSRError as error:
        print(f'plot_results: {error}', file=sys.stderr)
        return error.exit_code
    last = [*networks][-1]
    rows = [
        row(title, name, networks, options, dataset, eps, args.backbone)
        for title, name in chosen(results, dataset, last, eps).items()
    ]
    cv2.imwrite(str(args.output), np.concatenate(rows), [cv2.IMWRITE_JPEG_QUALITY, 88])
    print(args.output)
    return 0


def chosen(results: Results, dataset: str, network: str, eps: float) -> dict[str, str]:
    """The typical and the worst image of a network, by name."""
    found = results.values(dataset, Subject(network, NO_DEFENSE), WORST_CASE, eps, METRIC)
    ranked = sorted(found, key=lambda name: fmean(found[name]))
    return {'typical': ranked[len(ranked) // 2], 'worst': ranked[-1]}


def row(
    title: str,
    name: str,
    networks: dict[str, nn.Module],
    options: dict[str, Any],
    dataset: str,
    eps: float,
    backbone: str | None,
) -> np.ndarray:
    """An image as the original and, of each network, the clean output and that under attack; labelled."""
    data = open_dataset(options, dataset)
    item = next(each for each in map(data.__getitem__, range(len(data))) if Path(each['lq_path']).stem == name)
    lq, gt = item['lq'][None], item['gt'][None]
    attacks = attacks_of(options, eps, backbone)
    shown = [labelled(gt, f'{title}: {name}')]
    for network, net in networks.items():
        with torch.no_grad():
            shown.append(labelled(net(lq), f'{network}, clean'))
        for label, attack in attacks.items():
            attacked = attack(net, lq, gt)
            with torch.no_grad():
                shown.append(labelled(net(attacked), f'{network}, {label} {eps:g}'))
        print(f'{title} {name}: {network} attacked', flush=True)
    return np.concatenate(shown, axis=1)


def attacks_of(options: dict[str, Any], eps: float, backbone: str | None) -> dict[str, Attack]:
    """The attacks of the run, by name."""
    found = {}
    for name, block in options['attacks'].items():
        known = {key: value for key, value in block.items() if key != 'eps'}
        if isinstance(known.get('objective'), dict) and backbone:
            known['objective'] = {**known['objective'], 'backbone': backbone}
        found[name] = build_attack({**known, 'eps': eps, 'seed': 0, 'quantize': 'nearest'})
    return found


def labelled(image: torch.Tensor, text: str) -> np.ndarray:
    """An image in [0, 1], (1, 3, H, W), as (H + LINE, W + GAP, 3) with a line of text above it."""
    pixels = tensor2img(image.clamp(0, 1))
    framed = cv2.copyMakeBorder(pixels, LINE, 0, 0, GAP, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    return np.asarray(cv2.putText(framed, text, (2, LINE - 7), FONT, SIZE, (0, 0, 0), 1, cv2.LINE_AA))


if __name__ == '__main__':
    sys.exit(main())
