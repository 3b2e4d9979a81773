"""Errors and warnings of ``rsr check``: all at once, and nothing that follows from another."""

import os
import re

import pytest
import torch
from basicsr.archs import build_network
from training_files import check, in_order

from helpers import paired_options
from rsr_basicsr.options.messages import Problems


def set_in(opt, path, value):
    *sections, key = path.split(':')
    for section in sections:
        opt = opt[section]
    if value is None:
        del opt[key]
    else:
        opt[key] = value


def test_everything_wrong_is_named_at_once_and_nothing_that_follows_from_it(opt, tmp_path, capsys):
    opt['network_g']['num_fea'] = opt['network_g'].pop('num_feat')
    opt['train']['optim_g'].update(lr='fast')
    opt['train']['totl_iter'] = opt['train'].pop('total_iter')
    opt['attack'].update(epz=opt['attack'].pop('eps'), share=2)
    del opt['jpeg_range'], opt['noise_range']
    opt['datasets']['train'].update(dataroot_gt='nowhere')
    opt['datasets']['train']['dataset_enlarge_ration'] = opt['datasets']['train'].pop('dataset_enlarge_ratio')
    opt['datasets']['val']['io_backend']['type'] = 'dsk'
    opt['path'].update(pretrain_network_g='gone.pth', pretrain_model_d=None)
    opt['val']['metrics']['psnr']['crop_borders'] = opt['val']['metrics']['psnr'].pop('crop_border')
    opt['logger']['print_freq'] = 0
    errors, _, _ = check(opt, tmp_path, capsys)
    assert sorted(errors) == sorted(
        [
            "network_g: unknown key 'num_fea'; did you mean 'num_feat'?",
            "train.optim_g.lr: expected a number of at least 0, got 'fast'",
            "train: unknown key 'totl_iter'; did you mean 'total_iter'?",
            "attack: unknown key 'epz'; did you mean 'eps'?",
            'attack.share: expected a number above 0 and at most 1, got 2',
            "the key 'noise_range' is missing; did you mean 'noise_range' where it says 'noise_range2'?",
            "the key 'jpeg_range' is missing; did you mean 'jpeg_range' where it says 'jpeg_range2'?",
            'datasets.train.dataroot_gt: no such folder: nowhere',
            "datasets.train: unknown key 'dataset_enlarge_ration'; did you mean 'dataset_enlarge_ratio'?",
            "datasets.val.io_backend.type: expected one of disk, lmdb, memcached, got 'dsk'",
            "path: unknown key 'pretrain_model_d', of whose value BasicSR would make a folder; did you mean "
            "'pretrain_network_d'?",
            "val.metrics.psnr: unknown key 'crop_borders'; did you mean 'crop_border'?",
            'logger.print_freq: expected a whole number of at least 1, got 0',
        ]
    )


ERRORS = [
    ('train:pixel_opt:reduction', 'men', 'train.pixel_opt: L1Loss cannot be built: Unsupported reduction mode: men'),
    ('train:optim_g:betas', [0.9, 2], 'train.optim_g: Adam cannot be built: Invalid beta parameter at index 1: 2'),
    ('train:scheduler', {'type': 'CosineAnnealingRestartLR', 'periods': [2]}, 'they end after 2 iterations, and the'),
    ('train:perceptual_opt', {'type': 'PerceptualLoss', 'layer_weights': {'conv9': 1}}, "'conv9' is not in list"),
    ('gt_size', 66, 'gt_size: 66 is not a multiple of the scale, 4; write 64'),
    ('gt_size', 404, 'gt_size: RealESRGANDataset cuts its images to 400x400, which has no patch of 404; write 400'),
    ('queue_size', 5, 'queue_size: 5 is not a multiple of the batch size 2'),
    ('datasets:train:batch_size_per_gpu', 100, 'queue_size: 4 is not a multiple of the batch size 100'),
    ('datasets:train:prefetch_mode', 'cuda', 'datasets.train.prefetch_mode: cuda needs pin_memory: true beside it'),
    ('datasets:train:io_backend:path', 'a', "datasets.train.io_backend: a disk takes no 'path'; remove it"),
    ('datasets:valid', {}, 'datasets.valid: BasicSR knows data sets by names such as train, val, val_2; got'),
    ('scale', 2, 'network_g: DefendedSRVGGNetCompact cannot be built: it upscales by 4, but scale is 2'),
    ('logger:wandb', {'project': 'a'}, 'logger.wandb: BasicSR wants use_tb_logger: true beside it'),
    ('attack', None, 'model_type DefendedRealESRNetModel needs an attack block'),
    ('path:param_kee_g', 'params', 'path: unknown key'),
]


@pytest.mark.parametrize('path, value, sentence', ERRORS, ids=lambda value: value if isinstance(value, str) else None)
def test_errors(path, value, sentence, opt, tmp_path, capsys):
    set_in(opt, path, value)
    errors, _, _ = check(opt, tmp_path, capsys, '--no-memory', '--decode', '0')
    # No package wandb where the tests run.
    errors = [error for error in errors if 'package wandb' not in error and 'do not fill one batch' not in error]
    assert len(errors) == 1 and sentence in errors[0]


WARNINGS = [
    ('cutblur', 1, 'the options: nothing reads cutblur; remove it'),
    ('datasets:train:gt_size', 32, 'datasets.train.gt_size: 32 is not read; the patches have the gt_size of the top'),
    ('train:ema_decay', 1, 'train.ema_decay: 1 never lets the moving average move; write 0.999'),
    ('train:scheduler:milestones', [2, 9], 'train.scheduler.milestones: 9 is never reached, since the training ends'),
    ('logger:save_checkpoint_freq', 5000, 'logger.save_checkpoint_freq: 5000 is more than total_iter, 4: nothing is'),
    ('datasets:val', None, 'val: there is no data set to validate with; add datasets.val'),
    ('datasets:train:num_worker_per_gpu', 10**4, f'10000 processes for {os.cpu_count()} cores; write {os.cpu_count()}'),
    ('queue_size', 2, 'queue_size: 2 holds one batch, whose images share their degradations'),
]


@pytest.mark.parametrize('path, value, sentence', WARNINGS, ids=lambda value: value if isinstance(value, str) else None)
def test_warnings(path, value, sentence, opt, tmp_path, capsys):
    set_in(opt, path, value)
    errors, warnings, _ = check(opt, tmp_path, capsys, '--no-memory', '--decode', '0')
    assert errors == [] and len(warnings) == 1 and sentence in warnings[0]


def test_patches_that_a_network_does_not_take(pairs, photos, tmp_path, capsys):
    opt = in_order(paired_options(pairs, 'DefendedSwinIRModel', photos=photos))
    opt['network_g'] = dict(
        type='DefendedSwinIR',
        upscale=4,
        in_chans=3,
        img_size=16,
        window_size=8,
        depths=[1],
        embed_dim=8,
        num_heads=[1],
        upsampler='pixelshuffle',
        defense={},
    )
    opt['datasets']['train']['gt_size'] = 48
    sentence = (
        'gt_size: 48 gives low-resolution patches of 12x12, which {} does not take; write a multiple of 32, '
        'that is window_size 8 times scale 4'
    )
    assert check(opt, tmp_path, capsys, '--no-memory')[0] == [sentence.format('DefendedSwinIR')]
    opt.update(model_type='SwinIRModel', network_g={**opt['network_g'], 'type': 'SwinIR'})
    del opt['attack'], opt['network_g']['defense'], opt['train']['optim_classifier'], opt['train']['classifier_opt']
    assert check(opt, tmp_path, capsys, '--no-memory')[0] == [sentence.format('SwinIR')]
    opt['network_g']['upscale'] = 2  # of a plain network too
    assert check(opt, tmp_path, capsys, '--no-memory')[0] == ['network_g: SwinIR upscales by 2, but scale is 4']


def test_weights(opt, tmp_path, capsys, real_weights):
    state = build_network(dict(opt['network_g'])).state_dict()
    torch.save({'params': state, 'params_ema': state}, tmp_path / 'w.pth')
    opt['path'].update(pretrain_network_g=str(tmp_path / 'w.pth'), strict_load_g=True)
    opt['train']['optim_g']['lr'] = 1e-3
    _, warnings, facts = check(opt, tmp_path, capsys, '--no-memory', '--decode', '0')
    assert (
        f'path.pretrain_network_g: {tmp_path / "w.pth"} has params and params_ema, params is taken; it fits '
        'DefendedSRVGGNetCompact' in facts
    )
    assert warnings == [
        'train.optim_g.lr: 0.001 is high for weights that are trained already; 0.0001 is usual',
        'path.param_key_g: params is taken, while the moving average begins with params_ema; params_ema is there too, '
        'and usually the better one',
    ]
    other = build_network({**opt['network_g'], 'num_conv': 4})
    torch.save({'params': other.state_dict()}, tmp_path / 'w.pth')
    opt['path'].update(param_key_g='params_ema', strict_load_g=False)
    errors, warnings, _ = check(opt, tmp_path, capsys, '--no-memory', '--decode', '0')
    assert errors == [] and re.search(r'has \d+ tensors, of which \d+ fit \w+; the others are left out', warnings[1])
    assert (
        f'path.param_key_g: params_ema is not in {tmp_path / "w.pth"}, and BasicSR takes params; write params'
        in warnings
    )
    opt['path']['pretrain_network_g'] = str(real_weights)
    errors, _, _ = check(opt, tmp_path, capsys, '--no-memory', '--decode', '0')
    assert len(errors) == 1 and 'of which 0 fit DefendedSRVGGNetCompact; name the weights of this net' in errors[0]


def test_problems_know_what_depends_on_them():
    problems = Problems()
    with problems.noted(part='train.optim_g'):
        raise ValueError('wrong')
    assert problems == ['wrong'] and problems.there('train') and not problems.sound('train')
    assert problems.sound('train.optim') and not problems.there('train.optim_g.lr')


def test_keys_that_basicsr_adds_are_no_near_misses(opt, tmp_path, capsys):
    del opt['train']
    errors, _, _ = check(opt, tmp_path, capsys)
    assert "the key 'train' is missing" in errors and 'is_train' not in ''.join(errors)
