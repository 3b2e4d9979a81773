"""Weights of an earlier version of a network are refused everywhere."""

import copy
import logging
import shutil

import pytest
import torch
from basicsr.archs import build_network
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from basicsr.utils import get_root_logger
from cdc_files import SMALL, small_cdc
from torch import nn
from torch.nn.parallel import DataParallel

from helpers import SMALL_NETWORKS, paired_options, train, write
from rsr_basicsr.archs import CDC
from rsr_basicsr.check import check_options
from rsr_basicsr.cli import main
from rsr_basicsr.inference.recognition import open_network
from rsr_basicsr.utils.errors import OptionsError, WeightsError
from rsr_basicsr.weights.state_dict import load_network, load_state
from rsr_basicsr.weights.versions import check_versions, refuse_older_files

SENTENCE = r'trained with an earlier version of (Defended)?CDC \(1, now 2\): .*activations.*; train it again'


def options(pairs, photos, **path):
    opt = paired_options(pairs, 'DefendedCDCModel', 'DefendedCDC', 1, photos)
    opt['train']['pixel_opt'] = {'type': 'ComponentLoss'}
    opt['network_g'] = {
        'type': 'DefendedCDC',
        **SMALL,
        'defense': {'classifier': {'type': 'paper', 'weights': 'untrained', 'threshold': 0.9}},
    }
    opt['train']['ema_decay'] = 0.9
    opt['logger']['save_checkpoint_freq'] = 1
    opt['path'].update(path)
    return opt


@pytest.fixture(scope='module')
def run(pairs, photos, tmp_path_factory):
    """Folder of a training that was run when CDC had version 1."""
    folder = tmp_path_factory.mktemp('old')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CDC, '_version', 1)
        train(options(pairs, photos), folder, patch)
    return folder


@pytest.fixture
def old(run):
    return run / 'experiments' / 'paired' / 'models' / 'net_g_latest.pth'


@pytest.fixture
def warnings():
    """Warnings logged by BasicSR's logger."""
    lines = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    get_root_logger().addHandler(handler)
    yield lines
    get_root_logger().removeHandler(handler)


def test_trainer_saves_the_version(run, old):
    for file in (old, old.with_name('net_g_1.pth')):
        content = torch.load(file, weights_only=True)
        assert 'network_g' in content  # the file was written a second time, with this entry
        for key in ('params', 'params_ema'):
            assert content[key]._metadata['']['version'] == load_state(file, key)._metadata['']['version'] == 1


def test_every_loader_refuses(old, tmp_path):
    state = load_state(old)
    net = build_network({'type': 'DefendedCDC', **SMALL, 'defense': {'classifier': {'type': 'paper'}}})
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(WeightsError, match=SENTENCE):
        net.load_state_dict(state)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    plain = {key: value for key, value in state.items() if not key.startswith('defense.')}
    torch.save({'params': DataParallel(small_cdc()).state_dict()}, tmp_path / 'parallel.pth')
    wrapped = torch.load(tmp_path / 'parallel.pth', weights_only=True)
    wrapped['params']._metadata['module']['version'] = 1
    torch.save(wrapped, tmp_path / 'parallel.pth')
    for attempt in (
        lambda: open_network(str(old)),
        lambda: open_network(str(tmp_path / 'parallel.pth')),
        lambda: load_network({'type': 'CDC', **SMALL, 'weights': tmp_path / 'parallel.pth'}),
    ):
        with pytest.raises(WeightsError, match=rf'\.pth: the weights were {SENTENCE}'):
            attempt()
    assert len(plain) < len(state)


def test_commands(old, tmp_path, pairs, photos, capsys):
    image = next((pairs / 'lq').glob('*.png'))
    assert main(['upscale', str(image), '-n', str(old), '-o', str(tmp_path)]) == 1
    assert main(['export', str(old), '--backbone', str(tmp_path / 'plain.pth')]) == 1
    opt = options(pairs, photos, pretrain_network_g=str(old))
    assert main(['train', '-opt', str(write(opt, tmp_path / 'o.yml'))]) == 2
    assert main(['check', '-opt', str(tmp_path / 'o.yml')]) != 0
    captured = capsys.readouterr()
    assert (captured.out + captured.err).count('trained with an earlier version of DefendedCDC (1, now 2)') == 4
    assert not list(tmp_path.glob('*.png')) and not (tmp_path / 'plain.pth').exists()
    for strict in (True, False):
        opt['path']['strict_load_g'] = strict
        with pytest.raises(OptionsError, match=rf'path\.pretrain_network_g: {old}: the weights were {SENTENCE}'):
            check_options({**copy.deepcopy(opt), 'is_train': True, 'dist': False})


@pytest.mark.parametrize('flag', [[], ['--auto_resume']])
def test_a_resumed_run(flag, run, pairs, photos, tmp_path, monkeypatch, capsys):
    shutil.copytree(run / 'experiments', tmp_path / 'experiments')
    folder = tmp_path / 'experiments' / 'paired'
    opt = options(pairs, photos)
    opt['train']['total_iter'] = 2
    if not flag:
        opt['path']['resume_state'] = str(folder / 'training_states' / '1.state')
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in folder.rglob('*'))
    assert main(['train', '-opt', str(write(opt, tmp_path / 'o.yml')), *flag]) == 2
    assert 'net_g_1.pth: the weights were trained with an earlier version' in capsys.readouterr().err
    assert sorted(path.name for path in folder.rglob('*')) == before


def test_current_version_is_saved_and_loaded(pairs, photos, tmp_path, monkeypatch, warnings):
    opt = options(pairs, photos)
    file = train(opt, tmp_path, monkeypatch) / 'models' / 'net_g_latest.pth'
    assert main(['export', str(file), '--backbone', str(tmp_path / 'plain.pth')]) == 0
    for path in (file, tmp_path / 'plain.pth'):
        assert load_state(path)._metadata['']['version'] == 2
        open_network(str(path))
    assert not any('defense' in name for name in load_state(tmp_path / 'plain.pth')._metadata)
    wrapped = DataParallel(open_network(str(tmp_path / 'plain.pth'))).state_dict()
    torch.save(wrapped, tmp_path / 'parallel.pth')  # whose own version is 1
    open_network(str(tmp_path / 'parallel.pth'))
    opt['train']['total_iter'] = 2
    train(opt, tmp_path, monkeypatch, '--auto_resume')
    assert not [line for line in warnings if 'version' in line]


def test_weights_without_a_version_load_with_a_warning(tmp_path, warnings):
    net = small_cdc()
    torch.save({'params': dict(net.state_dict())}, tmp_path / 'net.pth')
    found = open_network(str(tmp_path / 'net.pth'))
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in found.state_dict().items())
    assert len(warnings) == 1 and 'have no version; if it is earlier than 2' in warnings[0]


class Layer(nn.Linear):
    _version = 3

    def __init__(self):
        super().__init__(2, 2)
        refuse_older_files(self, 3, 'it changed')


def test_parts_of_a_network(warnings):
    net, old = nn.Sequential(nn.Linear(2, 2), Layer()), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).state_dict()
    for attempt in (net.load_state_dict, copy.deepcopy(net).load_state_dict, lambda state: check_versions(net, state)):
        with pytest.raises(WeightsError, match=r'earlier version of Layer \(1, now 3\): it changed'):
            attempt(old)
    old._metadata['1']['version'] = 3
    net.load_state_dict(old)
    check_versions(net, old)
    net.load_state_dict({key: value for key, value in old.items() if key.startswith('0.')}, strict=False)
    assert warnings == []


def test_weights_of_another_network_are_named_as_such(tmp_path):
    torch.save({'params': SRVGGNetCompact(**SMALL_NETWORKS['SRVGGNetCompact']).state_dict()}, tmp_path / 'net.pth')
    with pytest.raises(WeightsError, match='holds weights of another network'):
        load_network({'type': 'CDC', **SMALL, 'weights': tmp_path / 'net.pth'})
