"""safetensors files, read and written: against the package safetensors, and from a defended network to its commands."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from basicsr.archs import build_network

from helpers import SMALL_NETWORKS, write
from rsr_basicsr.cli import main
from rsr_basicsr.inference.recognition import open_network
from rsr_basicsr.utils.errors import WeightsError
from rsr_basicsr.weights import load_state

safetensors = pytest.importorskip('safetensors.torch')
COMPACT = SMALL_NETWORKS['SRVGGNetCompact']
DEFENDED = {
    **COMPACT,
    'type': 'DefendedSRVGGNetCompact',
    'defense': {'gate': 'soft', 'classifier': {'type': 'paper', 'weights': 'untrained'}, 'points': ['input']},
}


@pytest.fixture
def defended(tmp_path):
    """A small defended network and its file, as our trainer writes it."""
    net = build_network(DEFENDED).eval()
    torch.save({'params': net.state_dict(), 'network_g': DEFENDED}, tmp_path / 'net.pth')
    return net, str(tmp_path / 'net.pth')


@pytest.mark.parametrize('name', ['net.safetensors', 'net.pth'])  # the content says what a file is
def test_files_of_others_are_read(name, tmp_path):
    net, x = build_network({'type': 'SRVGGNetCompact', **COMPACT}).eval(), torch.rand(1, 3, 8, 12)
    state = net.state_dict()
    safetensors.save_file(state, tmp_path / name)
    found = load_state(tmp_path / name)
    assert set(found) == set(state) and all(torch.equal(found[key], state[key]) for key in state)
    with torch.no_grad():
        assert torch.allclose(open_network(str(tmp_path / name))(x), net(x), atol=1e-6)


def test_defended_network_keeps_its_settings(defended, tmp_path, capsys):
    net, file = defended
    out = tmp_path / 'out.safetensors'
    assert main(['export', file, '--safetensors', str(out)]) == 0
    assert 'keeps all of it: masks, detector and settings' in capsys.readouterr().out
    # The package itself reads it, and every other program that knows the format.
    state = safetensors.load_file(out)
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
    found = open_network(str(out))
    assert (found.defense.gate, type(found).__name__) == ('soft', 'DefendedSRVGGNetCompact')
    assert all(torch.equal(found.state_dict()[key], value) for key, value in net.state_dict().items())


def test_settings_of_an_options_file_are_kept(defended, tmp_path):
    out, options = tmp_path / 'out.safetensors', {**DEFENDED, 'defense': {**DEFENDED['defense'], 'gate': 'always'}}
    file = write({'network_g': options}, tmp_path / 'options.yml')
    assert main(['export', defended[1], '-opt', str(file), '--safetensors', str(out)]) == 0
    assert open_network(str(out)).defense.gate == 'always' and open_network(defended[1]).defense.gate == 'soft'


def test_backbone_is_written_in_the_format_of_its_name(defended, tmp_path):
    net, file = defended
    out, x = tmp_path / 'plain.safetensors', torch.rand(1, 3, 8, 12)
    assert main(['export', file, '--backbone', str(out)]) == 0
    plain = build_network({'type': 'SRVGGNetCompact', **COMPACT}).eval()
    plain.load_state_dict(safetensors.load_file(out))
    with torch.no_grad(), net.defense.forced(False):
        assert torch.equal(plain(x), net(x))


@pytest.mark.parametrize('network', [{'type': 'DefendedNothing'}, [1]], ids=str)
def test_false_settings_are_refused(network, tmp_path):
    state = build_network(DEFENDED).state_dict()
    state = {key: value.clone() for key, value in state.items()}
    safetensors.save_file(state, tmp_path / 'net.safetensors', {'network_g': json.dumps(network)})
    with pytest.raises(WeightsError, match='network_g') as error:
        open_network(str(tmp_path / 'net.safetensors'))
    assert '\n' not in str(error.value)


def test_settings_that_are_no_json_are_refused(tmp_path):
    safetensors.save_file({'w': torch.ones(2)}, tmp_path / 'net.safetensors', {'network_g': '[' * 100000})
    with pytest.raises(WeightsError, match='metadata that cannot be read'):
        load_state(tmp_path / 'net.safetensors')


@pytest.mark.parametrize(
    'content',
    [
        struct.pack('<Q', 2) + b'{}x',
        struct.pack('<Q', 10**15) + b'{"w":{}}',
        struct.pack('<Q', 70) + b'{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000]}}',
    ],
    ids=['more', 'long header', 'large tensor'],
)
def test_damaged_files_are_refused(content, tmp_path):
    (tmp_path / 'net.safetensors').write_bytes(content)
    with pytest.raises(WeightsError, match='damaged|no state dict') as error:
        load_state(tmp_path / 'net.safetensors')
    assert '\n' not in str(error.value)


def test_package_is_named_where_it_is_missing(defended, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert main(['export', defended[1], '--safetensors', str(tmp_path / 'out.safetensors')]) == 2
    assert 'need the package safetensors; pip install safetensors' in capsys.readouterr().err
