"""Every command takes published weight files of CDC."""

import re

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from cdc_files import SMALL, WRAPPED, published_state, save, small_cdc, with_classifier
from torch import nn

from helpers import paired_options, train, write
from rsr_basicsr.archs import CDC
from rsr_basicsr.cli import main
from rsr_basicsr.weights.state_dict import load_state

PAPER = {'type': 'paper', 'weights': 'untrained', 'threshold': 0.9}


def options_for(model, pairs, photos, file, **defense):
    opt = paired_options(pairs, model, 'DefendedCDC', 1, photos)
    opt['network_g'] = {'type': 'DefendedCDC', **SMALL, 'defense': {'classifier': PAPER, **defense}}
    opt['path']['pretrain_network_g'] = file
    opt['train']['ema_decay'] = 0.999
    if not model.startswith('Defended'):
        opt['network_g'] = {'type': 'CDC', **SMALL}
        for key in ('target', 'train_classifier', 'optim_classifier', 'classifier_opt'):
            opt['train'].pop(key, None)
        del opt['attack']
    return opt


@pytest.mark.parametrize('how', WRAPPED)
@pytest.mark.parametrize('model', ['DefendedSRModel', 'SRModel'])
def test_train_starts_from_a_published_file(model, how, pairs, photos, tmp_path, monkeypatch):
    net = small_cdc()
    opt = options_for(model, pairs, photos, save(with_classifier(net), tmp_path / 'published.pth', how))
    if how == 'in params_ema':
        opt['path']['param_key_g'] = 'params_ema'
    opt['train']['optim_g']['lr'] = 0.0
    folder = train(opt, tmp_path, monkeypatch)
    for key in ('params', 'params_ema'):
        state = load_state(folder / 'models' / 'net_g_latest.pth', key)
        for name, value in net.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-6, atol=1e-8)  # the moving average rounds
    text = next(folder.glob('*.log')).read_text()
    assert 'Current net - loaded net' not in text and 'earlier' not in text
    assert ('is left out' in text) == (model == 'SRModel')
    if model == 'DefendedSRModel':
        assert 'plain backbone weights' not in text


def test_check_and_test(pairs, photos, tmp_path, monkeypatch, capsys):
    net = small_cdc()
    path = save(with_classifier(net), tmp_path / 'published.pth')
    opt = dict(
        name='published',
        model_type='DefendedSRModel',
        scale=4,
        num_gpu=0,
        manual_seed=0,
        network_g={'type': 'DefendedCDC', **SMALL, 'defense': {'classifier': PAPER}},
        datasets={
            'test_1': dict(
                name='pairs',
                type='PairedImageDataset',
                dataroot_gt=str(pairs / 'gt'),
                dataroot_lq=str(pairs / 'lq'),
                io_backend={'type': 'disk'},
            )
        },
        path={'pretrain_network_g': path, 'strict_load_g': True},
        val={'save_img': True, 'suffix': None},
    )
    opt['network_g']['defense']['gate'] = 'never'
    monkeypatch.chdir(tmp_path)
    file = write(opt, tmp_path / 'test.yml')
    assert main(['check', '-opt', str(file)]) == 0
    assert 'has one state dict; it fits DefendedCDC' in capsys.readouterr().out
    assert main(['test', '-opt', str(file)]) == 0
    outputs = sorted((tmp_path / 'results' / 'published' / 'visualization' / 'pairs').glob('*.png'))
    assert len(outputs) == 5
    first = cv2.imread(str(sorted((pairs / 'lq').glob('*.png'))[0]))
    x = torch.from_numpy(first[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        expected = (net(x)[0].clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()[..., ::-1]
    assert np.abs(cv2.imread(str(outputs[0])) - expected).max() <= 1

    opt['network_g']['defense'].update(gate='classifier')  # decides by the file's classifier
    assert main(['check', '-opt', str(write(opt, tmp_path / 'test.yml'))]) == 0
    torch.save(published_state(net), path)
    assert main(['check', '-opt', str(file)]) != 0
    assert 'is a plain backbone without a trained classifier' in capsys.readouterr().out


def test_published_file_loads_completely_without_strict(pairs, photos, tmp_path, capsys):
    opt = options_for('SRModel', pairs, photos, save(with_classifier(small_cdc()), tmp_path / 'published.pth'))
    opt['path']['strict_load_g'] = False
    assert main(['check', '-opt', str(write(opt, tmp_path / 'o.yml')), '--no-memory', '--decode', '0']) == 0
    assert 'fit CDC' not in capsys.readouterr().out  # as it says of those that fit in part


def test_export(tmp_path, capsys):
    net = small_cdc()
    path = save(with_classifier(net), tmp_path / 'published.pth')
    assert main(['export', path, '--backbone', str(tmp_path / 'plain.pth')]) == 0
    assert re.search(r'difference from the network 0\.0e\+00', capsys.readouterr().out)
    plain = CDC(**SMALL)
    plain.load_state_dict(torch.load(tmp_path / 'plain.pth', weights_only=True)['params'])
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(plain.eval()(x), net(x))


def test_benchmark(pairs, tmp_path):
    path = save(with_classifier(small_cdc()), tmp_path / 'published.pth')
    network = {**SMALL, 'num_in_ch': 3, 'weights': path}
    opt = {
        'name': 'published',
        'num_gpu': 0,
        'gallery': 0,
        'mask_seeds': [0],
        'eps': [8],
        'networks': {
            'plain': {'type': 'CDC', **network},
            'defended': {'type': 'DefendedCDC', **network, 'defense': {'classifier': PAPER}},
        },
        'attacks': {'ifgsm': {'type': 'FGSM'}},
        'datasets': {
            'photos': {
                'type': 'PairedImageDataset',
                'dataroot_gt': str(pairs / 'gt'),
                'dataroot_lq': str(pairs / 'lq'),
                'num_images': 1,
            }
        },
    }
    assert main(['benchmark', '-opt', str(write(opt, tmp_path / 'o.yml')), '-o', str(tmp_path / 'out')]) == 0
    assert 'defended' in (tmp_path / 'out' / 'results.csv').read_text()


def test_any_state_dict_needs_no_entry(pairs, photos, tmp_path, monkeypatch):
    opt = paired_options(pairs, photos=photos, iterations=1)
    options = {**opt['network_g'], 'type': 'SRVGGNetCompact'}
    net: nn.Module = build_network({key: value for key, value in options.items() if key != 'defense'})
    torch.save(net.state_dict(), tmp_path / 'raw.pth')
    opt['path']['pretrain_network_g'] = str(tmp_path / 'raw.pth')
    opt['train']['optim_g']['lr'] = 0.0
    folder = train(opt, tmp_path, monkeypatch)
    state = load_state(folder / 'models' / 'net_g_latest.pth', 'params')
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
