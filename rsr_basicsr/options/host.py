"""The keys of BasicSR's own that its trainer and tester read without asking whether they are there.

Blocks are open: BasicSR and other plugins may take more keys than are named here.
"""

from __future__ import annotations

from typing import Any

from rsr_basicsr.options.messages import Problems
from rsr_basicsr.options.types import (
    Key,
    block,
    boolean,
    either,
    integer,
    interval,
    names,
    number,
    one_of,
    parse_each,
    plain_name,
    shown,
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
STAGE = {
    'train': {'train': Key(block, required=True), 'logger': Key(block, required=True), 'val': Key(block)},
    'test': {'val': Key(block, required=True)},
}

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
    'wandb': Key(block),
}
#: What the name of a data set begins with
PHASES = {'train': ('train', 'val'), 'test': ('val', 'test')}
VAL = {'save_img': Key(boolean, required=True), 'metrics': Key(block)}
TILES = {'tile_size': 'tile', 'tile_pad': 'tile_overlap'}  # Real-ESRGAN's names for ours
VAL_WHILE_TRAINING = {**VAL, 'val_freq': Key(integer(1), required=True)}

#: Of the degradations of RealESRNetModel and RealESRGANModel.
DEGRADATIONS = {
    'scale': Key(integer(1), required=True),
    'gt_size': Key(integer(1), required=True),
    'second_blur_prob': _PROBABILITY,
    **{
        f'{key}{order}': rule
        for order in ('', '2')
        for key, rule in {
            'resize_prob': Key(list, required=True),
            'resize_range': _RANGE,
            'gaussian_noise_prob': _PROBABILITY,
            'noise_range': _RANGE,
            'poisson_scale_range': _RANGE,
            'gray_noise_prob': _PROBABILITY,
            'jpeg_range': _RANGE,
        }.items()
    },
}
USM_OF_NET = {'gt_usm': Key(boolean, required=True)}
USM_OF_GAN = {key: Key(boolean, required=True) for key in ('l1_gt_usm', 'percep_gt_usm', 'gan_gt_usm')}

DATASET = {
    'name': Key(text, required=True),
    'type': Key(text, required=True),
    'dataroot_gt': Key(text),
    'dataroot_lq': Key(text),
    'meta_info': Key(text),
    'meta_info_file': Key(text),
    'filename_tmpl': Key(text),
    'io_backend': Key(block),
}
LOADER = {'batch_size_per_gpu': Key(integer(1), required=True), 'num_worker_per_gpu': Key(integer(0), required=True)}
BACKEND = {'type': Key(one_of(('disk', 'lmdb', 'memcached')), required=True)}
_FLIPS = {'use_hflip': Key(boolean, required=True), 'use_rot': Key(boolean, required=True)}
BLUR = {
    key: Key(either(number(0), list), required=True)
    for key in ('kernel_list', 'kernel_prob', 'blur_sigma', 'betag_range', 'betap_range', 'sinc_prob')
}
KERNEL_SIZES = {key: Key(integer(1), required=True) for key in ('blur_kernel_size', 'blur_kernel_size2')}
FINAL_SINC = {'final_sinc_prob': _PROBABILITY}
_FOLDERS = {key: Key(text, required=True) for key in ('dataroot_gt', 'dataroot_lq')}
_TURNS = {'use_hflip': Key(boolean), 'use_rot': Key(boolean)}
_PAIRS = {**_TURNS, 'weaken': Key(number(0, 1)), 'crop': Key(integer(16))}
DATASET_OF_TYPE = {
    'AdversarialSetDataset': {
        'dataroot': Key(names, required=True),
        'dataroot_extra': Key(names),
        'transplant': Key(number(0, 1)),
        **_PAIRS,
    },
    'AdversarialImagesDataset': _PAIRS,
    'RealESRGANDataset': {
        'dataroot_gt': Key(text, required=True),
        'io_backend': Key(block, required=True),
        **_FLIPS,
        **KERNEL_SIZES,
        **FINAL_SINC,
        **BLUR,
        **{f'{key}2': rule for key, rule in BLUR.items()},
    },
    **{
        name: {**_FOLDERS, 'io_backend': Key(block, required=True)}
        for name in ('PairedImageDataset', 'RealESRGANPairedDataset')
    },
}
PAIRED_TRAINING = {'gt_size': Key(integer(1), required=True), **_FLIPS}


def check_sections(opt: Any, stage: str, problems: Problems | None = None) -> None:
    """Check types and required keys of the sections that every run has, and coerce their numbers in place.

    Args:
        opt: the options.
        stage: ``train`` or ``test``.
        problems: where it is noted what is wrong; None raises an OptionsError of it.
    """
    if problems is None:
        problems = Problems()
        check_sections(opt, stage, problems)
        problems.stop()
        return
    for key in [key for key in opt if not isinstance(key, str)]:
        problems.append(f'the key {shown(key)} must be a word')
        del opt[key]
    parse_each(opt, {**RUN, **STAGE[stage]}, '', problems)
    for key in [key for key in opt if key.startswith('network_')]:
        parse_each(opt, {key: Key(block)}, '', problems)
        if problems.there(key) and opt[key] is not None:
            parse_each(opt[key], {'type': Key(text, required=True)}, key, problems)
    if problems.there('path'):
        parse_each(
            opt['path'],
            {
                key: Key(text)
                for key in opt['path']
                if str(key).startswith(('pretrain_network', 'resume_state', 'param_key'))
            },
            'path',
            problems,
        )
    if problems.there('datasets'):
        _check_datasets(opt['datasets'], stage, problems)
    if stage == 'train':
        _check_training(opt, problems)
    if problems.there('val') and opt.get('val') is not None:
        val = opt['val']
        parse_each(val, VAL_WHILE_TRAINING if stage == 'train' else VAL, 'val', problems)
        if problems.there('val.metrics'):
            parse_each(
                val.get('metrics') or {},
                {name: Key(block, required=True) for name in val.get('metrics') or {}},
                'val.metrics',
                problems,
            )


def _check_datasets(datasets, stage, problems):
    if not datasets:
        problems.append('datasets: there is no data set')
        problems.spoil('datasets')
    for phase in datasets:
        where = f'datasets.{phase}'
        kind = str(phase).split('_')[0]
        if kind not in PHASES[stage] or (stage == 'train' and kind == 'train' != phase):
            known = ('train', 'val', 'val_2') if stage == 'train' else ('test_1', 'test_2')
            problems.append(
                f'{where}: BasicSR knows data sets by names such as {", ".join(known)}; got {shown(phase)}'
                + (', as a training has it' if kind == 'train' else '')
            )
            problems.spoil(where)
            continue
        parse_each(datasets, {phase: Key(block, required=True)}, 'datasets', problems)
        if problems.there(where):
            check_dataset(datasets[phase], where, kind, problems)


def _check_training(opt, problems):
    if problems.there('train'):
        train = opt['train']
        parse_each(train, TRAIN, 'train', problems)
        if problems.there('train.scheduler'):
            parse_each(train['scheduler'], SCHEDULER, 'train.scheduler', problems)
        for key in [key for key in train if key in ('optim_g', 'optim_d')]:
            parse_each(train, {key: Key(block)}, 'train', problems)
            if problems.there(f'train.{key}') and train[key] is not None:
                parse_each(train[key], OPTIMIZER, f'train.{key}', problems)
    if problems.there('logger'):
        parse_each(opt['logger'], LOGGER, 'logger', problems)


def check_dataset(dataset: dict, where: str, phase: str, problems: Problems) -> None:
    """Check one block of ``datasets``, as :func:`check_sections` does for all of them."""
    kind = dataset.get('type') if isinstance(dataset.get('type'), str) else ''
    schema = {**DATASET, **DATASET_OF_TYPE.get(kind, {})}
    if phase == 'train':
        schema.update(LOADER)
        if kind in ('PairedImageDataset', 'RealESRGANPairedDataset'):
            schema.update(PAIRED_TRAINING)
    backend = dataset.get('io_backend')
    if kind == 'RealESRGANDataset' and isinstance(backend, dict) and backend.get('type') == 'disk':
        schema['meta_info'] = Key(text, required=True)
    parse_each(dataset, schema, where, problems)
    if backend is not None and problems.there(f'{where}.io_backend'):
        parse_each(backend, BACKEND, f'{where}.io_backend', problems)
        for key in backend if backend.get('type') == 'disk' else ():
            if key != 'type':
                problems.append(f'{where}.io_backend: a disk takes no {key!r}; take it out')
