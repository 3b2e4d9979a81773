"""The keys of BasicSR's own that its trainer and tester read without asking whether they are there.

Blocks are open: BasicSR and other plugins may take more keys than are named here.
"""

from __future__ import annotations

from typing import Any

from rsr_basicsr.errors import OptionsError
from rsr_basicsr.options.schema import (
    Key,
    block,
    boolean,
    either,
    integer,
    interval,
    names,
    number,
    one_of,
    parse_open,
    plain_name,
    text,
    word_or,
)

_PROBABILITY = Key(number(0, 1), required=True)
_RANGE = Key(interval(number(0)), required=True)

RUN = {
    'name': Key(plain_name, required=True),
    'model_type': Key(text, required=True),
    'scale': Key(integer(1)),
    'num_gpu': Key(word_or(('auto',), integer(0)), required=True),
    'manual_seed': Key(integer(0)),
    'queue_size': Key(integer(1)),
    'datasets': Key(block, required=True),
    'network_g': Key(block, required=True),
    'path': Key(block, required=True),
}
STAGE = {'train': {'train': Key(block, required=True), 'logger': Key(block, required=True), 'val': Key(block)},
         'test': {'val': Key(block, required=True)}}

TRAIN = {
    'total_iter': Key(integer(1), required=True),
    'warmup_iter': Key(number(-1)),
    'ema_decay': Key(number(0, 1)),
    'optim_g': Key(block, required=True),
    'scheduler': Key(block, required=True),
}
OPTIMIZER = {'type': Key(one_of(('Adam',)), required=True), 'lr': Key(number(0), required=True)}
SCHEDULER = {'type': Key(one_of(('MultiStepLR', 'MultiStepRestartLR', 'CosineAnnealingRestartLR')), required=True)}
LOGGER = {
    'print_freq': Key(integer(1), required=True),
    'save_checkpoint_freq': Key(integer(1), required=True),
    'use_tb_logger': Key(boolean, required=True),
}
VAL = {'save_img': Key(boolean, required=True), 'metrics': Key(block)}
VAL_WHILE_TRAINING = {**VAL, 'val_freq': Key(integer(1), required=True)}

#: Of the degradations of RealESRNetModel and RealESRGANModel.
DEGRADATIONS = {
    'scale': Key(integer(1), required=True),
    'gt_size': Key(integer(1), required=True),
    'second_blur_prob': _PROBABILITY,
    **{f'{key}{order}': rule for order in ('', '2') for key, rule in {
        'resize_prob': Key(list, required=True), 'resize_range': _RANGE, 'gaussian_noise_prob': _PROBABILITY,
        'noise_range': _RANGE, 'poisson_scale_range': _RANGE, 'gray_noise_prob': _PROBABILITY, 'jpeg_range': _RANGE,
    }.items()},
}
USM_OF_NET = {'gt_usm': Key(boolean, required=True)}
USM_OF_GAN = {key: Key(boolean, required=True) for key in ('l1_gt_usm', 'percep_gt_usm', 'gan_gt_usm')}

DATASET = {
    'name': Key(text, required=True),
    'type': Key(text, required=True),
    'dataroot_gt': Key(text),
    'dataroot_lq': Key(text),
    'meta_info': Key(text),
    'io_backend': Key(block),
}
LOADER = {'batch_size_per_gpu': Key(integer(1), required=True), 'num_worker_per_gpu': Key(integer(0), required=True)}
BACKEND = {'type': Key(one_of(('disk', 'lmdb', 'memcached')), required=True)}
_FLIPS = {'use_hflip': Key(boolean, required=True), 'use_rot': Key(boolean, required=True)}
BLUR = {key: Key(either(number(0), list), required=True) for key in (
    'kernel_list', 'kernel_prob', 'blur_sigma', 'betag_range', 'betap_range', 'sinc_prob')}
KERNEL_SIZES = {key: Key(integer(1), required=True) for key in ('blur_kernel_size', 'blur_kernel_size2')}
FINAL_SINC = {'final_sinc_prob': _PROBABILITY}
_FOLDERS = {key: Key(text, required=True) for key in ('dataroot_gt', 'dataroot_lq')}
_TURNS = {'use_hflip': Key(boolean), 'use_rot': Key(boolean)}
_PAIRS = {**_TURNS, 'weaken': Key(number(0, 1)), 'crop': Key(integer(16))}
DATASET_OF_TYPE = {
    'AdversarialSetDataset': {'dataroot': Key(names, required=True), 'dataroot_extra': Key(names),
                              'transplant': Key(number(0, 1)), **_PAIRS},
    'AdversarialPicturesDataset': _PAIRS,
    'RealESRGANDataset': {
        'dataroot_gt': Key(text, required=True), 'io_backend': Key(block, required=True), **_FLIPS, **KERNEL_SIZES,
        **FINAL_SINC, **BLUR, **{f'{key}2': rule for key, rule in BLUR.items()},
    },
    **{name: {**_FOLDERS, 'io_backend': Key(block, required=True)}
       for name in ('PairedImageDataset', 'RealESRGANPairedDataset')},
}
PAIRED_TRAINING = {'gt_size': Key(integer(1), required=True), **_FLIPS}


def check_sections(opt: Any, stage: str) -> None:
    """Check types and required keys of the sections that every run has, and coerce their numbers in place.

    Raises:
        OptionsError: one sentence.
    """
    for key in opt:
        if not isinstance(key, str):
            raise OptionsError(f'the key {key!r} must be a word')
    parse_open(opt, {**RUN, **STAGE[stage]}, '')
    for key, value in opt.items():
        if key.startswith('network_'):
            parse_open(opt, {key: Key(block)}, '')
            parse_open(value, {'type': Key(text, required=True)}, key)
    for key in opt['path']:
        if key.startswith(('pretrain_network', 'resume_state', 'param_key')):
            parse_open(opt['path'], {key: Key(text)}, 'path')
    if not opt['datasets']:
        raise OptionsError('datasets: there is no data set')
    for phase in opt['datasets']:
        parse_open(opt['datasets'], {phase: Key(block, required=True)}, 'datasets')
        check_dataset(opt['datasets'][phase], f'datasets.{phase}', phase.split('_')[0])
    if stage == 'train':
        parse_open(opt['train'], TRAIN, 'train')
        parse_open(opt['train']['scheduler'], SCHEDULER, 'train.scheduler')
        for key in [key for key in opt['train'] if key in ('optim_g', 'optim_d')]:
            parse_open(opt['train'], {key: Key(block)}, 'train')
            parse_open(opt['train'][key], OPTIMIZER, f'train.{key}')
        parse_open(opt['logger'], LOGGER, 'logger')
    if opt.get('val') is not None:
        parse_open(opt['val'], VAL_WHILE_TRAINING if stage == 'train' else VAL, 'val')
        for name in opt['val'].get('metrics') or {}:
            parse_open(opt['val']['metrics'], {name: Key(block, required=True)}, 'val.metrics')


def check_dataset(dataset: dict, where: str, phase: str) -> None:
    """Check one block of ``datasets``, as :func:`check_sections` does for all of them."""
    parse_open(dataset, DATASET, where)
    kind = DATASET_OF_TYPE.get(dataset['type'], {})
    parse_open(dataset, kind, where)
    if phase == 'train':
        parse_open(dataset, LOADER, where)
        if dataset['type'] in ('PairedImageDataset', 'RealESRGANPairedDataset'):
            parse_open(dataset, PAIRED_TRAINING, where)
    if dataset.get('io_backend') is not None:
        parse_open(dataset['io_backend'], BACKEND, f'{where}.io_backend')
        if dataset['type'] == 'RealESRGANDataset' and dataset['io_backend']['type'] == 'disk':
            parse_open(dataset, {'meta_info': Key(text, required=True)}, where)
