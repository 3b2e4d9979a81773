"""Options files: those that cannot be read, and the committed ones."""

import pytest
import torch
import yaml
from basicsr.archs import build_network

from helpers import OPTIONS
from rsr_basicsr.attacks import build_attack
from rsr_basicsr.data.adversarial_set_options import check_adversarial_set
from rsr_basicsr.options.attack_blocks import AttackOptions
from rsr_basicsr.options.blocks import DefenseOptions
from rsr_basicsr.options.loading import read_options
from rsr_basicsr.options.parsing import parse_block
from rsr_basicsr.utils.errors import OptionsError

DETECTOR = OPTIONS / 'train' / 'train_frequency_classifier.yml'
DEFENDED = sorted(
    file
    for file in OPTIONS.rglob('*.yml')
    if file.parent.name not in ('adversarial_set', 'benchmark')
    and not file.stem.endswith('frequency_classifier')
    and not file.stem.startswith('plain')  # a baseline without a defence
)


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
