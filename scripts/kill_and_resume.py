"""Kill a training with SIGKILL at random moments, resume it, and finish it: no complete checkpoint may be lost.

``python scripts/kill_and_resume.py --kills 30`` trains a tiny network on the CPU that saves often, and kills it at
startup, in training, in validation or while it saves. After each kill ``--auto_resume`` must continue from the last
complete checkpoint; exit code 1 at the first kill where it does not.
"""

from __future__ import annotations

import argparse
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

import rsr_basicsr  # noqa: F401
from rsr_basicsr.data import write_evaluation_pairs
from rsr_basicsr.weights.state_dict import load_state

EVERY = 3  # iterations between checkpoints


def options(folder: Path) -> dict[str, Any]:
    write_evaluation_pairs(folder / 'gt', folder / 'lq', gt_size=64)
    images = dict(
        name='pairs',
        type='PairedImageDataset',
        dataroot_gt=str(folder / 'gt'),
        dataroot_lq=str(folder / 'lq'),
        io_backend={'type': 'disk'},
    )
    adam = {'type': 'Adam', 'lr': 1e-4}
    return {
        'name': 'killed',
        'model_type': 'DefendedSRModel',
        'scale': 4,
        'num_gpu': 0,
        'manual_seed': 0,
        'attack': {'type': 'PGD', 'eps': [1, 8], 'steps': 1, 'warm_start': True},
        'datasets': {
            'train': {
                **images,
                'gt_size': 48,
                'use_hflip': True,
                'use_rot': True,
                'num_worker_per_gpu': 1,
                'batch_size_per_gpu': 2,
                'dataset_enlarge_ratio': 4,
            },
            'val': images,
        },
        # Large enough that writing a checkpoint takes a while.
        'network_g': {'type': 'DefendedSRVGGNetCompact', 'num_feat': 64, 'num_conv': 16},
        'path': {},
        'train': {
            'ema_decay': 0.99,
            'optim_g': adam,
            'scheduler': {'type': 'MultiStepLR', 'milestones': [1000]},
            'pixel_opt': {'type': 'L1Loss'},
        },
        'val': {
            'val_freq': 10,
            'save_img': False,
            'attack': {'type': 'FGSM', 'eps': 8},
            'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 4}},
        },
        'logger': {'print_freq': 10, 'save_checkpoint_freq': EVERY, 'use_tb_logger': False},
    }


def newest(states: Path) -> int:
    """Iteration of the newest checkpoint; 0 without one."""
    return max((int(path.stem) for path in states.glob('*.state')), default=0)


def run(folder: Path, opt: dict[str, Any], seconds: float) -> tuple[str, int]:
    """Train for at most so many seconds, then kill; returns the output and the exit code."""
    (folder / 'options.yml').write_text(yaml.safe_dump(opt))
    command = [sys.executable, '-m', 'rsr_basicsr.train', '-opt', 'options.yml', '--auto_resume']
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            output, _ = process.communicate()
    return output, process.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--kills', type=int, default=30)
    parser.add_argument('--longest', type=float, default=25, help='most seconds until a kill')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        opt = options(folder)
        opt['train']['total_iter'] = 10**6
        states = folder / 'experiments' / opt['name'] / 'training_states'
        for kill in range(1, args.kills + 1):
            before, seconds = newest(states), moments.uniform(1, args.longest)
            output, code = run(folder, opt, seconds)
            resumed = re.search(r'Resuming training from epoch: \d+, iter: (\d+)', output)
            begun = 'Start training' in output
            did = f'resumed from {resumed[1]}' if resumed else 'started anew' if begun else 'had not started'
            print(
                f'{kill:3d}: killed after {seconds:4.1f} s; checkpoint {before} -> {newest(states)}; {did}', flush=True
            )
            if code != -signal.SIGKILL or (begun and int(resumed[1] if resumed else 0) != before):
                sys.exit(f'expected to resume from {before} and to be killed, exit code {code}:\n{output}')
        opt['train']['total_iter'] = end = (newest(states) // EVERY + 2) * EVERY
        started = time.time()
        output, code = run(folder, opt, 600)
        if code or newest(states) != end or not (states.parent / 'models' / 'net_g_latest.pth').is_file():
            sys.exit(f'the training did not finish, exit code {code}:\n{output}')
        load_state(states.parent / 'models' / f'net_g_{end}.pth')
        torch.load(states / f'{end}.state', weights_only=True)
        print(
            f'finished at iteration {end}, {time.time() - started:.0f} s after the last kill; '
            f'{len(list(folder.glob("experiments/*_archived_*")))} archived folders'
        )


if __name__ == '__main__':
    main()
