"""Weights that travel in the package: found by name, whole, free of code, and read by other programs."""

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs.srvgg_arch import SRVGGNetCompact

from rsr_basicsr.catalog import weights as catalog
from rsr_basicsr.cli import main
from rsr_basicsr.inference.recognition import open_network
from rsr_basicsr.utils.errors import WeightsError
from rsr_basicsr.weights import official

NAMES = [name for name, weights in catalog.WEIGHTS.items() if weights.url is None]


def test_there_are_defended_weights():
    assert 'defended-general-x4v3' in NAMES


@pytest.mark.parametrize('name', NAMES)
def test_file_is_that_of_the_table(name):
    weights, path = catalog.WEIGHTS[name], official.fetch(name)
    assert path.stat().st_size == weights.size < 5e6 and official.file_sha256(path) == weights.sha256
    card = path.with_suffix('.md').read_text(encoding='utf-8')
    assert all(word in card for word in ('BSD 3-Clause', 'Xintao Wang', 'options/', 'BSDS500', 'Limits'))


@pytest.mark.parametrize('name', NAMES)
def test_basicsr_and_spandrel_read_it(name):
    spandrel = pytest.importorskip('spandrel')
    options, path = dict(catalog.WEIGHTS[name].network), official.fetch(name)
    assert options.pop('type') == 'SRVGGNetCompact'
    net = SRVGGNetCompact(**options).eval()
    net.load_state_dict(torch.load(path, weights_only=True)['params'])
    other = spandrel.ModelLoader().load_from_file(path)
    assert other.scale == 4
    x = torch.rand(1, 3, 24, 32)
    with torch.no_grad():
        expected = net(x)
        torch.testing.assert_close(other.model.float()(x), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(open_network(name)(x), expected, atol=1e-4, rtol=0)


def test_command_copies_and_verifies(tmp_path, capfd, monkeypatch):
    assert main(['weights', 'defended-general-x4v3', '-o', str(tmp_path)]) == 0
    copied = tmp_path / 'defended-general-x4v3.pth'
    assert capfd.readouterr().out == f'{copied}\n'
    assert copied.read_bytes() == official.fetch('defended-general-x4v3').read_bytes()
    copied.write_bytes(b'damaged')
    assert main(['weights', 'defended-general-x4v3', '-o', str(tmp_path)]) == 0
    assert official.file_sha256(copied) == catalog.WEIGHTS['defended-general-x4v3'].sha256
    copied.unlink()
    monkeypatch.setattr(official, 'SHIPPED', tmp_path / 'other')
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / copied.name).write_bytes(b'damaged')
    with pytest.raises(WeightsError, match='is not the right file: expected sha256 .* install this package again'):
        official.fetch('defended-general-x4v3', tmp_path)
    assert not copied.exists()


def test_upscaling_by_name_downloads_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(official, '_routes', None)  # any fetching would fail
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / 'a.png'), rng.integers(0, 256, (20, 24, 3)).astype(np.uint8))
    assert main(['upscale', str(tmp_path / 'a.png'), '-n', 'defended-general-x4v3', '-o', str(tmp_path / 'out')]) == 0
    assert cv2.imread(str(tmp_path / 'out' / 'a_out.png')).shape == (80, 96, 3)
    assert 'defended-general-x4v3 holds by its training, without masks' in capsys.readouterr().err
