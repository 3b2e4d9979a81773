"""Quick start, a few minutes on a CPU: download weights, fine-tune three ways, attack, and report.

``scripts/quickstart.sh`` sets up the environment and runs ``python -m rsr_basicsr.quickstart``.
"""

from __future__ import annotations

import argparse
import copy
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from rsr_basicsr.benchmark.matching import resolve_plane
from rsr_basicsr.benchmark.names import STABILITY
from rsr_basicsr.benchmark.options import check_benchmark
from rsr_basicsr.benchmark.plane import Plane
from rsr_basicsr.benchmark.plane_options import BLURRIEST
from rsr_basicsr.benchmark.report.equal_sharpness import text_tables
from rsr_basicsr.benchmark.report.output import write_results
from rsr_basicsr.benchmark.report.tables import as_text
from rsr_basicsr.benchmark.report.verdict import verdict
from rsr_basicsr.benchmark.run import run_benchmark
from rsr_basicsr.benchmark.summary import Results
from rsr_basicsr.catalog.option_files import options_folder
from rsr_basicsr.catalog.weights import WEIGHTS
from rsr_basicsr.data import write_evaluation_pairs, write_training_photos
from rsr_basicsr.utils.errors import OptionsError, RSRError
from rsr_basicsr.weights.official import fetch

TRAINING_OPTIONS = options_folder() / 'quickstart' / 'finetune_defended_animevideov3_x4.yml'
WEIGHTS_NAME = 'realesr-animevideov3'
EPS, ATTACK_STEPS = (2, 8), 10
RELEASED, FINE_TUNED, ADVERSARIAL, DEFENDED = 'released', 'fine-tuned', 'adversarial', 'defended'
#: Trainings that run one after another; the lanes run side by side, each on one core
LANES = ((DEFENDED,), (FINE_TUNED, ADVERSARIAL))
_PROGRESS = re.compile(r'iter:\s*([\d,]+), ')
_SECONDS_BETWEEN_REPORTS = 15


def main() -> int:
    """Run the quick start, and return its exit code."""
    parser = argparse.ArgumentParser(prog='quickstart', description=(__doc__ or '').splitlines()[0])
    parser.add_argument(
        '-o', '--output', type=Path, default=Path('quickstart'), help='output folder (default: quickstart)'
    )
    parser.add_argument('--iterations', type=int, metavar='N', help='number of iterations of each fine-tuning')
    args = parser.parse_args()
    try:
        run(args.output.resolve(), args.iterations)
    except RSRError as error:
        print(f'quickstart: {error}', file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print('quickstart: interrupted; the next run restarts the training', file=sys.stderr)
        return 130
    return 0


def run(folder: Path, iterations: int | None = None) -> Path:
    """Run all steps in ``folder``, and return the path of the report."""
    started = time.time()
    options = yaml.safe_load(TRAINING_OPTIONS.read_text(encoding='utf-8'))
    if iterations is None:
        iterations = options['train']['total_iter']
    if iterations < 1:
        raise OptionsError(f'--iterations {iterations}: at least one is needed')
    options['train']['total_iter'] = iterations
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionsError(f'--output {folder} cannot be made: {error.strerror}; name another folder') from error

    _announce(1, f'weights {WEIGHTS_NAME}')
    weights = Path(shutil.copy(fetch(WEIGHTS_NAME), folder))
    _announce(2, 'photos of scikit-image: one set for training, another for the attacks')
    write_training_photos(folder / 'train')
    write_evaluation_pairs(folder / 'gt', folder / 'lq')

    _announce(
        3,
        f'{iterations} iterations of fine-tuning, three ways: without attacks ({FINE_TUNED}), with attacks '
        f'({ADVERSARIAL}), and with attacks, masks and detector ({DEFENDED})',
    )
    trainings = three_ways(options)
    train(folder, trainings)

    _announce(4, f'attacking all four networks, eps {", ".join(map(str, EPS))} (1/255)')
    benchmark, found = check_benchmark(_benchmark(folder, trainings, weights))
    benchmark = resolve_plane(benchmark, found)
    records = run_benchmark(benchmark, found, folder)
    if any(record.error for record in records):
        raise RSRError(f'an attack failed: {next(record.error for record in records if record.error)}')

    _announce(5, 'report')
    results = write_results(folder, records, benchmark)
    print(f'\n{as_text(results, text_tables(results))}\n\n' + '\n'.join([*verdict(results), *contributions(results)]))
    print('A few minutes of training on eleven photos show the workflow, not the results of a full training.')
    report = folder / 'report.html'
    print(f'\nReport: {report}\nDone in {(time.time() - started) / 60:.1f} minutes.')
    return report


def three_ways(options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Options of the three trainings, made from those of the defended one, so that they differ in the defence only.

    Args:
        options: options file of a defended network.

    Returns:
        Name of a network -> its options: as given, the same without masks, and a plain BasicSR training.
    """
    trainings: dict[str, dict[str, Any]] = {
        name: {**copy.deepcopy(dict(options)), 'name': name} for name in (FINE_TUNED, ADVERSARIAL, DEFENDED)
    }
    trainings[ADVERSARIAL]['network_g']['defense']['gate'] = 'never'
    trainings[ADVERSARIAL]['attack']['masked'] = 0
    plain = trainings[FINE_TUNED]
    plain['model_type'] = plain['model_type'].removeprefix('Defended')
    plain['network_g']['type'] = plain['network_g']['type'].removeprefix('Defended')
    del plain['network_g']['defense'], plain['attack'], plain['train']['train_classifier']
    return trainings


def train(folder: Path, trainings: Mapping[str, Mapping[str, Any]]) -> None:
    """Run BasicSR's trainer for all trainings in ``folder``, two at a time, with their logs in files.

    Raises:
        RSRError: a training failed; the message has the last lines of its log.
    """
    started = time.time()
    lanes = [[name for name in lane if name in trainings] for lane in LANES]
    running: dict[str, subprocess.Popen[bytes]] = {}
    reported = started
    try:
        while any(lanes):
            for lane in filter(None, lanes):
                name = lane[0]
                if name not in running:
                    running[name] = _started(folder, name, trainings[name])
                elif running[name].poll() is not None:
                    _finish(folder, name, running[name].returncode, time.time() - started)
                    lane.pop(0)
            if time.time() - reported > _SECONDS_BETWEEN_REPORTS:
                reported = time.time()
                print('      ' + '; '.join(f'{lane[0]}: {_progress(folder, lane[0])}' for lane in lanes if lane))
            sys.stdout.flush()
            time.sleep(0.2)
    finally:
        for process in running.values():
            process.kill()
            process.wait()


def contributions(results: Results) -> Iterator[str]:
    """What each step of the quick start gave, at equal sharpness and the largest eps."""
    plane = Plane(results)
    steps = {
        'The change of training data': (FINE_TUNED, RELEASED),
        'Attacks in training': (ADVERSARIAL, FINE_TUNED),
        'Masks and detector': (DEFENDED, ADVERSARIAL),
    }
    for name, (after, before) in steps.items():
        mine, others = (plane.at_level(results.datasets[0], net, results.strengths[-1]) for net in (after, before))
        gains = [
            mine.difference(metric, (others.values or {}).get(metric, {})) for metric in (STABILITY, plane.measure)
        ]
        if gains[0] is None or gains[1] is None:
            yield f'{name}: not comparable, a network is not as sharp as {plane.reference}.'
        else:
            yield (
                f'{name} gave {gains[0].mean:+.1f} dB [{gains[0].low:+.1f}, {gains[0].high:+.1f}] of stability and '
                f'{gains[1].mean:+.3f} [{gains[1].low:+.3f}, {gains[1].high:+.3f}] of distance (lower is better).'
            )


def _announce(step: int, text: str) -> None:
    print(f'[{step}/5] {text}', flush=True)


def _log(folder: Path, name: str) -> Path:
    return folder / f'train_{name}.log'


def _started(folder: Path, name: str, options: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    path = folder / f'train_{name}.yml'
    path.write_text(yaml.safe_dump(dict(options), sort_keys=False), encoding='utf-8')
    # Patches are small: two processes of one thread each are faster than one of two threads.
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}
    with open(_log(folder, name), 'wb') as log:
        return subprocess.Popen(
            [sys.executable, '-u', '-m', 'rsr_basicsr.train', '-opt', path.name],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def _progress(folder: Path, name: str) -> str:
    """The last iteration in the log of a training, which may have none yet: the one before it has just ended."""
    log = _log(folder, name)
    found = _PROGRESS.findall(log.read_text(encoding='utf-8', errors='replace')) if log.is_file() else []
    return f'iteration {found[-1]}' if found else 'starting'


def _finish(folder: Path, name: str, exit_code: int, seconds: float) -> None:
    if exit_code:
        last = _log(folder, name).read_text(encoding='utf-8', errors='replace').splitlines()[-15:]
        raise RSRError(
            f'the training ended with exit code {exit_code}; last lines of {_log(folder, name)}:\n' + '\n'.join(last)
        )
    print(f'      {name}: {_progress(folder, name)}, done after {seconds:.0f} s', flush=True)


def _benchmark(folder: Path, trainings: Mapping[str, Mapping[str, Any]], weights: Path) -> dict[str, Any]:
    """Options of a benchmark of all networks, as they are and at the sharpness of the released one."""
    trained = {
        name: {
            **options['network_g'],
            'weights': str(folder / 'experiments' / options['name'] / 'models' / 'net_g_latest.pth'),
        }
        for name, options in trainings.items()
    }
    attack = {'type': 'PGD', 'steps': ATTACK_STEPS, 'quantize': 'nearest'}
    perceptual = {'type': 'perceptual', 'measure': 'auto', 'to': 'ground_truth'}
    return {
        'name': f'{WEIGHTS_NAME} quick start',
        'description': f'{WEIGHTS_NAME} as released, and fine-tuned three ways by {TRAINING_OPTIONS.name}; images: '
        'crops of photos of scikit-image, downscaled by 4 with antialiased bicubic interpolation, not used in training',
        'num_gpu': 0,
        'threads': min(2, os.cpu_count() or 1),
        'gallery': 5,
        'mask_seeds': [0],
        'networks': {RELEASED: {**WEIGHTS[WEIGHTS_NAME].network, 'weights': str(weights)}, **trained},
        'plane': {'measure': 'distance', 'reference': BLURRIEST, 'match': True},
        'attacks': {
            'pgd': {**attack, 'objective': 'stability'},
            'pgd_perceptual': {**attack, 'objective': perceptual},
        },
        'eps': list(EPS),
        'datasets': {
            'scikit-image': {
                'type': 'PairedImageDataset',
                'dataroot_gt': str(folder / 'gt'),
                'dataroot_lq': str(folder / 'lq'),
                'io_backend': {'type': 'disk'},
            }
        },
        'metrics': {
            'distance': {'type': 'calculate_perceptual', 'crop_border': 4},
            'change': {'type': 'calculate_perceptual_stability', 'crop_border': 4},
            'psnr': {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': True},
        },
    }


if __name__ == '__main__':
    sys.exit(main())
