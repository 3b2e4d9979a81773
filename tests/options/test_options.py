"""Options: what is refused, with which words; what is coerced; the committed files."""

import copy
import os
import re
import subprocess
import sys

import pytest
import torch
import yaml
from attack_blocks import ATTACK_BLOCKS, set_attack
from basicsr.archs import build_network

from helpers import OPTIONS, read, shrink, write
from rsr_basicsr.archs import FrequencyClassifier
from rsr_basicsr.attacks import build_attack
from rsr_basicsr.check import check_options
from rsr_basicsr.cli import main
from rsr_basicsr.data.adversarial_set_options import check_adversarial_set
from rsr_basicsr.options.attack_blocks import AttackOptions
from rsr_basicsr.options.blocks import DefenseOptions, typed_options
from rsr_basicsr.options.loading import read_options
from rsr_basicsr.options.parsing import parse_block
from rsr_basicsr.utils.errors import OptionsError

TRAIN = 'train/train_defended_realesrnet_x4plus.yml'
DETECTOR = OPTIONS / 'train' / 'train_frequency_classifier.yml'
DEFENDED = sorted(
    file
    for file in OPTIONS.rglob('*.yml')
    if file.parent.name not in ('adversarial_set', 'benchmark') and not file.stem.endswith('frequency_classifier')
)


@pytest.fixture
def opt(photos):
    """Small options, as BasicSR's parser delivers them."""
    opt = shrink(read(TRAIN), photos)
    opt.update(is_train=True, dist=False)
    return opt


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


def test_small_steps_are_not_taken_for_fractions(opt):
    opt['attack'].update(eps=2, steps=10, step_size=0.2, random_start=0.1)
    check_options(opt)
    assert opt['attack']['step_size'] == 0.2


def test_training_on_pairs_needs_no_pool(opt):
    opt['queue_size'] = 5
    with pytest.raises(OptionsError, match='queue_size: 5 is not a multiple'):
        check_options(opt)
    opt['high_order_degradation'] = False
    del opt['resize_prob']
    check_options(opt)


def test_resuming_does_not_need_the_first_weights(opt, tmp_path):
    opt['path'].update(pretrain_network_g='gone.pth', training_states=str(tmp_path), models=str(tmp_path))
    opt['auto_resume'] = True
    with pytest.raises(OptionsError, match='no such file: gone.pth'):
        check_options(copy.deepcopy(opt))
    torch.save({'iter': 2}, tmp_path / '2.state')
    with pytest.raises(OptionsError, match='no such file: gone.pth'):  # the state is not whole without its network
        check_options(copy.deepcopy(opt))
    torch.save({}, tmp_path / 'net_g_2.pth')
    check_options(opt)
    assert opt['path']['resume_state'] == str(tmp_path / '2.state')


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


def test_good_options_pass_and_numbers_are_coerced(opt):
    opt['attack'].update(eps=['2', '8'], steps='3', step_size='1e-0')
    check_options(opt)
    assert opt['attack']['eps'] == [2.0, 8.0] and opt['attack']['steps'] == 3 and opt['attack']['step_size'] == 1.0
    assert opt['train']['classifier_opt'] == {'type': 'ClassifierLoss'}


def test_checked_options_are_there_as_objects(opt):
    opt['attack'].update(eps=['2', '8'], steps='3', objective={'type': 'stability'})
    opt['val'].update(attack={'type': 'PGD', 'eps': '4', 'steps': 1}, panel_freq=None)
    del opt['train']['classifier_opt']
    check_options(opt)
    before = copy.deepcopy(opt)
    options = typed_options(opt)
    assert opt == before
    assert options.attack.eps == [2.0, 8.0] and options.attack.steps == 3 and options.attack.every == 1
    assert options.attack.objective == 'stability' and options.attack.restarts is None
    assert options.train.target == 'ground_truth' and options.train.classifier_opt.type == 'ClassifierLoss'
    assert options.val.attack.eps == 4.0 and options.val.panel_freq is None and options.val.tile_overlap == 16
    assert options.network_g.defense.mask.keep_radius == opt['network_g']['defense']['mask']['keep_radius']
    assert options.attack.plain() == opt['attack']


@pytest.mark.parametrize('attack', ATTACK_BLOCKS, ids=str)
def test_every_attack_can_be_asked_for(opt, attack, real_weights):
    set_attack(opt, real_weights, **copy.deepcopy(attack))
    check_options(opt)
    assert opt['attack']['quantize'] == 'nearest'


def test_values_of_a_source_are_coerced(opt, real_weights, monkeypatch):
    monkeypatch.setenv('HOME', str(real_weights.parent))
    set_attack(
        opt,
        f'~/{real_weights.name}',
        type='Transfer',
        steps=2,
        source={'type': 'DefendedSRVGGNetCompact', 'defense': {'mask_samples': '2'}},
    )
    check_options(opt)
    source = opt['attack']['source']
    assert source['defense']['mask_samples'] == 2 and source['weights'] == str(real_weights)


@pytest.mark.parametrize(
    'attack, message',
    [
        (dict(type='WorstOf', steps=2, decay=1, attacks=[{'type': 'PGD'}]), "WorstOf: no attack inside has 'decay'"),
        (dict(type='WorstOf', attacks=[{'type': 'PGD', 'eps': 2}]), "attack.attacks, number 1: unknown key 'eps'"),
        (dict(type='FGSM', steps=2), "attack: FGSM has no argument 'steps'"),
        (dict(type='APGD'), "attack: the key 'steps' is missing"),
        (dict(type='Transfer', attack={'type': 'MIFGSM'}), "attack: the key 'steps' is missing"),
        (dict(type='WorstOf', attacks=[{'type': 'FGSM'}, {'restarts': 2}]), "attack: the key 'steps' is missing"),
        (dict(type='PGD', steps=2, objective='target'), 'attack.objective: expected one of'),
        (dict(type='PGD', steps=2, decay=1), "attack: PGD has no argument 'decay'"),
        (dict(type='BandLimited', steps=2, band=[0.5, 0.2]), 'attack.band: expected [low, high] with low <= high'),
        (dict(type='WorstOf', attacks=[]), 'attack.attacks: expected a list in brackets, got []'),
        (
            dict(type='WorstOf', attacks=[{'type': 'PGD', 'stepz': 2}]),
            "attack.attacks, number 1: unknown key 'stepz'; did you mean 'steps'?",
        ),
        (dict(type='Transfer', steps=2, source={'weights': 'gone.pth'}), 'attack.source.weights: no such file, got'),
        (dict(type='Transfer', steps=2, source={'num_conv': 4}), 'attack.source.weights: '),
        (
            dict(type='Transfer', steps=2, source={'type': 'RRDBNett'}),
            "attack.source.type: 'RRDBNett' is not registered",
        ),
        (dict(type='Transfer', steps=2, source={'num_convs': 16}), "attack.source: unknown key 'num_convs'"),
    ],
    ids=str,
)
def test_wrong_attacks_are_named(opt, attack, message, real_weights):
    set_attack(opt, real_weights, **copy.deepcopy(attack))
    with pytest.raises(OptionsError) as error:
        check_options(opt)
    assert message in str(error.value) and '\n' not in str(error.value)


def test_a_plain_file_needs_two_blocks_and_two_names_only(opt):
    del opt['train']['optim_classifier'], opt['train']['classifier_opt']
    opt['network_g'] = {k: v for k, v in opt['network_g'].items() if k != 'defense'}
    check_options(opt)
    assert opt['train']['optim_classifier'] == {'type': 'Adam', 'lr': 1e-3}


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


def test_eps_as_a_fraction_is_caught(opt):
    opt['attack']['eps'] = 0.031
    with pytest.raises(OptionsError, match=r'did you mean 7\.9'):
        check_options(opt)


def test_first_missing_image_is_named(opt, tmp_path, photos):
    meta_info = tmp_path / 'meta.txt'
    meta_info.write_text('rocket.png\nlost.png\n')
    opt['datasets']['train']['meta_info'] = str(meta_info)
    with pytest.raises(OptionsError, match='lists lost.png, which is not in'):
        check_options(opt)


@pytest.mark.parametrize(
    'line, message',
    [
        ('coffee_cup.png', 'has the line \'coffee_cup.png\', expected "gt, lq"'),
        ('coffee_cup.png, lost.png', 'lists lost.png, which is not in'),
        ('', 'lists no image'),
    ],
)
def test_lists_of_pairs(line, message, photos, tmp_path):
    opt = shrink(read('finetune/finetune_defended_realesrgan_x4plus_pairdata.yml'), photos)
    opt.update(is_train=True, dist=False)
    check_options(copy.deepcopy(opt))
    (tmp_path / 'list.txt').write_text(f'{line}\n')
    opt['datasets']['train']['meta_info'] = str(tmp_path / 'list.txt')
    with pytest.raises(OptionsError) as error:
        check_options(opt)
    assert message in str(error.value)


@pytest.mark.parametrize(
    'attack',
    [
        {'type': 'DetectorAware', 'steps': 2},
        {'type': 'WorstOf', 'attacks': [{'type': 'PGD', 'steps': 2}, {'type': 'DetectorAware', 'steps': 2}]},
    ],
)
def test_a_detector_without_a_gradient_is_not_to_be_evaded(opt, attack):
    opt['network_g']['defense'] = {'classifier': {'type': 'paper_rrdb'}, 'decision': 'majority', 'seed': 0}
    check_options(copy.deepcopy(opt))
    for where in ('attack', 'val.attack'):
        wrong = copy.deepcopy(opt)
        if where == 'attack':
            wrong['attack'] = {'eps': 8, **attack}
        else:
            wrong['val']['attack'] = {'eps': 8, **attack}
        with pytest.raises(OptionsError, match=f'^{where}: DetectorAware: the detector of .*, a RRDBFreq.*, has no '):
            check_options(wrong)
        wrong['network_g']['defense'] = {'classifier': {'type': 'paper', 'weights': 'untrained'}}
        check_options(wrong)


def test_warm_start_is_for_attacks_that_have_a_start(opt):
    opt['attack'] = {'type': 'Square', 'eps': 8, 'queries': 3, 'warm_start': True}
    with pytest.raises(OptionsError, match='attack.warm_start: Square has a start of its own'):
        check_options(opt)


def test_damaged_weights_are_refused(opt, tmp_path):
    broken = tmp_path / 'broken.pth'
    torch.save({'params': {'a': torch.zeros(10000)}}, broken)
    broken.write_bytes(broken.read_bytes()[:1000])
    opt['path']['pretrain_network_g'] = str(broken)
    with pytest.raises(OptionsError, match='path.pretrain_network_g: .*broken.pth is damaged'):
        check_options(opt)


def test_weights_of_another_network_are_refused(opt, tmp_path):
    opt['path']['pretrain_network_g'] = str(tmp_path / 'w.pth')
    state = build_network({**opt['network_g'], 'num_block': 2}).state_dict()
    torch.save({'params': state}, tmp_path / 'w.pth')
    with pytest.raises(OptionsError, match=r'another network: body.1\S+ is \(4, 8, 3, 3\) in the file and missing in'):
        check_options(opt)
    torch.save({'other': state}, tmp_path / 'w.pth')
    with pytest.raises(OptionsError, match='has no entry params; it has other; see path.param_key_g'):
        check_options(opt)
    torch.save({'params': build_network(opt['network_g']).state_dict()}, tmp_path / 'w.pth')
    check_options(opt)


def test_classifier_weights_must_be_a_classifiers(opt, tmp_path):
    torch.save({'a': torch.zeros(1)}, tmp_path / 'c.pth')
    opt['network_g']['defense']['classifier']['weights'] = str(tmp_path / 'c.pth')
    with pytest.raises(OptionsError, match='network_g: DefendedRRDBNet cannot be built: .*another classifier'):
        check_options(opt)


@pytest.mark.parametrize('gate', ['classifier', 'soft'])
def test_testing_with_an_untrained_classifier_is_refused(gate, opt, tmp_path, real_weights, pairs):
    opt['datasets'] = {
        'test_1': {
            'name': 'a',
            'type': 'PairedImageDataset',
            'io_backend': {'type': 'disk'},
            'dataroot_gt': str(pairs / 'gt'),
            'dataroot_lq': str(pairs / 'lq'),
        }
    }
    opt.update(
        is_train=False,
        val={'save_img': False},
        network_g={
            'type': 'DefendedSRVGGNetCompact',
            'num_in_ch': 3,
            'num_out_ch': 3,
            'defense': {'gate': gate, 'classifier': {'type': 'paper', 'weights': 'untrained'}},
        },
    )
    opt['path'] = {'pretrain_network_g': str(real_weights)}
    with pytest.raises(OptionsError, match='plain backbone without a trained classifier'):
        check_options(opt)
    torch.save(FrequencyClassifier().state_dict(), tmp_path / 'classifier.pth')
    for classifier in ({'type': 'paper', 'weights': str(tmp_path / 'classifier.pth')}, {}):
        opt['network_g']['defense'] = {'classifier': classifier}
        check_options(opt)


def test_testing_by_the_options_of_a_training_is_refused(opt, tmp_path, capsys):
    for key in ('is_train', 'dist'):
        del opt[key]
    opt['val'] = {'save_img': True, 'suffix': None}
    assert main(['test', '-opt', str(write(opt, tmp_path / 'o.yml'))]) == 2
    assert re.search(
        "datasets.train: .* such as test_1, test_2; got 'train', as a training has it", capsys.readouterr().err
    )
    assert os.listdir(tmp_path) == ['o.yml']


def test_gpu_that_is_not_there(opt, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    opt['num_gpu'] = 1
    with pytest.raises(OptionsError, match='torch sees no GPU here; write num_gpu: auto or 0'):
        check_options(opt)


@pytest.mark.parametrize(
    'text, message',
    [
        ('a: [1', 'is not a YAML file'),
        ('', 'holds no options'),
        ('name: x', "'model_type' is missing"),
        ('name: !!python/object/apply:os.system ["echo run > ran"]', 'only plain YAML values are read'),
    ],
    ids=['syntax', 'empty', 'section', 'code'],
)
def test_unreadable_files(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'o.yml').write_text(text)
    with pytest.raises(OptionsError, match=message):
        read_options('o.yml', 'train')
    assert not (tmp_path / 'ran').exists()


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


@pytest.mark.parametrize('file', DEFENDED, ids=lambda file: file.name)
def test_committed_files_hold_known_keys_only(file):
    opt = yaml.safe_load(file.read_text())
    parse_block(opt['network_g']['defense'], DefenseOptions, 'defense')
    if 'attack' in opt:
        parse_block(opt['attack'], AttackOptions, 'attack')
    read = read_options(str(file), 'train' if 'train' in opt else 'test')
    assert read['network_g']['type'].startswith('Defended') and read['model_type'].startswith('Defended')


@pytest.mark.parametrize('file', sorted((OPTIONS / 'adversarial_set').glob('*.yml')), ids=lambda file: file.name)
def test_committed_sets_hold_what_their_check_takes(file, photos, tmp_path):
    opt = yaml.safe_load(file.read_text())
    for name, network in (opt.get('networks') or {}).items():  # the weights are not here
        plain = {key: value for key, value in network.items() if key not in ('weights', 'share')}
        network['weights'] = str(tmp_path / f'{name}.pth')
        torch.save({'params': build_network(plain).state_dict()}, network['weights'])
    opt['photos'] = [str(photos)]
    parsed = check_adversarial_set(opt)
    assert len(parsed['photos']) >= 11 and parsed['dataroot'] == f'datasets/detector/{file.stem}'


@pytest.mark.parametrize('file', sorted((OPTIONS / 'adversarial_set').glob('*.yml')), ids=lambda file: file.name)
def test_committed_sets_keep_the_step_that_the_shipped_detector_was_made_with(file):
    for attack in yaml.safe_load(file.read_text()).get('attacks', ()):
        built = build_attack({key: value for key, value in attack.items() if key not in ('share', 'eps')})
        assert not getattr(built, 'falls', False), attack


def test_the_options_of_the_detector_name_the_committed_sets():
    opt = yaml.safe_load(DETECTOR.read_text())
    blocks = [*opt['datasets'].values(), *opt['train']['calibration']['datasets']]
    folders = [block[key] for block in blocks for key in ('dataroot', 'dataroot_extra') if key in block]
    named = [folder for each in folders for folder in ([each] if isinstance(each, str) else each)]
    assert {folder.split('/')[-1] for folder in named} == {
        file.stem for file in (OPTIONS / 'adversarial_set').glob('*.yml')
    }


def test_command_line_ends_in_one_sentence_and_code_2(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(['train', '-opt', 'nowhere.yml']) == 2
    assert capsys.readouterr().err == 'rsr train: -opt nowhere.yml: no such file\n'


def test_module_entry_leaves_nothing_behind(tmp_path, opt):
    opt['attack']['type'] = 'Unknown'
    for key in ('is_train', 'dist'):
        del opt[key]
    file = write(opt, tmp_path / 'o.yml')
    run = subprocess.run(
        [sys.executable, '-m', 'rsr_basicsr.train', '-opt', str(file)], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 2 and 'Traceback' not in run.stderr
    assert run.stderr.splitlines()[-1].startswith('rsr train: attack.type: expected one of')
    assert os.listdir(tmp_path) == ['o.yml']


def test_force_yml_reaches_our_blocks(tmp_path, opt, monkeypatch, capsys):
    from basicsr import train

    for key in ('is_train', 'dist'):
        del opt[key]
    command = ['train', '-opt', str(write(opt, tmp_path / 'o.yml'))]
    seen = {}
    monkeypatch.setattr(train, 'train_pipeline', lambda root: seen.update(train.parse_options(root)[0]))
    assert main([*command, '--force_yml', 'attack:eps=3', 'train:optim_g:lr=1e-4']) == 0
    assert seen['attack']['eps'] == 3 and seen['train']['optim_g']['lr'] == 1e-4
    for wrong, sentence in {
        'atack:eps=3': 'has no block atack',
        'attack:eps': 'write section:key=value',
        'attack:eps=[1/0]': '--force_yml: cannot be applied',
    }.items():
        assert main([*command, f'--force_yml={wrong}']) == 2
        assert sentence in capsys.readouterr().err
    assert main([*command, '--launcher', 'pytorch']) == 2
    assert 'RANK is not set; start with: torchrun' in capsys.readouterr().err
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert main(command) == 2
    assert 'WORLD_SIZE is 2, but the processes would not know of each other' in capsys.readouterr().err


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


def test_tiles_that_fit_pass_and_an_empty_overlap_is_the_default(opt):
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
    opt['val'] = {'val_freq': 2, 'save_img': False, 'tile': 8, 'tile_overlap': None, 1: 2}
    check_options(opt)
    assert opt['val']['tile_overlap'] == 16


def test_masks_are_listed(tmp_path, capsys):
    assert main(['masks', '-opt', str(OPTIONS / 'train' / 'train_cdc_realsr_x4_paper.yml'), '--size', '40', '48']) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header == 'DefendedCDC, an image of 40x48, 13 masks' and len(lines) == 13
    assert lines[0].split() == ['1', 'input', '3', 'x', '40', 'x', '48']
    assert lines[12].split() == [
        '13',
        'inner',
        'hourglasses.5.inner',
        '64',
        'x',
        '48',
        'x',
        '48',
    ]  # CDC pads to multiples of 16

    opt = read(TRAIN)
    opt['network_g']['defense']['points'] = 'features'
    assert main(['masks', '-opt', str(write(opt, tmp_path / 'features.yml'))]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]] == ['trunk', 'upsampler']


@pytest.mark.parametrize(
    'change, sentence',
    [
        (
            {'network_g': {'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3}},
            'RRDBNet has no masks; write network_g: type: DefendedRRDBNet',
        ),
        ({'network_g': None}, "the key 'network_g' is missing"),
        ({'network_g': {}}, "network_g: the key 'type' is missing"),
    ],
)
def test_masks_of_what_has_none(change, sentence, tmp_path, capsys):
    assert main(['masks', '-opt', str(write({**read(TRAIN), **change}, tmp_path / 'options.yml'))]) == 2
    error = capsys.readouterr().err
    assert sentence in error and len(error.splitlines()) == 1
    assert main(['masks', '-opt', str(tmp_path / 'options.yml'), '--size', '0', '8']) == 2
    assert '--size 0 8: an image has at least one pixel' in capsys.readouterr().err


def test_masks_at_a_size_that_the_network_does_not_take(tmp_path, capsys):
    opt = read(TRAIN)
    opt['scale'] = opt['network_g']['scale'] = 2
    assert main(['masks', '-opt', str(write(opt, tmp_path / 'x2.yml')), '--size', '5', '7']) == 2
    assert capsys.readouterr().err == ('rsr masks: --size 5 7: DefendedRRDBNet does not take it: AssertionError\n')
