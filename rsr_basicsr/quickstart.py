"""The whole way in a few minutes on a CPU: weights, fine-tuning, attack, table, report.

``python -m rsr_basicsr.quickstart`` is what ``scripts/quickstart.sh`` runs once the environment is there.
"""

from __future__ import annotations

import argparse
import platform
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Dict, List, Optional

import basicsr
import cv2
import torch
import yaml

from rsr_basicsr.attacks import IFGSM
from rsr_basicsr.benchmark.evaluate import evaluate
from rsr_basicsr.benchmark.record import Result
from rsr_basicsr.benchmark.report import write_report
from rsr_basicsr.benchmark.table import Row, format_table, summarize
from rsr_basicsr.data import write_evaluation_pairs, write_training_photos
from rsr_basicsr.errors import OptionsError, RSRError
from rsr_basicsr.weights import WEIGHTS, fetch, load_network

OPTIONS = Path(__file__).parents[1] / 'options' / 'quickstart' / 'finetune_defended_animevideov3_x4.yml'
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


def run(folder: Path, iterations: Optional[int] = None) -> Path:
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
    pictures = _read_pictures(folder)

    _say(3, f'fine-tuning a defended network, {iterations} iterations (log: {folder / "train.log"})')
    _train(folder, iterations)

    _say(4, f'attacking {UNDEFENDED} and {DEFENDED} network, eps {", ".join(map(str, EPS))} of 255')
    results = _attack(folder, options, weights, pictures)

    _say(5, 'report')
    rows = summarize(results)
    verdict = _verdict(rows)
    report = folder / 'report.html'
    originals = {name: picture['gt'] for name, picture in pictures.items()}
    write_report(report, results, originals, f'{WEIGHTS_NAME} under attack', verdict, _protocol(iterations))
    print(f'\n{format_table(rows)}\n\n' + '\n'.join(verdict))
    print(f'\nReport: {report}\nDone in {(time.time() - started) / 60:.1f} minutes.')
    return report


def _say(step, text):
    print(f'[{step}/5] {text}', flush=True)


def _read_pictures(folder) -> Dict[str, Dict]:
    folders = {'gt': folder / 'gt', 'lq': folder / 'lq'}
    names = write_evaluation_pairs(folders['gt'], folders['lq'])
    return {name: {kind: cv2.cvtColor(cv2.imread(str(path / f'{name}.png')), cv2.COLOR_BGR2RGB)
                   for kind, path in folders.items()} for name in names}


def _train(folder, iterations):
    """Run BasicSR's trainer in ``folder``; its log goes to a file, its progress to the terminal."""
    command = [sys.executable, '-u', '-m', 'rsr_basicsr.train', '-opt', str(OPTIONS),
               '--force_yml', f'train:total_iter={iterations}']
    started, last = time.time(), deque(maxlen=15)
    with open(folder / 'train.log', 'w', encoding='utf-8') as log, subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            log.write(line)
            last.append(line)
            progress = _PROGRESS.search(line)
            if progress:
                done = int(progress[1].replace(',', ''))
                left = (time.time() - started) / done * (iterations - done)
                print(f'      iteration {done} of {iterations}, {left / 60:.1f} min left; mean absolute error: clean '
                      f'{float(progress[2]):.3f}, attacked {float(progress[3]):.3f}', flush=True)
    if process.returncode:
        raise RSRError(f'the training ended with exit code {process.returncode}; the end of {folder / "train.log"}:\n'
                       + ''.join(last))


def _attack(folder, options, weights, pictures) -> List[Result]:
    trained = folder / 'experiments' / options['name'] / 'models' / 'net_g_latest.pth'
    networks = {
        UNDEFENDED: load_network({**WEIGHTS[WEIGHTS_NAME].network, 'weights': weights}),
        DEFENDED: load_network({**options['network_g'], 'weights': trained}),
    }
    attacks = [IFGSM(eps=eps, steps=10, objective='stability', quantize='nearest') for eps in EPS]
    results = []
    for label, net in networks.items():
        for batch in evaluate(label, net, pictures, attacks):
            print(f'      {label}: ' + (f'eps {batch[0].eps:g}' if batch[0].eps else 'clean'), flush=True)
            results += batch
    return results


def _verdict(rows: List[Row]) -> List[str]:
    """The result in sentences."""
    clean, attacked = rows[0].scores, rows[-1].scores
    gain = attacked[DEFENDED].stability - attacked[UNDEFENDED].stability
    closer = attacked[DEFENDED].psnr - attacked[UNDEFENDED].psnr
    kept = clean[DEFENDED].psnr - clean[UNDEFENDED].psnr
    return [
        f'Under the attack with eps {rows[-1].eps:g} of 255 the output of the defended network moves '
        f'{abs(gain):.1f} dB {"less" if gain > 0 else "more"} than that of the undefended one, and is '
        f'{abs(closer):.1f} dB {"closer to" if closer > 0 else "farther from"} the original.',
        f'On clean pictures the defended network is {abs(kept):.2f} dB {"better" if kept > 0 else "worse"}.',
        f'The detector flagged {clean[DEFENDED].flagged} of {clean[DEFENDED].judged} clean pictures and '
        f'{attacked[DEFENDED].flagged} of {attacked[DEFENDED].judged} attacked ones. A flagged picture is masked; a '
        'false alarm costs sharpness.',
        'A few minutes of training on eleven photos show the way, not what a full training reaches.',
    ]


def _protocol(iterations) -> Dict[str, str]:
    return {
        'Networks': f'{WEIGHTS_NAME} as released, and fine-tuned for {iterations} iterations with {OPTIONS.name}',
        'Pictures': 'Crops of photos that come with scikit-image, 256x256, reduced by 4 with antialiased bicubic; '
                    'none of these photos was trained on',
        'Attack': 'I-FGSM, 10 steps of eps/10, L-inf, white box, small random start; it maximises the squared error '
                  "to the network's own clean output; the attacked picture is rounded to 8 bit",
        'Attack on the defence': 'With the gate as it decides, forced open and forced shut; for each picture the '
                                 'attack that moves the deployed network most',
        'Measures': 'RGB, 4 pixels cut from each edge',
        'Versions': f'Python {platform.python_version()}, torch {torch.__version__}, BasicSR {basicsr.__version__}',
    }


if __name__ == '__main__':
    sys.exit(main())
