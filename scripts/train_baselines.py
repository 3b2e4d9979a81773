"""Train the baselines of docs/benchmark.md for a network: options/baselines, one after another or side by side.

    python scripts/train_baselines.py realesr-general-x4v3 PHOTOS -o baselines --jobs 2

The photos are reduced by antialiased bicubic interpolation. --degraded adds each of them behind Real-ESRGAN's
degradations, as often as it says; with --look, the target of those is the output of the released network instead of
the photo. Weights are fetched unless --weights names a file. A training that was interrupted continues, one that has
ended after as many iterations is skipped. The weights are OUT/experiments/NAME/models/net_g_latest.pth.
"""

from __future__ import annotations

import rsr_basicsr  # isort: skip  (it makes ``import basicsr`` possible on new torchvision)

import argparse
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import torch
from basicsr.utils import tensor2img
from torch import nn

from rsr_basicsr.attacks.problem import ATTACK_PRECISIONS
from rsr_basicsr.catalog.option_files import options_folder
from rsr_basicsr.catalog.weights import WEIGHTS
from rsr_basicsr.data.degraded_image_dataset import DegradedImageDataset
from rsr_basicsr.data.reduced_image_dataset import ReducedImageDataset
from rsr_basicsr.inference.recognition import open_network
from rsr_basicsr.utils.errors import RSRError
from rsr_basicsr.weights.official import fetch

SCALE = 4
OPTIONS = options_folder() / 'baselines'
SUFFIX = '_general_x4v3'
ITERATION = re.compile(rb'iter: *([\d,]+), .*l_pix: (\S+)')  # of a line of BasicSR's log


def main() -> int:
    """Train the chosen baselines, and return the exit code: the number of trainings that failed, at most 1."""
    names = sorted(path.stem.removesuffix(SUFFIX) for path in OPTIONS.glob('*.yml'))
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('network', choices=['realesr-general-x4v3', 'realesr-animevideov3'])
    parser.add_argument('photos', type=Path, help='folder of high-resolution training photos')
    parser.add_argument('-o', '--output', type=Path, default=Path('baselines'), help='default: baselines')
    parser.add_argument('--weights', type=Path, help='file of the released weights, instead of fetching them')
    parser.add_argument('--degraded', type=int, default=0, metavar='N', help='pairs of each photo behind degradations')
    parser.add_argument('--look', action='store_true', help='degraded pairs keep the look of the released network')
    parser.add_argument(
        '--precision', choices=ATTACK_PRECISIONS, default='fp32', help='bf16: twice as fast where it is'
    )
    parser.add_argument('--only', nargs='+', choices=names, default=names, metavar='NAME', help=', '.join(names))
    parser.add_argument('--iterations', type=int, default=150)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--set', nargs='+', default=[], metavar='KEY=VALUE', help='more values of the options, as of --force_yml'
    )
    parser.add_argument('--jobs', type=int, default=1, help='trainings side by side, each on one thread')
    args = parser.parse_args()
    out = args.output.resolve()
    try:
        weights = (args.weights or fetch(args.network)).resolve()
        pairs = write_pairs(args.photos, out / 'photos', args.degraded, weights if args.look else None)
    except RSRError as error:
        print(f'train_baselines: {error}', file=sys.stderr)
        return error.exit_code
    overrides = [
        f'network_g:num_conv={WEIGHTS[args.network].network["num_conv"]}',
        f'path:pretrain_network_g={weights}',
        f'datasets:train:dataroot_gt={pairs / "HR"}',
        f'datasets:train:dataroot_lq={pairs / f"LRx{SCALE}"}',
        f'train:total_iter={args.iterations}',
        f'train:scheduler:periods=[{args.iterations}]',
        f'manual_seed={args.seed}',
        f'train:precision={args.precision}',
        *args.set,
    ]
    experiment = args.network + (f'_seed{args.seed}' if args.seed else '')
    with ThreadPoolExecutor(args.jobs) as pool:
        failed = list(
            pool.map(lambda name: train(name, f'{name}_{experiment}', out, args.iterations, overrides), args.only)
        )
    return int(any(failed))


def write_pairs(photos: Path, folder: Path, degraded: int, look: Path | None) -> Path:
    """Write ``HR`` and ``LRx4`` into a folder, unless it is there, and return it.

    Args:
        photos: folder of the originals.
        folder: where the two are written.
        degraded: pairs of each photo behind Real-ESRGAN's degradations, beside the one that is only reduced.
        look: weights of the network whose outputs are the HR of degraded pairs; None takes the original.
    """
    if not folder.is_dir():
        unfinished = folder.with_name(f'{folder.name}.unfinished')
        shutil.rmtree(unfinished, ignore_errors=True)
        network = None if look is None else open_network(str(look)).eval()
        common = {'dataroot_gt': str(photos), 'scale': SCALE, 'phase': 'val'}
        reduced = ReducedImageDataset({**common, 'io_backend': {'type': 'disk'}})
        _write(reduced, unfinished, '', None)
        for seed in range(degraded):
            options = {**common, 'name': 'photos', 'type': 'DegradedImageDataset', 'seed': seed}
            dataset = DegradedImageDataset({**options, 'io_backend': {'type': 'disk'}})
            _write(dataset, unfinished, f'_degraded{seed}', network)
        unfinished.rename(folder)
    return folder


def _write(dataset: ReducedImageDataset, folder: Path, suffix: str, network: nn.Module | None) -> None:
    for number in range(len(dataset)):
        item = dataset[number]
        lq, hr = item['lq'], item['gt']
        if network is not None:
            with torch.no_grad():
                hr = network(lq[None])[0].clamp(0, 1)
        for name, image in (('HR', hr), (f'LRx{SCALE}', lq)):
            path = folder / name / f'{Path(item["lq_path"]).stem}{suffix}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), tensor2img(image))


def train(name: str, experiment: str, out: Path, iterations: int, overrides: list[str]) -> int:
    """Run or continue one training, show its progress, and return its exit code."""
    finished = out / 'experiments' / experiment / 'iterations.txt'  # written when the training has ended
    if finished.is_file() and finished.read_text() == str(iterations):
        print(f'{experiment}: there already', flush=True)
        return 0
    log = out / f'{experiment}.log'
    command = [sys.executable, '-m', 'rsr_basicsr.train', '-opt', str(OPTIONS / f'{name}{SUFFIX}.yml'), '--auto_resume']
    # The folder of this package first: the training runs elsewhere, where a relative PYTHONPATH means another one.
    package = str(Path(rsr_basicsr.__file__).resolve().parents[1])
    paths = os.pathsep.join(filter(None, (package, os.environ.get('PYTHONPATH'))))
    with (
        open(log, 'ab') as file,
        subprocess.Popen(
            [*command, '--force_yml', f'name={experiment}', *overrides],
            cwd=out,
            env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        for line in process.stdout or ():
            file.write(line)
            shown = ITERATION.search(line)
            if shown:
                print(
                    f'{experiment}: {int(shown[1].replace(b",", b""))} of {iterations}, loss {float(shown[2]):.4f}',
                    flush=True,
                )
    if process.returncode == 0:
        finished.write_text(str(iterations))
    print(
        f'{experiment}: {"done" if process.returncode == 0 else f"exit code {process.returncode}, see {log}"}',
        flush=True,
    )
    return process.returncode


if __name__ == '__main__':
    sys.exit(main())
