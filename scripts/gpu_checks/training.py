"""Checks that trainings run: without waiting for the GPU, killed and resumed, started by a launcher, and for long."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import yaml
from basicsr.utils.registry import MODEL_REGISTRY
from train_baselines import write_pairs

from gpu_checks.base import SMALL, Failed, Here, add_discriminator, small_training
from rsr_basicsr.catalog.option_files import options_folder

MODES = ('mixed', 'paired', 'alternating')
RESERVED = 15  # seconds that ending takes
WAIT = 60  # seconds until a training is killed on a CPU; a GPU is faster


def check_sync(here: Here) -> str:
    """No step of a training waits for the device: all modes of the attack, bf16, CUDA graphs, a GAN."""
    for name, attack, gan in (
        *((mode, {'mode': mode}, False) for mode in MODES),
        ('bf16', {'precision': 'bf16'}, False),
        ('graphs', {'cuda_graph': True, 'mode': 'mixed'}, False),
        ('GAN', {'mode': 'mixed'}, True),
    ):
        model = _model(here, attack, gan)
        for iteration in (1, 2, 3):  # the first ones may set up libraries, and record
            _put_batch(model, here, 2, 16)
            with _no_waiting(here.on_gpu and iteration == 3):
                model.optimize_parameters(iteration)
        log = model.get_current_log()
        if not all(np.isfinite(value) for value in log.values()):
            raise Failed(f'{name}: {log}')
    return 'three steps each'


def check_train(here: Here) -> str:
    """A GAN training with loader workers and prefetching is killed, resumes, and ends."""
    options = _train_options(here, 'gan', gan=True)
    file = here.written('gan.yml', options)
    states = here.work / 'experiments' / 'gan' / 'training_states'
    command = [sys.executable, '-m', 'rsr_basicsr.train', '-opt', str(file)]
    with subprocess.Popen(command, cwd=here.work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        deadline = time.monotonic() + min(WAIT, max(here.left(), 1))
        while not list(states.glob('*.state')) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    if not list(states.glob('*.state')):
        raise Failed(f'no checkpoint within {WAIT} s')
    log = here.run([*command, '--auto_resume'])
    resumed = [line for line in log.splitlines() if 'Resuming training from' in line]
    if not resumed or not (here.work / 'experiments/gan/models/net_g_latest.pth').is_file():
        raise Failed(log[-300:])
    return resumed[0].rpartition('Resuming')[2].strip()


def check_finetune(here: Here) -> str:
    """A defended RealESRGAN_x4plus trains in the time that is left, by the recipe of the defended weights."""
    options = yaml.safe_load((options_folder() / 'baselines' / 'spectrum_general_x4v3.yml').read_text('utf-8'))
    pairs = write_pairs(here.photos or here.work / 'gt', here.work / 'pairs', degraded=1, look=None)
    blocks = {} if here.on_gpu else {'num_block': 1, 'num_feat': 8, 'num_grow_ch': 4}
    options.update(
        name='finetune',
        num_gpu=1 if here.on_gpu else 0,
        network_g={'type': 'DefendedRRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, **blocks, 'defense': {'gate': 'never'}},
        path=here.path_of_weights(),
    )
    options['datasets']['train'].update(
        dataroot_gt=str(pairs / 'HR'),
        dataroot_lq=str(pairs / 'LRx4'),
        batch_size_per_gpu=8 if here.on_gpu else 1,
        num_worker_per_gpu=4 if here.on_gpu else 0,
    )
    options['attack'].update({'precision': 'bf16', 'cuda_graph': True} if here.on_gpu else {'steps': 1})
    options['train'].update(total_iter=10**6, ema_decay=0.999, scheduler={'type': 'MultiStepLR', 'milestones': [10**6]})
    options['logger'].update(print_freq=1, save_checkpoint_freq=100 if here.on_gpu else 1)
    log, models = here.work / 'finetune.txt', here.work / 'experiments' / 'finetune' / 'models'
    command = [sys.executable, '-m', 'rsr_basicsr.train', '-opt', str(here.written('finetune.yml', options))]
    with log.open('w') as file, subprocess.Popen(command, cwd=here.work, stdout=file, stderr=file) as process:
        while process.poll() is None and here.left() > RESERVED and (here.on_gpu or not list(models.glob('net_g_*'))):
            time.sleep(0.2)
        ended = process.poll()
        process.terminate()
    reached = re.findall(r'iter: *([\d,]+), .*', log.read_text('utf-8'))
    if ended is not None or not reached or not list(models.glob('net_g_*')):
        raise Failed(log.read_text('utf-8')[-600:])
    return f'{reached[-1]} iterations, weights in {models}'


def check_launcher(here: Here) -> str:
    """One process of torchrun trains, with spawned loader workers, and ends with exit code 0."""
    file = here.written('launched.yml', _train_options(here, 'launched'))
    command = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--nproc_per_node=1',
        f'--master_port={29500 + os.getpid() % 500}',
    ]
    here.run([*command, '-m', 'rsr_basicsr.train', '-opt', str(file), '--launcher', 'pytorch'])
    return 'nccl' if here.on_gpu else 'gloo'


@contextlib.contextmanager
def _no_waiting(strict: bool) -> Iterator[None]:
    """Within the block, what makes the host wait for the GPU is an error."""
    if not strict:
        yield
        return
    torch.cuda.set_sync_debug_mode('error')
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode('default')


def _model(here: Here, attack: dict[str, Any], gan: bool) -> Any:
    """A small defended model under that attack."""
    attack = {'steps': 2, 'random_start': 1, 'masked': 0, **attack}
    opt = small_training(1 if here.on_gpu else 0, attack, gan)
    opt['network_g']['defense'] = {'gate': 'never'}
    return MODEL_REGISTRY.get('DefendedSRGANModel' if gan else 'DefendedSRModel')(opt)


def _put_batch(model: Any, here: Here, batch: int, size: int) -> None:
    model.lq = torch.rand(batch, 3, size, size, device=here.device)
    model.gt = torch.rand(batch, 3, 4 * size, 4 * size, device=here.device)


def _train_options(here: Here, name: str, gan: bool = False) -> dict[str, Any]:
    """A short training on the sample photos, with two loader workers."""
    size = {} if here.on_gpu else SMALL
    options: dict[str, Any] = {
        'name': name,
        'model_type': 'DefendedSRGANModel' if gan else 'DefendedSRModel',
        'scale': 4,
        'num_gpu': 1 if here.on_gpu else 0,
        'manual_seed': 0,
        'datasets': {
            'train': {
                'name': 'pairs',
                'type': 'PairedImageDataset',
                'dataroot_gt': 'gt',
                'dataroot_lq': 'lq',
                'gt_size': 64,
                'use_hflip': True,
                'use_rot': True,
                'io_backend': {'type': 'disk'},
                'num_worker_per_gpu': 2,
                'batch_size_per_gpu': 2,
                'dataset_enlarge_ratio': 10,
                **({'prefetch_mode': 'cuda', 'pin_memory': True} if here.on_gpu else {'prefetch_mode': 'cpu'}),
            }
        },
        'network_g': {'type': 'DefendedSRVGGNetCompact', **size, 'defense': {'gate': 'never'}},
        'path': {},
        'attack': {'type': 'PGD', 'eps': [1, 8], 'steps': 1, 'mode': 'mixed', 'share': 0.5},
        'train': {
            'total_iter': 12,
            'optim_g': {'type': 'Adam', 'lr': 1e-4},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [100]},
            'pixel_opt': {'type': 'L1Loss'},
            **({'precision': 'bf16'} if here.on_gpu else {}),
        },
        'logger': {'print_freq': 2, 'save_checkpoint_freq': 4, 'use_tb_logger': False},
    }
    if gan:
        add_discriminator(options, 64 if here.on_gpu else 8)
    return options
