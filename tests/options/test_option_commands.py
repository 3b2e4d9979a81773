"""Options on the command line: ``rsr train``, ``rsr test`` and ``rsr masks``."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from training_files import TRAIN

from helpers import OPTIONS, read, write
from rsr_basicsr.cli import main


def test_testing_by_the_options_of_a_training_is_refused(opt, tmp_path, capsys):
    for key in ('is_train', 'dist'):
        del opt[key]
    opt['val'] = {'save_img': True, 'suffix': None}
    assert main(['test', '-opt', str(write(opt, tmp_path / 'o.yml'))]) == 2
    assert re.search(
        "datasets.train: .* such as test_1, test_2; got 'train', as a training has it", capsys.readouterr().err
    )
    assert os.listdir(tmp_path) == ['o.yml']


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
        'attack:eps=[1/0]': 'attack.eps: expected',
        'attack:eps=[1': '--force_yml attack:eps=[1',
    }.items():
        assert main([*command, f'--force_yml={wrong}']) == 2
        assert sentence in capsys.readouterr().err
    assert main([*command, '--launcher', 'pytorch']) == 2
    assert 'RANK is not set; start with: torchrun' in capsys.readouterr().err
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert main(command) == 2
    assert 'WORLD_SIZE is 2, but the processes would not know of each other' in capsys.readouterr().err


@pytest.mark.parametrize('seed', [3, 4])
def test_seed_of_force_yml_is_the_seed(seed, tmp_path, opt, monkeypatch):
    from basicsr import train

    for key in ('is_train', 'dist'):
        del opt[key]
    command = ['train', '-opt', str(write(opt, tmp_path / 'o.yml'))]
    monkeypatch.setattr(train, 'train_pipeline', lambda root: train.parse_options(root))
    assert opt['manual_seed'] != seed
    assert main([*command, '--force_yml', f'manual_seed={seed}', 'name=2026-11-26']) == 0
    drawn = torch.rand(3), np.random.rand()
    torch.manual_seed(seed)
    assert torch.equal(drawn[0], torch.rand(3)) and drawn[1] == np.random.RandomState(seed).rand()


@pytest.mark.parametrize(
    'change', ['val:nix=[open("made", "w")]', 'val"]=open("made", "w") or ["=1', 'name=[open("made","w")]']
)
def test_force_yml_runs_no_code(change, tmp_path, opt, monkeypatch):
    from basicsr import train

    monkeypatch.chdir(tmp_path)
    for key in ('is_train', 'dist'):
        del opt[key]
    command = ['train', '-opt', str(write(opt, tmp_path / 'o.yml'))]
    monkeypatch.setattr(train, 'train_pipeline', lambda root: train.parse_options(root))
    main([*command, '--force_yml', change])  # taken as text, or refused
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize('seed', ['one', '1.5', '[1]', '-1'])
def test_seed_of_force_yml_that_is_none_is_refused(seed, tmp_path, opt, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for key in ('is_train', 'dist'):
        del opt[key]
    command = ['train', '-opt', str(write(opt, tmp_path / 'o.yml'))]
    assert main([*command, '--force_yml', f'manual_seed={seed}']) == 2
    assert 'manual_seed' in capsys.readouterr().err and not (tmp_path / 'experiments').exists()


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
