"""Wrong options: which are refused, and with which words."""

import contextlib
import re

import pytest
import torch

from rsr_basicsr.check import check_options
from rsr_basicsr.options.attack_blocks import AttackOptions
from rsr_basicsr.options.parsing import parse_block
from rsr_basicsr.utils.errors import OptionsError


def set_in(opt, path, value):
    *sections, key = path.split(':')
    for section in sections:
        opt = opt[section]
    opt[key] = value


WRONG = {
    'attack:epz': (4, "attack: unknown key 'epz'; did you mean 'eps'?"),
    'attack:eps': ('8/255', 'attack.eps: this is in 1/255 units already; write 8'),
    'attack:steps': (0, 'attack.steps: expected a whole number of at least 1, got 0'),
    'attack:type': ('FGM', 'attack.type: expected one of IFGSM, FGSM, MIFGSM, PGD, APGD'),
    'attack:masked': (2, 'attack.masked: expected a number of at least 0 and at most 1, got 2'),
    'attack:every': (0, 'attack.every: expected a whole number of at least 1, got 0'),
    'attack:warm_start': (1, 'attack.warm_start: expected true or false'),
    'train:target': ('teacher', 'train.target: expected one of ground_truth, pretrained'),
    'attack:mode': ('half', 'attack.mode: expected one of paired, mixed, alternating'),
    'attack:share': (1.5, 'attack.share: expected a number above 0 and at most 1, got 1.5'),
    'attack:quantize': (True, 'attack.quantize: expected one of nearest, floor, none, got True'),
    'attack:clamp': (False, 'attack: quantize: nearest needs clamp'),
    'network_g:defense:gate': ('on', 'network_g.defense.gate: expected one of classifier, soft, always, never'),
    'network_g:defense:points': (['tail'], "has no mask point 'tail'; it has input, trunk, upsampler"),
    'network_g:defense:mask:keep_radius': ([0.5, 0.4], 'expected [low, high] with low <= high'),
    'network_g:defense:classifier:weights': ('none.pth', 'network_g.defense.classifier.weights: no such file'),
    'network_g:defence': ({}, "network_g: unknown key 'defence'; did you mean 'defense'?"),
    'network_g:num_bloc': (3, "network_g: unknown key 'num_bloc'; did you mean 'num_block'?"),
    'network_g:type': ('RRDBNet', 'trains defended networks; write DefendedRRDBNet'),
    'model_type': ('DefendedRealESRNet', "not registered; did you mean 'DefendedRealESRNetModel'?"),
    'datasets:train:type': ('RealESRGANDatset', "did you mean 'RealESRGANDataset'?"),
    'datasets:train:dataroot_gt': ('nowhere', 'datasets.train.dataroot_gt: no such folder: nowhere'),
    'datasets:train:meta_info': ('nowhere.txt', 'datasets.train.meta_info: no such file: nowhere.txt'),
    'path:pretrain_network_g': ('a/RealESRGAN_x4plus.pth', 'fetch it with: rsr weights RealESRGAN_x4plus -o a'),
    'train:pixel_opt:type': ('L1Los', "train.pixel_opt.type: 'L1Los' is not registered; did you mean 'L1Loss'?"),
    'train:optim_classifier:lr': ('fast', "train.optim_classifier.lr: expected a number of at least 0, got 'fast'"),
    'queue_size': (5, 'queue_size: 5 is not a multiple of the batch size 2'),
    'name': ('../up', "name: expected a plain name, since it becomes a folder, got '../up'"),
    'num_gpu': (-1, 'num_gpu: expected a whole number of at least 0, or auto, got -1'),
}


#: What BasicSR would meet hours later, or after it has put an earlier run away: path -> value, and the key to be named.
WRONG_HOST = [
    ('train:total_iter', 'abc', 'train.total_iter'),
    ('train:total_iter', None, "'total_iter'"),
    ('train:optim_g', None, "'optim_g'"),
    ('train:optim_g:lr', 'fast', 'train.optim_g.lr'),
    ('train:scheduler:type', 'Cosine', 'train.scheduler.type'),
    ('train:scheduler:milestone', [1], "'milestones'"),
    (
        'train:scheduler',
        {'type': 'CosineAnnealingRestartLR', 'periods': [5, 5], 'restart_weights': [1]},
        'train.scheduler.restart_weights: 1 for 2 periods',
    ),
    ('train:optim_g:weight_deca', 0, "'weight_decay'"),
    ('train:pixel_opt', None, 'pixel_opt'),
    ('train:pixel_opt', 3, 'train.pixel_opt'),
    ('train:pixel_opt:los_weight', 1, "'los_weight'"),
    ('train:pixel_opt:type', None, "'type'"),
    ('train:ema_decay', 'abc', 'train.ema_decay'),
    ('train:clasifier_opt', {}, "'classifier_opt'"),
    ('train:optim_clasifier', {}, "'optim_classifier'"),
    ('train:classifier_opt:type', 'L1Loss', 'train.classifier_opt.type'),
    ('train:optim_classifier:betas', [0.9, 1.0], 'train.optim_classifier.betas'),
    ('logger:print_freq', 0, 'logger.print_freq'),
    ('logger:save_checkpoint_freq', None, "'save_checkpoint_freq'"),
    ('val', {}, "val: the key 'save_img'"),
    ('val', 3, 'val'),
    ('val', {'save_img': False, 'val_freq': 1, 'metrics': {'psnr': 'calculate_psnr'}}, 'val.metrics.psnr'),
    ('val', {'save_img': False, 'val_freq': 1, 'metrics': {'psnr': {'type': 'calculate_psnr'}}}, "'crop_border'"),
    ('gt_usm', None, "'gt_usm'"),
    ('resize_prob', None, "'resize_prob'"),
    ('jpeg_range', [95, 30], 'jpeg_range'),
    ('scale', None, "'scale'"),
    ('scale', 3, 'it upscales by 4, but scale is 3'),
    ('datasets', {}, 'no data set'),
    ('datasets', 3, 'datasets'),
    ('datasets:train', 3, 'datasets.train'),
    ('datasets:train:io_backend', 'disk', 'datasets.train.io_backend'),
    ('datasets:train:io_backend:type', 'dsk', 'io_backend.type'),
    ('datasets:train:kernel_list', None, "'kernel_list'"),
    ('datasets:train:dataroot_gt', None, "'dataroot_gt'"),
    ('datasets:train:dataroot_gt', 5, 'dataroot_gt'),
    ('datasets:train:batch_size_per_gpu', 'two', 'batch_size_per_gpu'),
    ('datasets:train:type', ['a'], 'type'),
    ('datasets:train:num_worker_per_gpu', None, "'num_worker_per_gpu'"),
    ('name', 5, 'name'),
    ('path:pretrain_network_g', 5, 'path.pretrain_network_g'),
    ('path:param_key_g', ['a'], 'path.param_key_g'),
    ('path:resume_state', 'nowhere.state', 'path.resume_state: no such file'),
    ('manual_seed', 'abc', 'manual_seed'),
    ('model_type', ['a'], 'model_type'),
    ('network_d', 4, 'network_d'),
    ('network_g:type', None, "'type'"),
    ('network_g:num_block', 'x', 'network_g: DefendedRRDBNet cannot be built'),
    ('network_g:num_in_ch', 1, 'network_g'),
    ('network_g:defense:points', ['trunk', 'trunk'], 'names a mask point twice'),
    ('attack', [1], 'attack'),
    ('attack:steps', float('inf'), 'attack.steps'),
    ('attack:share', 0, 'attack.share'),
    ('defense', {'gate': 'always'}, 'belongs into network_g'),
    ('defence', {}, "did you mean 'defense'"),
]


@pytest.mark.parametrize('path, value, message', WRONG_HOST, ids=lambda v: v if isinstance(v, str) else None)
def test_wrong_value_of_the_host_is_named(opt, path, value, message):
    set_in(opt, path, value)
    with pytest.raises(OptionsError) as error:
        check_options(opt)
    assert message in str(error.value) and '\n' not in str(error.value)


def test_several_gpus_are_refused_before_anything_is_written(opt, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    opt['num_gpu'] = 2
    opt['queue_size'] = 4
    with pytest.raises(OptionsError, match='torchrun --nproc_per_node=N .* write num_gpu: 1'):
        check_options(opt)


@pytest.mark.parametrize('path', WRONG)
def test_wrong_value_is_named(opt, path):
    value, message = WRONG[path]
    set_in(opt, path, value)
    with pytest.raises(OptionsError) as error:
        check_options(opt)
    assert message in str(error.value) and '\n' not in str(error.value)


def test_missing_and_misplaced_blocks(opt):
    opt['atack'] = opt.pop('attack')
    with pytest.raises(OptionsError, match="the options: unknown key 'atack'; did you mean 'attack'"):
        check_options(opt)
    opt['attack'] = opt.pop('atack')
    opt['model_type'] = 'RealESRNetModel'
    with pytest.raises(OptionsError, match='write model_type: DefendedRealESRNetModel'):
        check_options(opt)


def test_defended_model_with_a_plain_network(opt):
    opt['network_g'] = {k: v for k, v in opt['network_g'].items() if k != 'defense'}
    opt['network_g']['type'] = 'RRDBNet'
    with pytest.raises(OptionsError, match='trains defended networks; write DefendedRRDBNet'):
        check_options(opt)


def test_gpu_that_is_not_there(opt, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    opt['num_gpu'] = 1
    with pytest.raises(OptionsError, match='torch sees no GPU here; write num_gpu: auto or 0'):
        check_options(opt)


@pytest.mark.parametrize('block', ['train', 'attack'])
def test_bf16_that_a_gpu_emulates(block, opt, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device', contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'Tesla T4')
    opt['num_gpu'] = 1
    opt[block]['precision'] = 'bf16'
    with pytest.raises(OptionsError, match=f'{block}.precision: bf16, but Tesla T4 only emulates it; write fp32'):
        check_options(opt)


def test_all_that_is_wrong_with_a_block_is_named():
    wrong = {'type': 'PDG', 'eps': '8/255', 'stepz': 2, 'objective': {'tpe': 'x'}, 'attacks': [{'steps': 1.5}, 3]}
    with pytest.raises(OptionsError) as error:
        parse_block(wrong, AttackOptions, 'attack')
    found = [sentence.split(', got')[0].strip() for sentence in str(error.value).splitlines()[1:]]
    assert [sentence[: len(start)] for sentence, start in zip(found, STARTS)] == STARTS and len(found) == len(STARTS)


STARTS = [
    "attack: unknown key 'stepz'; did you mean 'steps'?",
    'attack.type: expected one of IFGSM, FGSM',
    "attack.objective: unknown key 'tpe'; did you mean 'type'?",
    'attack.attacks, number 1.steps: expected a whole number of at least 1',
    'attack.attacks, number 2: 3 is not a block of keys; it takes type, ',
    'attack.eps: this is in 1/255 units already; write 8',
]


@pytest.mark.parametrize(
    'val, sentence',
    [
        (
            {'tile': 9, 'tile_overlap': 1},
            'val.tile: 9 with val.tile_overlap: 1 gives tiles of 10x10, which DefendedSwinIR',
        ),
        ({'tile_size': 8}, "val: unknown key 'tile_size'; did you mean 'tile'?"),
        ({'tile_pad': 8}, "val: unknown key 'tile_pad'; did you mean 'tile_overlap'?"),
        ({'tile': 0}, 'val.tile: expected a whole number of at least 1, got 0'),
    ],
)
def test_wrong_tiles_are_named(opt, val, sentence):
    opt['network_g'] = dict(
        type='DefendedSwinIR',
        img_size=12,
        window_size=4,
        depths=[1],
        embed_dim=8,
        num_heads=[1],
        upscale=4,
        upsampler='pixelshuffle',
    )
    opt['val'] = {'val_freq': 2, 'save_img': False, **val}
    with pytest.raises(OptionsError, match=re.escape(sentence)):
        check_options(opt)
