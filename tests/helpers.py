"""Options files small enough to train in seconds, built from the ones that users get."""

from __future__ import annotations

import logging
from pathlib import Path

import yaml
from basicsr.utils import logger

from rsr_basicsr.cli import main

OPTIONS = Path(__file__).parents[1] / 'options'
SMALL_NETWORKS = {
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


#: The attack of the published training, as a block of options
PUBLISHED = dict(
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


def read(name: str) -> dict:
    """Options of a file below options/, by its path there."""
    return yaml.safe_load((OPTIONS / name).read_text(encoding='utf-8'))


def write(opt: dict, path: Path) -> Path:
    """Write options as a user would have them."""
    path.write_text(yaml.safe_dump(opt, sort_keys=False), encoding='utf-8')
    return path


def shrink(opt: dict, photos: Path, iterations: int = 4) -> dict:
    """Real options with the numbers of a test: a tiny network from scratch, small patches, the photos given.

    Args:
        opt: options of a training file, changed in place and returned.
        photos: folder as ``write_training_photos`` makes it, with folders ``gt`` and ``lq`` of pairs inside.
        iterations: training length; states are saved every two.
    """
    opt.update(num_gpu=0, manual_seed=0, gt_size=64, queue_size=4)
    if 'gt_usm' in opt:
        opt['gt_usm'] = False  # a 51x51 blur of 400x400 images, seconds on a CPU
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
        opt['val'].pop('guard', None)  # which compares with pretrained weights
    if 'warmup' in opt.get('attack', {}):
        opt['attack']['warmup'] = 2
    if 'attack' in opt:
        # An untrained classifier of the paper's learns along, which most options files leave to the built-in one.
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
    opt['train'].pop('perceptual_opt', None)  # its VGG weights would have to be downloaded
    opt['logger'].update(print_freq=1, save_checkpoint_freq=2, use_tb_logger=False)
    return opt


def paired_options(pairs, model_type='DefendedSRModel', network='DefendedSRVGGNetCompact', iterations=4, photos=None):
    """Options for training on pairs from disk, without random degradations.

    Args:
        pairs: folder with the folders ``gt`` and ``lq``.
        photos: as of :func:`shrink`.
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


def train(opt: dict, folder: Path, monkeypatch, *flags: str) -> Path:
    """Run ``rsr train`` in this process, in a folder, and return that of the experiment."""
    # BasicSR opens one log file a process; each run here shall have its own.
    logger.initialized_logger.clear()
    logging.getLogger('basicsr').handlers.clear()
    monkeypatch.chdir(folder)
    file = write(opt, folder / 'options.yml')
    assert main(['train', '-opt', str(file), *flags]) == 0
    return folder / 'experiments' / opt['name']
