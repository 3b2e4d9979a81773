"""Quick start, a few minutes on a CPU: download weights, fine-tune, attack, and report.

``scripts/quickstart.sh`` sets up the environment and runs ``python -m rsr_basicsr.quickstart``.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rsr_basicsr.benchmark.options import check_benchmark
from rsr_basicsr.benchmark.report.output import write_results
from rsr_basicsr.benchmark.report.tables import as_text
from rsr_basicsr.benchmark.report.verdict import verdict
from rsr_basicsr.benchmark.run import run_benchmark
from rsr_basicsr.data import write_evaluation_pairs, write_training_photos
from rsr_basicsr.options.shipped import options_folder
from rsr_basicsr.utils.errors import OptionsError, RSRError
from rsr_basicsr.weights.official import WEIGHTS, fetch

TRAINING_OPTIONS = options_folder() / 'quickstart' / 'finetune_defended_animevideov3_x4.yml'
WEIGHTS_NAME = 'realesr-animevideov3'
EPS = (2, 4, 8)
UNDEFENDED, DEFENDED = 'undefended', 'defended'
_PROGRESS = re.compile(r'iter:\s*([\d,]+), .*l_clean: (\S+) l_attacked: (\S+)')


def main() -> int:
    """Run the quick start, and return its exit code."""
    parser = argparse.ArgumentParser(prog='quickstart', description=(__doc__ or '').splitlines()[0])
    parser.add_argument(
        '-o', '--output', type=Path, default=Path('quickstart'), help='output folder (default: quickstart)'
    )
    parser.add_argument('--iterations', type=int, metavar='N', help='number of fine-tuning iterations')
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
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionsError(f'--output {folder} cannot be made: {error.strerror}; name another folder') from error

    _announce(1, f'weights {WEIGHTS_NAME}')
    weights = Path(shutil.copy(fetch(WEIGHTS_NAME), folder))
    _announce(2, 'photos of scikit-image: one set for training, another for the attacks')
    write_training_photos(folder / 'train')
    write_evaluation_pairs(folder / 'gt', folder / 'lq')

    _announce(3, f'fine-tuning a defended network, {iterations} iterations (log: {folder / "train.log"})')
    _train(folder, iterations)

    _announce(4, f'attacking the {UNDEFENDED} and the {DEFENDED} network, eps {", ".join(map(str, EPS))} (1/255)')
    benchmark, found = check_benchmark(_benchmark(folder, options, weights))
    records = run_benchmark(benchmark, found, folder)
    if any(record.error for record in records):
        raise RSRError(f'an attack failed: {next(record.error for record in records if record.error)}')

    _announce(5, 'report')
    results = write_results(folder, records, benchmark)
    print(f'\n{as_text(results)}\n\n' + '\n'.join(verdict(results)))
    print('A few minutes of training on eleven photos show the workflow, not the results of a full training.')
    report = folder / 'report.html'
    print(f'\nReport: {report}\nDone in {(time.time() - started) / 60:.1f} minutes.')
    return report


def _announce(step: int, text: str) -> None:
    print(f'[{step}/5] {text}', flush=True)


def _train(folder: Path, iterations: int) -> None:
    """Run BasicSR's trainer in ``folder``, with its log in a file and its progress on the terminal."""
    command = [
        sys.executable,
        '-u',
        '-m',
        'rsr_basicsr.train',
        '-opt',
        str(TRAINING_OPTIONS),
        '--force_yml',
        f'train:total_iter={iterations}',
    ]
    started = time.time()
    last: deque[str] = deque(maxlen=15)
    with (
        open(folder / 'train.log', 'w', encoding='utf-8') as log,
        subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
    ):
        for line in process.stdout or ():
            log.write(line)
            last.append(line)
            progress = _PROGRESS.search(line)
            if progress:
                done = int(progress[1].replace(',', ''))
                left = (time.time() - started) / done * (iterations - done)
                print(
                    f'      iteration {done} of {iterations}, {left / 60:.1f} min left; mean absolute error: clean '
                    f'{float(progress[2]):.3f}, attacked {float(progress[3]):.3f}',
                    flush=True,
                )
    if process.returncode:
        raise RSRError(
            f'the training ended with exit code {process.returncode}; last lines of {folder / "train.log"}:\n'
            + ''.join(last)
        )


def _benchmark(folder: Path, options: Mapping[str, Any], weights: Path) -> dict[str, Any]:
    """Options of a benchmark of both networks under one attack."""
    trained = folder / 'experiments' / options['name'] / 'models' / 'net_g_latest.pth'
    return {
        'name': f'{WEIGHTS_NAME} quick start',
        'description': f'{WEIGHTS_NAME} as released, and fine-tuned with {TRAINING_OPTIONS.name}; images: 256x256 '
        'crops of photos of scikit-image, downscaled by 4 with antialiased bicubic interpolation, not used in training',
        'num_gpu': 0,
        'gallery': 5,
        'mask_seeds': [0],
        'networks': {
            UNDEFENDED: {**WEIGHTS[WEIGHTS_NAME].network, 'weights': str(weights)},
            DEFENDED: {**options['network_g'], 'weights': str(trained)},
        },
        'attacks': {'pgd': {'type': 'PGD', 'steps': 10, 'objective': 'stability', 'quantize': 'nearest'}},
        'eps': list(EPS),
        'datasets': {
            'scikit-image': {
                'type': 'PairedImageDataset',
                'dataroot_gt': str(folder / 'gt'),
                'dataroot_lq': str(folder / 'lq'),
                'io_backend': {'type': 'disk'},
            }
        },
    }


if __name__ == '__main__':
    sys.exit(main())
