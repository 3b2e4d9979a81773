"""Options for tests: the shipped files, reduced so that training takes seconds."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from basicsr.utils import logger

from rsr_basicsr.cli import main

OPTIONS = Path(__file__).parents[1] / 'options'
SMALL_NETWORKS: dict[str, dict[str, Any]] = {
    'SRVGGNetCompact': dict(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=4),
    'RRDBNet': dict(num_in_ch=3, num_out_ch=3, num_feat=8, num_block=1, num_grow_ch=4, scale=4),
    'CDC': dict(num_in_ch=3, num_out_ch=3, num_feat=4, num_hourglass=2, scale=4),
    'MSRResNet': dict(num_in_ch=3, num_out_ch=3, num_feat=8, num_block=1, upscale=4),
    'SwinIR': dict(
        in_chans=3,
        upscale=4,
        img_size=16,
        window_size=8,
        img_range=1.0,
        depths=[2],
        embed_dim=8,
        num_heads=[2],
        mlp_ratio=1,
        upsampler='pixelshuffle',
    ),
}

#: Options block of the attack in the published training
PUBLISHED: dict[str, Any] = dict(
    type='IFGSM',
    eps=8,
    steps=2,
    step_size=16,
    random_start=0,
    objective='training_loss',
    first_gradient='clean_step',
    quantize='none',
    clamp=False,
    mode='alternating',
)


def read(name: str) -> dict[str, Any]:
    """Read a shipped options file, by its path below options/."""
    return yaml.safe_load((OPTIONS / name).read_text(encoding='utf-8'))


def write(opt: dict[str, Any], path: Path) -> Path:
    """Write an options file."""
    path.write_text(yaml.safe_dump(opt, sort_keys=False), encoding='utf-8')
    return path


def shrink(opt: dict[str, Any], photos: Path | None, iterations: int = 4) -> dict[str, Any]:
    """Reduce the options of a training file: a tiny untrained network, small patches, the given photos.

    Args:
        opt: changed in place and returned.
        photos: folder written by ``write_training_photos``, with pairs in the subfolders ``gt`` and ``lq``; None if
            the data sets are replaced later.
        iterations: training length; checkpoints are saved every two iterations.
    """
    photos = photos or Path()
    opt.update(num_gpu=0, manual_seed=0, gt_size=64, queue_size=4)
    if 'gt_usm' in opt:
        opt['gt_usm'] = False  # a 51x51 blur of 400x400 images takes seconds on a CPU
    opt['datasets']['train'].update(gt_size=64, batch_size_per_gpu=2, num_worker_per_gpu=0, dataset_enlarge_ratio=4)
    for dataset in opt['datasets'].values():
        paired = 'Paired' in dataset['type']
        for key, value in {
            'dataroot_gt': photos / 'gt' if paired else photos,
            'dataroot_lq': photos / 'lq',
            'meta_info': photos / ('pairs.txt' if paired else 'meta_info.txt'),
        }.items():
            if key in dataset:
                dataset[key] = str(value)
    if 'val' in opt:
        opt['val'].update({key: 2 for key in ('val_freq', 'panel_freq') if key in opt['val']})
        opt['val'].pop('guard', None)  # needs pretrained weights
    if 'warmup' in opt.get('attack', {}):
        opt['attack']['warmup'] = 2
    if 'attack' in opt:
        # Train the paper's classifier too; most options files use the built-in one.
        opt['network_g']['defense']['classifier'] = {'type': 'paper', 'weights': 'untrained'}
        opt['train'].update(optim_classifier={'type': 'Adam', 'lr': 1e-3}, classifier_opt={'type': 'ClassifierLoss'})
        opt['train'].pop('train_classifier', None)
    network = opt['network_g']
    kind = network['type'].replace('Defended', '')
    small = {'type': network['type'], **SMALL_NETWORKS[kind]}
    opt['network_g'] = {**small, 'defense': network['defense']} if 'defense' in network else small
    if 'network_d' in opt:
        opt['network_d']['num_feat'] = 8
    opt['path'] = {'strict_load_g': True}
    opt['train'].update(total_iter=iterations, warmup_iter=-1)
    if 'periods' in opt['train']['scheduler']:
        opt['train']['scheduler']['periods'] = [iterations] * 4
    opt['train'].pop('perceptual_opt', None)  # needs a download of VGG weights
    opt['logger'].update(print_freq=1, save_checkpoint_freq=2, use_tb_logger=False)
    return opt


def paired_options(
    pairs: Path,
    model_type: str = 'DefendedSRModel',
    network: str = 'DefendedSRVGGNetCompact',
    iterations: int = 4,
    photos: Path | None = None,
) -> dict[str, Any]:
    """Options for training on pairs from disk, without random degradations.

    Args:
        pairs: folder with the subfolders ``gt`` and ``lq``.
        photos: see :func:`shrink`.
    """
    opt = shrink(read('finetune/finetune_defended_general_x4v3.yml'), photos, iterations)
    opt.update(name='paired', model_type=model_type)
    opt['attack'].update(masked=1, warmup=0)
    del opt['val']
    opt['datasets'] = {
        'train': dict(
            name='pairs',
            type='PairedImageDataset',
            dataroot_gt=str(pairs / 'gt'),
            dataroot_lq=str(pairs / 'lq'),
            io_backend={'type': 'disk'},
            gt_size=64,
            use_hflip=False,
            use_rot=False,
            num_worker_per_gpu=0,
            batch_size_per_gpu=2,
            dataset_enlarge_ratio=10,
        )
    }
    opt['network_g']['type'] = network
    return opt


def train(opt: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch, *flags: str) -> Path:
    """Run ``rsr train`` in this process and in a folder; returns the experiment's folder."""
    # BasicSR opens one log file per process; each run here needs its own.
    logger.initialized_logger.clear()
    logging.getLogger('basicsr').handlers.clear()
    monkeypatch.chdir(folder)
    file = write(opt, folder / 'options.yml')
    assert main(['train', '-opt', str(file), *flags]) == 0
    return folder / 'experiments' / opt['name']


def run_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m`` with arguments in a folder; standard error is part of the output."""
    return subprocess.run(
        [sys.executable, '-m', *arguments], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
