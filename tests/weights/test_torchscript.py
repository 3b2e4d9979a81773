"""Tensors of TorchScript archives, without running their program: against torch.jit itself."""

from __future__ import annotations

import os
import pickle
import zipfile

import pytest
import torch
from basicsr.archs import build_network
from torch import nn

from helpers import SMALL_NETWORKS
from rsr_basicsr.inference.recognition import open_network
from rsr_basicsr.utils.errors import WeightsError
from rsr_basicsr.weights import load_state

COMPACT = {'type': 'SRVGGNetCompact', **SMALL_NETWORKS['SRVGGNetCompact']}


class Mixed(nn.Module):
    """Shared, transposed, half and integer tensors, beside attributes that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.small = nn.Parameter(torch.rand(3, 2).half())
        self.register_buffer('turned', torch.rand(4, 5).t())
        self.register_buffer('part', torch.rand(6)[2:5])
        self.sizes, self.name = [1, 2], 'net'

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)) * self.turned.sum() + self.part.sum() + self.small.float().sum() + self.sizes[0]


@pytest.fixture
def traced():
    """A network and its traced program."""
    net = build_network(COMPACT).eval()
    return net, torch.jit.trace(net, torch.rand(1, 3, 12, 16))


@pytest.mark.parametrize('kind', ['mixed', 'traced'])
def test_tensors_are_those_of_torch_jit(kind, traced, tmp_path):
    path = tmp_path / 'net.pt'
    (torch.jit.script(Mixed().eval()) if kind == 'mixed' else traced[1]).save(path)
    expected, found = torch.jit.load(path).state_dict(), load_state(path)
    assert set(found) == set(expected)
    assert all(torch.equal(found[key], value) and found[key].dtype == value.dtype for key, value in expected.items())


def test_traced_network_is_opened(traced, tmp_path):
    net, program = traced
    program.save(tmp_path / 'net.pt')
    x = torch.rand(1, 3, 9, 7)
    with torch.no_grad():
        assert torch.allclose(open_network(str(tmp_path / 'net.pt'))(x), net(x), atol=1e-6)


def test_frozen_program_has_no_tensors(traced, tmp_path):
    torch.jit.freeze(traced[1]).save(tmp_path / 'net.pt')
    with pytest.raises(WeightsError, match='without tensors of its own'):
        load_state(tmp_path / 'net.pt')


class Harmful:
    """Runs a command when unpickled."""

    def __reduce__(self):
        return os.mkdir, ('harm',)


@pytest.mark.parametrize('content', [pickle.dumps(Harmful()), b'no pickle', pickle.dumps({'w': 1})])
def test_odd_archives_are_refused_and_run_nothing(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile('net.pt', 'w') as archive:
        archive.writestr('net/data.pkl', content)
        archive.writestr('net/constants.pkl', pickle.dumps(()))
        archive.writestr('net/code/__torch__.py', 'raise SystemExit')
    with pytest.raises(WeightsError, match='refused|damaged|without tensors') as error:
        load_state('net.pt')
    assert '\n' not in str(error.value) and not (tmp_path / 'harm').exists()


def test_tensor_larger_than_its_numbers_is_refused(traced, tmp_path):
    traced[1].save(tmp_path / 'net.pt')
    with zipfile.ZipFile(tmp_path / 'net.pt') as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / 'cut.pt', 'w') as archive:
        for name, content in contents.items():
            archive.writestr(name, content[:4] if '/data/' in name else content)
    with pytest.raises(WeightsError, match='damaged'):
        load_state(tmp_path / 'cut.pt')
