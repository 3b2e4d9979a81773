"""The whole way in a few minutes on a CPU: weights, fine-tuning, attack, table, report.

``python -m rsr_basicsr.quickstart`` is what ``scripts/quickstart.sh`` runs once the environment is there.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from collections import deque
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

OPTIONS = options_folder() / 'quickstart' / 'finetune_defended_animevideov3_x4.yml'
WEIGHTS_NAME = 'realesr-animevideov3'
EPS = (2, 4, 8)
UNDEFENDED, DEFENDED = 'undefended', 'defended'
_PROGRESS = re.compile(r'iter:\s*([\d,]+), .*l_clean: (\S+) l_attacked: (\S+)')


def main() -> int:
    parser = argparse.ArgumentParser(prog='quickstart', description=__doc__.splitlines()[0])
    parser.add_argument('-o', '--output', type=Path, default=Path('quickstart'), help='folder for everything made')
    parser.add_argument('--iterations', type=int, metavar='N', help='length of the fine-tuning')
    args = parser.parse_args()
    try:
        run(args.output.resolve(), args.iterations)
    except RSRError as error:
        print(f'quickstart: {error}', file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print('quickstart: interrupted; the next run starts the training anew', file=sys.stderr)
        return 130
    return 0


def run(folder: Path, iterations: int | None = None) -> Path:
    """Do all the steps in ``folder``, and return the path of the report."""
    started = time.time()
    options = yaml.safe_load(OPTIONS.read_text(encoding='utf-8'))
    if iterations is None:
        iterations = options['train']['total_iter']
    if iterations < 1:
        raise OptionsError(f'--iterations {iterations}: at least one is needed')
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionsError(f'--output {folder} cannot be made: {error.strerror}; name another folder') from error

    _say(1, f'weights {WEIGHTS_NAME}')
    weights = Path(shutil.copy(fetch(WEIGHTS_NAME), folder))
    _say(2, 'photos of scikit-image, one set to train on, another to attack')
    write_training_photos(folder / 'train')
    write_evaluation_pairs(folder / 'gt', folder / 'lq')

    _say(3, f'fine-tuning a defended network, {iterations} iterations (log: {folder / "train.log"})')
    _train(folder, iterations)

    _say(4, f'attacking {UNDEFENDED} and {DEFENDED} network, eps {", ".join(map(str, EPS))} of 255')
    benchmark, found = check_benchmark(_benchmark(folder, options, weights))
    records = run_benchmark(benchmark, found, folder)
    if any(record.error for record in records):
        raise RSRError(f'an attack failed: {next(record.error for record in records if record.error)}')

    _say(5, 'report')
    results = write_results(folder, records, benchmark)
    print(f'\n{as_text(results)}\n\n' + '\n'.join(verdict(results)))
    print('A few minutes of training on eleven photos show the way, not what a full training reaches.')
    report = folder / 'report.html'
    print(f'\nReport: {report}\nDone in {(time.time() - started) / 60:.1f} minutes.')
    return report


def _say(step, text):
    print(f'[{step}/5] {text}', flush=True)


def _train(folder, iterations):
    """Run BasicSR's trainer in ``folder``; its log goes to a file, its progress to the terminal."""
    command = [
        sys.executable,
        '-u',
        '-m',
        'rsr_basicsr.train',
        '-opt',
        str(OPTIONS),
        '--force_yml',
        f'train:total_iter={iterations}',
    ]
    started, last = time.time(), deque(maxlen=15)
    with (
        open(folder / 'train.log', 'w', encoding='utf-8') as log,
        subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
    ):
        for line in process.stdout:
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
            f'the training ended with exit code {process.returncode}; the end of {folder / "train.log"}:\n'
            + ''.join(last)
        )


def _benchmark(folder, options, weights) -> dict[str, Any]:
    """The options of the benchmark: both networks, one attack."""
    trained = folder / 'experiments' / options['name'] / 'models' / 'net_g_latest.pth'
    return {
        'name': f'{WEIGHTS_NAME} quick start',
        'description': f'{WEIGHTS_NAME} as released, and fine-tuned with {OPTIONS.name}; the images are crops of '
        'photos that come with scikit-image, 256x256, reduced by 4 with antialiased bicubic, none of '
        'which was trained on',
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
