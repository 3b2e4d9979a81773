"""``train: channels_last`` and ``compile``: the same training, faster where the hardware has it."""

from __future__ import annotations

import shutil

import pytest
import torch

from helpers import paired_options, train, write
from rsr_basicsr.cli import main


@pytest.fixture
def opt(pairs, photos):
    opt = paired_options(pairs, photos=photos, iterations=3)
    opt['manual_seed'] = 0
    opt['attack'].update(type='PGD', mode='paired', steps=2, objective='stability', attacked_target='clean_output')
    opt['network_g']['defense'] = {'points': ['input', 'trunk'], 'gate': 'always', 'classifier': {'type': 'paper'}}
    opt['network_g']['defense']['classifier']['weights'] = 'untrained'
    opt['logger'].update(save_checkpoint_freq=3, print_freq=1)
    return opt


def trained(opt, folder, monkeypatch, **settings):
    folder.mkdir()
    opt['train'].update(settings)
    experiment = train(opt, folder, monkeypatch)
    log = next(experiment.glob('train_*.log')).read_text()
    state = torch.load(experiment / 'models' / 'net_g_3.pth', weights_only=True)['params']
    return state, log


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_channels_last_trains_the_same(precision, opt, tmp_path, monkeypatch):
    plain, _ = trained(opt, tmp_path / 'plain', monkeypatch, precision=precision)
    laid_out, _ = trained(opt, tmp_path / 'laid_out', monkeypatch, channels_last=True)
    assert plain.keys() == laid_out.keys()
    assert any(value.dim() == 4 and not value.is_contiguous() for value in laid_out.values())
    for name, value in plain.items():  # Adam moves each weight by up to lr in a step, whatever its gradient
        torch.testing.assert_close(laid_out[name], value, rtol=0, atol=2e-4 if precision == 'fp32' else 7e-4)


@pytest.mark.skipif(shutil.which('g++') is None, reason='torch.compile needs a C++ compiler')
def test_compiled_passes_train_the_same(opt, tmp_path, monkeypatch):
    counted = torch._dynamo.utils.counters
    plain, _ = trained(opt, tmp_path / 'plain', monkeypatch)
    counted.clear()
    compiled, _ = trained(opt, tmp_path / 'compiled', monkeypatch, compile=True)
    assert counted['frames']['ok'] >= 2  # of the attack's pass and of the step
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=0, atol=2e-4)


def test_no_compiler_is_said_before_the_training(opt, tmp_path, monkeypatch, capsys):
    opt['train']['compile'] = True
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.delenv('CXX', raising=False)
    assert main(['train', '-opt', str(write(opt, tmp_path / 'o.yml'))]) == 2
    assert 'train.compile: torch.compile finds no C++ compiler; install g++' in capsys.readouterr().err
    opt['train'].update(compile=False, channels_last='yes')
    assert main(['train', '-opt', str(write(opt, tmp_path / 'o.yml'))]) == 2
    assert 'train.channels_last: expected' in capsys.readouterr().err
