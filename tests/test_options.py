"""Options: what is refused, with which words; what is coerced; the committed files."""

import os
import subprocess
import sys

import pytest
import torch
import yaml
from basicsr.archs import build_network

from helpers import OPTIONS, read, shrink, write
from rsr_basicsr.archs import FrequencyClassifier
from rsr_basicsr.cli import main
from rsr_basicsr.data import write_training_photos
from rsr_basicsr.errors import OptionsError
from rsr_basicsr.options import check_options, read_options
from rsr_basicsr.options.blocks import ATTACK, DEFENSE
from rsr_basicsr.options.schema import parse_block

TRAIN = 'train/train_defended_realesrnet_x4plus.yml'


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp('photos')
    write_training_photos(folder)
    return folder


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
    'attack:eps': ('8/255', 'attack.eps: eps is in 1/255 units already; write 8'),
    'attack:steps': (0, 'attack.steps: expected a number from 1 to inf, got 0'),
    'attack:type': ('FGM', 'attack.type: expected one of IFGSM, PGD'),
    'attack:mode': ('half', 'attack.mode: expected one of paired, mixed, alternating'),
    'attack:share': (1.5, 'attack.share: expected a number from 0 to 1, got 1.5'),
    'attack:quantize': ('yes', "attack.quantize: expected true or false, got 'yes'"),
    'network_g:defense:gate': ('on', 'network_g.defense.gate: expected one of classifier, always, never'),
    'network_g:defense:points': (['tail'], "has no mask point 'tail'; it has input, trunk, upsampler"),
    'network_g:defense:mask:keep_radius': ([0.5, 0.4], 'expected [low, high] with low <= high'),
    'network_g:defense:classifier:weights': ('none.pth', 'network_g.defense.classifier.weights: no such file'),
    'network_g:defence': ({}, "network_g: unknown key 'defence'; did you mean 'defense'?"),
    'network_g:num_bloc': (3, "network_g: unknown key 'num_bloc'; did you mean 'num_block'?"),
    'network_g:type': ('RRDBNet', 'RRDBNet takes no defense; write type: DefendedRRDBNet'),
    'model_type': ('DefendedRealESRNet', "not registered; did you mean 'DefendedRealESRNetModel'?"),
    'datasets:train:type': ('RealESRGANDatset', "did you mean 'RealESRGANDataset'?"),
    'datasets:train:dataroot_gt': ('nowhere', 'datasets.train.dataroot_gt: no such folder: nowhere'),
    'datasets:train:meta_info': ('nowhere.txt', 'datasets.train.meta_info: no such file: nowhere.txt'),
    'path:pretrain_network_g': ('a/RealESRGAN_x4plus.pth', 'fetch it with: rsr weights RealESRGAN_x4plus -o a'),
    'train:pixel_opt:type': ('L1Los', "train.pixel_opt.type: 'L1Los' is not registered; did you mean 'L1Loss'?"),
    'train:optim_classifier:lr': ('fast', "train.optim_classifier.lr: expected a number from 0 to inf, got 'fast'"),
    'queue_size': (5, 'queue_size: 5 is not a multiple of the batch size 2'),
    'name': ('../up', "name: '../up' must be a plain name"),
    'num_gpu': (-1, 'num_gpu: expected auto or a whole number, got -1'),
}


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


def test_a_plain_file_needs_two_blocks_and_two_names_only(opt):
    del opt['train']['optim_classifier'], opt['train']['classifier_opt']
    opt['network_g'] = {k: v for k, v in opt['network_g'].items() if k != 'defense'}
    check_options(opt)
    assert opt['train']['optim_classifier'] == {'type': 'Adam', 'lr': 1e-3}


def test_missing_and_misplaced_blocks(opt):
    opt['atack'] = opt.pop('attack')
    with pytest.raises(OptionsError, match="needs an attack block; did you mean 'attack' where it says 'atack'"):
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


def test_first_missing_picture_is_named(opt, tmp_path, photos):
    meta_info = tmp_path / 'meta.txt'
    meta_info.write_text('rocket.png\nlost.png\n')
    opt['datasets']['train']['meta_info'] = str(meta_info)
    with pytest.raises(OptionsError, match='lists lost.png, which is not in'):
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
    with pytest.raises(OptionsError, match='network_g: DefendedRRDBNet cannot be built: .*FrequencyClassifier'):
        check_options(opt)


def test_testing_with_an_untrained_classifier_is_refused(opt, tmp_path, real_weights):
    opt.update(is_train=False, network_g={
        'type': 'DefendedSRVGGNetCompact', 'num_in_ch': 3, 'num_out_ch': 3, 'defense': {}})
    opt['path'] = {'pretrain_network_g': str(real_weights)}
    with pytest.raises(OptionsError, match='plain backbone without a trained classifier'):
        check_options(opt)
    torch.save(FrequencyClassifier().state_dict(), tmp_path / 'classifier.pth')
    opt['network_g']['defense'] = {'classifier': {'weights': str(tmp_path / 'classifier.pth')}}
    check_options(opt)


def test_gpu_that_is_not_there(opt, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    opt['num_gpu'] = 1
    with pytest.raises(OptionsError, match='torch sees no GPU here; write num_gpu: auto or 0'):
        check_options(opt)


@pytest.mark.parametrize('text, message', [
    ('a: [1', 'is not a YAML file'), ('', 'holds no options'), ('name: x', "'model_type' is missing"),
    ('name: !!python/object/apply:os.system ["echo run > ran"]', 'only plain YAML values are read'),
], ids=['syntax', 'empty', 'section', 'code'])
def test_unreadable_files(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'o.yml').write_text(text)
    with pytest.raises(OptionsError, match=message):
        read_options('o.yml', 'train')
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('file', sorted(OPTIONS.rglob('*.yml')), ids=lambda file: file.name)
def test_committed_files_hold_known_keys_only(file):
    opt = yaml.safe_load(file.read_text())
    parse_block(opt['network_g']['defense'], DEFENSE, 'defense')
    if 'attack' in opt:
        parse_block(opt['attack'], ATTACK, 'attack')
    read_options(str(file), 'train' if 'train' in opt else 'test')


def test_command_line_ends_in_one_sentence_and_code_2(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(['train', '-opt', 'nowhere.yml']) == 2
    assert capsys.readouterr().err == 'rsr train: -opt nowhere.yml: no such file\n'


def test_module_entry_leaves_nothing_behind(tmp_path, opt):
    opt['attack']['type'] = 'Unknown'
    for key in ('is_train', 'dist'):
        del opt[key]
    file = write(opt, tmp_path / 'o.yml')
    run = subprocess.run([sys.executable, '-m', 'rsr_basicsr.train', '-opt', str(file)], cwd=tmp_path,
                         capture_output=True, text=True)
    assert run.returncode == 2 and 'Traceback' not in run.stderr
    assert run.stderr.splitlines()[-1].startswith('rsr train: attack.type: expected one of')
    assert os.listdir(tmp_path) == ['o.yml']


def test_force_yml_reaches_our_blocks(tmp_path, opt, monkeypatch):
    from basicsr import train

    from rsr_basicsr import pipeline
    for key in ('is_train', 'dist'):
        del opt[key]
    file = write(opt, tmp_path / 'o.yml')
    seen = {}
    monkeypatch.setattr(train, 'train_pipeline', lambda root: seen.update(train.parse_options(root)[0]))
    pipeline.run_pipeline('train', str(file), ['-opt', str(file), '--force_yml', 'attack:eps=3'])
    assert seen['attack']['eps'] == 3
    with pytest.raises(OptionsError, match='--force_yml: cannot be applied'):
        pipeline.run_pipeline('train', str(file), ['-opt', str(file), '--force_yml', 'atack:eps=3'])


def test_every_key_is_documented():
    text = (OPTIONS.parent / 'docs' / 'options.md').read_text(encoding='utf-8')
    for name, rule in {**ATTACK, **DEFENSE}.items():
        for key in rule if isinstance(rule, dict) else [name]:
            assert key in text
