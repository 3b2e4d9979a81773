"""Weights fetched from the release and verified; nothing stays behind a bad download."""

import hashlib
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from basicsr.archs.discriminator_arch import UNetDiscriminatorSN
from weights_files import NAME, OFFICIAL, files, saved

from rsr_basicsr.catalog import weights as catalog
from rsr_basicsr.utils.errors import OptionsError, WeightsError
from rsr_basicsr.weights import digest, official


def test_fetch_from_release(server, entry, tmp_path):
    entry(url=server.url)
    path = official.fetch(NAME, tmp_path / 'new' / 'folder')
    assert path == tmp_path / 'new' / 'folder' / f'{NAME}.pth'
    assert path.read_bytes() == OFFICIAL
    assert files(tmp_path / 'new') == [f'folder/{NAME}.pth']
    assert os.stat(path).st_mode & 0o777 == 0o666 & ~_umask()  # readable by whoever may read the user's other files


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize('fault', ['truncated', 'ends early', 'wrong content', 'not found', 'empty'])
def test_fetch_leaves_nothing_behind_a_bad_download(fault, server, entry, tmp_path):
    entry(url=server.url)
    if fault == 'truncated':
        server.body = OFFICIAL[:-100]
    elif fault == 'ends early':
        server.body, server.announced = OFFICIAL[:-100], len(OFFICIAL)
    elif fault == 'wrong content':
        server.body = OFFICIAL.replace(b'params', b'sparam')
    elif fault == 'not found':
        server.status = 404
    else:
        server.body = b''
    with pytest.raises(WeightsError) as error:
        official.fetch(NAME, tmp_path)
    assert server.requests == 1
    assert files(tmp_path) == []
    assert server.url in str(error.value) and str(tmp_path / f'{NAME}.pth') in str(error.value)
    assert '\n' not in str(error.value)


def test_fetch_gives_up_on_a_silent_server(server, entry, tmp_path, monkeypatch):
    entry(url=server.url)
    monkeypatch.setattr(official, 'TIMEOUT', 0.3)
    server.go.clear()
    start = time.monotonic()
    with pytest.raises(WeightsError, match='timed out'):
        official.fetch(NAME, tmp_path)
    assert time.monotonic() - start < 10
    assert socket.getdefaulttimeout() is None
    assert files(tmp_path) == []


def test_fetch_reuses_a_file_without_network(entry, closed_url, tmp_path):
    entry(url=closed_url)
    path = tmp_path / f'{NAME}.pth'
    path.write_bytes(OFFICIAL)
    before = path.stat().st_mtime_ns
    assert official.fetch(NAME, tmp_path) == path
    assert path.stat().st_mtime_ns == before


def test_fetch_knows_converted_tensors_in_another_file(entry, closed_url, tmp_path):
    state = {'w': torch.linspace(-1, 1, 5000)}
    entry(url=closed_url, digest=_digest_by_hand(state))
    path = tmp_path / f'{NAME}.pth'
    path.write_bytes(saved({'params': state}, _use_new_zipfile_serialization=False))
    assert path.read_bytes() != OFFICIAL
    assert official.fetch(NAME, tmp_path) == path
    path.write_bytes(saved({'params': {'w': state['w'].clone().index_fill_(0, torch.tensor(7), 0.5)}}))
    with pytest.raises(WeightsError, match='found .* and tensors with digest'):
        official.fetch(NAME, tmp_path)


def _digest_by_hand(state):
    total = hashlib.sha256()
    for key in sorted(state):
        total.update(f'{key} {tuple(state[key].shape)}\n'.encode())
        total.update(struct.pack(f'<{state[key].numel()}f', *state[key].flatten().tolist()))
    return total.hexdigest()


def test_digest():
    state = {'b': torch.tensor([1.0, -2.5]), 'a': torch.arange(6.0).reshape(2, 3)}
    assert digest(state) == _digest_by_hand(state)
    assert digest(dict(reversed(list(state.items())))) == digest(state)
    assert digest({**state, 'a': state['a'].reshape(3, 2)}) != digest(state)


def test_fetch_keeps_a_wrong_file_until_it_is_replaced(server, entry, tmp_path, caplog):
    entry(url=server.url)
    path = tmp_path / f'{NAME}.pth'
    path.write_bytes(b'mine')
    server.status = 404
    with pytest.raises(WeightsError) as error:
        official.fetch(NAME, tmp_path)
    assert path.read_bytes() == b'mine'
    for text in (hashlib.sha256(OFFICIAL).hexdigest(), hashlib.sha256(b'mine').hexdigest(), f'{len(OFFICIAL)} bytes'):
        assert text in str(error.value) and text in caplog.text
    server.status = 200
    assert official.fetch(NAME, tmp_path).read_bytes() == OFFICIAL
    assert files(tmp_path) == [f'{NAME}.pth']


def test_fetch_survives_a_kill(server, entry, tmp_path):
    entry(url=server.url)
    server.go.clear()
    code = (
        'import dataclasses, sys\n'
        'from rsr_basicsr.catalog import weights as catalog\n'
        'from rsr_basicsr.weights import official\n'
        'name, url, sha256, folder = sys.argv[1:]\n'
        'new = dataclasses.replace(catalog.KNOWN[name], url=url, sha256=sha256)\n'
        'catalog.KNOWN[name] = new\n'
        'official.fetch(name, folder)\n'
    )
    root = str(Path(official.__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, '-c', code, NAME, server.url, hashlib.sha256(OFFICIAL).hexdigest(), str(tmp_path)],
        env={**os.environ, 'PYTHONPATH': root},
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not files(tmp_path) and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert files(tmp_path), 'the download did not start'
    finally:
        child.kill()
        child.wait()
    assert not list(tmp_path.glob('*.pth'))
    assert all((tmp_path / leftover).read_bytes() != OFFICIAL for leftover in files(tmp_path))
    server.go.set()
    assert official.fetch(NAME, tmp_path).read_bytes() == OFFICIAL


def test_fetch_into_a_file_is_refused(entry, tmp_path):
    (tmp_path / 'file').write_bytes(b'')
    with pytest.raises(WeightsError, match='choose another folder'):
        official.fetch(NAME, tmp_path / 'file')


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.delenv('RSR_CACHE', raising=False)
    assert catalog.default_folder() == tmp_path / 'rsr_basicsr' / 'weights'
    monkeypatch.setenv('RSR_CACHE', str(tmp_path / 'mine'))
    assert catalog.default_folder() == tmp_path / 'mine'


def test_find_suggests_the_nearest_name():
    with pytest.raises(OptionsError, match='RealESRGAN_x4plus_anime_6B'):
        catalog.find('realesrgan_x4plus_anime')
    with pytest.raises(OptionsError, match='known are RealESRGAN_x4plus, '):
        catalog.find('???')


def test_weights_without_a_known_digest_are_compared_by_shape(entry, closed_url, tmp_path):
    name = 'RealESRGAN_x4plus_netD'
    entry(name, url=closed_url)
    state = UNetDiscriminatorSN(num_in_ch=3, num_feat=64, skip_connection=True).state_dict()
    path = tmp_path / f'{name}.pth'
    torch.save({'params': state}, path)
    assert official.fetch(name, tmp_path) == path
    torch.save({'params': {**state, 'conv9.bias': torch.zeros(2)}}, path)
    with pytest.raises(WeightsError, match=r'conv9.bias has shape \(2,\), expected \(1,\)'):
        official.fetch(name, tmp_path)
    path.write_bytes(b'no weights')
    with pytest.raises(WeightsError, match='is not the right file: .*by hand'):
        official.fetch(name, tmp_path)
    assert path.read_bytes() == b'no weights'
