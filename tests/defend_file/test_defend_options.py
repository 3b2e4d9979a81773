"""``rsr defend``: only additions, in files that BasicSR and our checks take."""

import re
import sys

import pytest
import torch
import yaml
from basicsr.archs import build_network
from basicsr.utils.options import parse_options
from defend_files import FILES, text_of, without_additions

from helpers import OPTIONS, read, train
from rsr_basicsr.catalog.choices import PRESET_NAMES
from rsr_basicsr.check import check_options
from rsr_basicsr.cli import main
from rsr_basicsr.data import write_evaluation_pairs
from rsr_basicsr.defend_file.options_file import defend_text
from rsr_basicsr.defend_file.presets import PRESETS

#: What a preset writes out although it is the default, or for long trainings
SCHEDULE = {'warmup', 'precision', 'every'}


def assert_added_only(before, after):
    """Every character of the original is still there, in its order, and so is all that it means."""
    rest = iter(after)
    assert all(character in rest for character in before)
    assert without_additions(yaml.safe_load(after), yaml.safe_load(before)) == yaml.safe_load(before)


@pytest.mark.parametrize('name', FILES)
def test_all_lines_but_three_stay_as_they_are(name):
    before = text_of(name)
    after = defend_text(before).text
    assert_added_only(before, after)
    opt = yaml.safe_load(before)
    changed = re.sub(r'^(name: [\'"]?)', r'\1defended_', before, count=1, flags=re.MULTILINE)
    changed = re.sub(r'^(model_type: [\'"]?)', r'\1Defended', changed, count=1, flags=re.MULTILINE)
    changed = re.sub(
        rf'^( +type: ){opt["network_g"]["type"]}$',
        r'\1Defended' + opt['network_g']['type'],
        changed,
        flags=re.MULTILINE,
    )
    lines = iter(after.splitlines())
    # A block in braces is added to within its line.
    assert all(line in lines for line in changed.splitlines() if not line.startswith('val: {'))


@pytest.fixture
def project(tmp_path, monkeypatch, photos):
    """A folder to train in, with all that the files name: data sets, lists and weights."""

    def make(opt):
        pairs = tmp_path / 'datasets' / 'pairs'
        names = write_evaluation_pairs(pairs / 'gt', pairs / 'lq', gt_size=64, scale=opt['scale'])
        (pairs / 'meta_info.txt').write_text(''.join(f'gt/{name}.png, lq/{name}.png\n' for name in names))
        for name, folder in {'first': pairs, 'second': pairs, 'photos': photos}.items():
            (pairs.parent / name).symlink_to(folder)
        weights = build_network(dict(opt['network_g'])).state_dict()
        (tmp_path / 'weights').mkdir()
        torch.save({'params': weights, 'params_ema': weights}, tmp_path / 'weights' / 'generator.pth')
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return make


@pytest.mark.parametrize('name', FILES)
def test_basicsr_and_our_checks_take_what_is_written(name, project, monkeypatch, capsys):
    text = text_of(name)
    # Its classifier comes out of a training, which a test of plain weights has not had.
    presets = [preset for preset in PRESETS if preset != 'paper' or 'test' not in name]
    folder = project(yaml.safe_load(text))
    (folder / 'in.yml').write_text(text)
    assert main(['defend', 'in.yml', '-o', 'out.yml', '--preset', presets[len(name) % len(presets)]]) == 0
    is_train = 'train' in yaml.safe_load(text)
    assert 'will not take it' not in capsys.readouterr().err
    monkeypatch.setattr(sys, 'argv', ['rsr', '-opt', 'out.yml', '--force_yml', 'num_gpu=0'])
    opt, _ = parse_options(str(folder), is_train=is_train)
    check_options(opt)
    # A short training must meet the whole of eps too.
    assert opt.get('attack', {}).get('warmup', 0) <= opt.get('train', {}).get('total_iter', 0) / 10


def test_a_defended_file_trains_and_validates(project, monkeypatch):
    text = text_of('MSRResNet')
    folder = project(yaml.safe_load(text))
    for image in list(folder.glob('datasets/pairs/*/c*.png')):
        image.unlink()
    opt = yaml.safe_load(defend_text(text).text)
    experiment = train(
        opt,
        folder,
        monkeypatch,
        '--force_yml',
        'num_gpu=0',
        'train:total_iter=2',
        'logger:use_tb_logger=false',
        'logger:print_freq=1',
    )
    assert experiment.name == 'defended_11_msrresnet_x4'
    state = torch.load(experiment / 'models' / 'net_g_latest.pth', weights_only=True)['params']
    assert any(key.startswith('defense.') for key in state)
    log = next(experiment.glob('train_*.log')).read_text()
    assert 'l_attacked' in log and 'Validation first_attacked' in log and 'stability' in log


def test_presets_are_those_of_the_options_files():
    for file in OPTIONS.glob('finetune/*realesrgan*.yml'):
        opt = read(f'finetune/{file.name}')
        ours = yaml.safe_load(defend_text(text_of('RealESRGAN pairs')).text)
        assert ours['attack'] == opt['attack'] and ours['network_g']['defense'] == opt['network_g']['defense']
        assert ours['val']['attack'] == opt['val']['attack'] and ours['val']['guard'] == opt['val']['guard']
        assert ours['val']['panel_freq'] == ours['val']['val_freq']
    small = yaml.safe_load(defend_text(text_of('RealESRNet anime')).text)
    assert small['network_g']['defense'] == read('finetune/finetune_defended_general_x4v3.yml')['network_g']['defense']
    paper, cdc = PRESETS['paper'], read('train/train_cdc_realsr_x4_paper.yml')
    assert dict(paper.attack) == cdc['attack']
    assert {'mask': paper.mask, 'classifier': paper.classifier} == {
        key: cdc['network_g']['defense'][key] for key in ('mask', 'classifier')
    }


def test_default_is_the_best_that_was_measured():
    """Consistency as in the baselines; with a discriminator, which it cannot be trained with, adversarial training."""
    measured = read('baselines/consistency_general_x4v3.yml')['attack']
    for name in ('MSRResNet', 'RealESRNet x4', 'SwinIR x2'):
        found = yaml.safe_load(defend_text(text_of(name)).text)['attack']
        assert {key: found[key] for key in measured} == measured and not found.keys() - measured.keys() - SCHEDULE
    for name in ('ESRGAN', 'MSRGAN', 'RealESRGAN pairs'):
        assert defend_text(text_of(name)).text == defend_text(text_of(name), 'light').text


def test_default_trains_without_masks():
    opt = yaml.safe_load(defend_text(text_of('RealESRGAN pairs')).text)
    assert opt['network_g']['defense'] == {'gate': 'never'} and opt['attack']['masked'] == 0


def test_guard_only_where_there_is_something_to_compare_with():
    guarded = text_of('ESRGAN')
    assert yaml.safe_load(defend_text(guarded, 'light').text)['val']['guard'] == 0.5
    for old, new in {
        'weights/generator.pth': '~',
        'strict_load_g: true': 'strict_load_g: false',
        'calculate_psnr': 'calculate_ssim',
    }.items():
        assert 'guard' not in yaml.safe_load(defend_text(guarded.replace(old, new), 'light').text)['val']


def test_command_line_names_all_presets():
    assert tuple(PRESETS) == PRESET_NAMES
