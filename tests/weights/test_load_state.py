"""Weights read from files without running code, and loaded into networks."""

import os
import pickle

import pytest
import torch
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from weights_files import OFFICIAL, saved

from rsr_basicsr.utils.errors import WeightsError
from rsr_basicsr.weights import load_network, load_state

ONES, TWOS = {'w': torch.ones(2)}, {'w': torch.full((2,), 2.0)}


@pytest.mark.parametrize(
    'content, key, expected',
    [
        ({'params': ONES, 'params_ema': TWOS}, None, 2.0),
        ({'params': ONES, 'params_ema': TWOS}, 'params', 1.0),
        ({'params': ONES}, None, 1.0),
        (TWOS, None, 2.0),
    ],
)
def test_load_state(content, key, expected, tmp_path):
    torch.save(content, tmp_path / 'net.pth')
    state = load_state(tmp_path / 'net.pth', key)
    assert list(state) == ['w']
    assert state['w'].tolist() == [expected, expected]


@pytest.mark.parametrize(
    'content, reason',
    [
        (b'', 'damaged'),
        (b'hello, world', 'damaged'),
        (b'<!DOCTYPE html><html>not found</html>', 'damaged'),
        (OFFICIAL[:1000], 'damaged'),
        (OFFICIAL[:-1], 'damaged'),
        (saved({'params': ONES}, _use_new_zipfile_serialization=False)[:-4], 'damaged'),
        (saved({}), 'no state dict'),
        (saved({'params': {}}), 'no state dict'),
        (saved(torch.ones(2)), 'no state dict'),
        (saved({'params': {'w': 1}}), 'no state dict'),
        (saved({'epoch': 1, 'iter': 2, 'optimizers': []}), 'no state dict'),
        (
            saved({'params': {'a': torch.ones(2), 'w': torch.tensor([1.0, float('nan')])}}),
            'NaN or infinite values in w',
        ),
        (saved({'params': {'w': torch.tensor([float('inf')])}}), 'NaN or infinite values in w'),
        (saved({'params': {'w': torch.tensor([float('-inf')]).half()}}), 'NaN or infinite values in w'),
    ],
)
def test_load_state_refuses(content, reason, tmp_path):
    path = tmp_path / 'net.pth'
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=reason) as error:
        load_state(path)
    assert str(path) in str(error.value) and '\n' not in str(error.value)


def test_load_state_names_a_missing_file_and_a_missing_entry(tmp_path):
    with pytest.raises(WeightsError, match='none.pth does not exist'):
        load_state(tmp_path / 'none.pth')
    with pytest.raises(WeightsError, match='cannot be read'):
        load_state(tmp_path)
    torch.save({'params': ONES}, tmp_path / 'net.pth')
    with pytest.raises(WeightsError, match='no entry params_ema; it has params'):
        load_state(tmp_path / 'net.pth', 'params_ema')


class _RunsCode:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f'touch "{self.mark}"',)


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
@pytest.mark.parametrize(
    'write',
    [
        lambda content: saved(content),
        lambda content: saved(content, _use_new_zipfile_serialization=False),
        lambda content: pickle.dumps(content, 2),
        lambda content: pickle.dumps(content, 4),
    ],
    ids=['zip', 'legacy', 'pickle 2', 'pickle 4'],
)
def test_load_state_runs_no_code(write, tmp_path):
    mark, path = tmp_path / 'it ran', tmp_path / 'net.pth'
    path.write_bytes(write({'params': _RunsCode(mark)}))
    with pytest.raises(WeightsError, match='wants to run .*system|damaged'):
        load_state(path)
    assert not mark.exists()


def test_load_network(tmp_path):
    options = dict(type='SRVGGNetCompact', num_feat=4, num_conv=1, upscale=2)
    net = SRVGGNetCompact(num_feat=4, num_conv=1, upscale=2)
    torch.save({'params': {f'module.{key}': value for key, value in net.state_dict().items()}}, tmp_path / 'net.pth')
    loaded = load_network({**options, 'weights': tmp_path / 'net.pth'})
    assert not loaded.training and torch.equal(loaded.body[0].weight, net.body[0].weight)
    with pytest.raises(WeightsError, match='net.pth holds weights of another network: .*body.0.weight') as error:
        load_network({**options, 'num_feat': 5, 'weights': tmp_path / 'net.pth'})
    assert '\n' not in str(error.value)
    with pytest.raises(WeightsError, match='SRVGGNetCompact has no weights; name their file'):
        load_network(options)
