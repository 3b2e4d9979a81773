"""Weights of LPIPS's networks from real local servers: complete, wrong, slow and silent ones."""

import hashlib
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from lpips_by_hand import alexnet_features, save_features, squeezenet_features

from rsr_basicsr.ops import perceptual
from rsr_basicsr.ops.perceptual import available_measure, forget_measures
from rsr_basicsr.utils.errors import WeightsError
from rsr_basicsr.weights import backbones
from rsr_basicsr.weights.backbones import cached_at, fetch_backbone


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of torch, and no network: what is asked goes to a closed port."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        through(monkeypatch, free.getsockname()[1])
    forget_measures()
    cached_at('alex').parent.mkdir(parents=True)
    yield cached_at('alex').parent
    forget_measures()


def through(monkeypatch, port):
    """Send all requests to a port of this machine."""
    monkeypatch.setattr('urllib.request._opener', None)  # which remembers the proxy of its first request
    for name in ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'):
        monkeypatch.setenv(name, f'http://127.0.0.1:{port}')
    for name in ('no_proxy', 'NO_PROXY'):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(cache, monkeypatch):
    """A server of files: path -> content, seconds before each kilobyte."""
    files = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            content, pause = files[self.path.rsplit('/', 1)[-1]]
            self.send_response(200)
            self.send_header('Content-Length', str(len(content)))
            self.end_headers()
            for start in range(0, len(content), 1024):
                time.sleep(pause)
                self.wfile.write(content[start : start + 1024])

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        through(monkeypatch, running.server_port)
        yield files, running.server_port
        running.shutdown()


def download(server, cache, content, name=None, pause=0.0, seconds=None):
    files, port = server
    name = name or f'net-{hashlib.sha256(content).hexdigest()[:8]}.pth'
    files[name] = content, pause
    backbones._download(f'http://127.0.0.1:{port}/{name}', cache / name, seconds)
    return cache / name


def test_a_complete_file_arrives(server, cache):
    assert download(server, cache, b'weights' * 1000).read_bytes() == b'weights' * 1000
    assert len(list(cache.iterdir())) == 1


def test_a_wrong_file_is_refused(server, cache):
    with pytest.raises(WeightsError, match='cannot be downloaded .*hash.*; put it into'):
        download(server, cache, b'something else', name='net-0123abcd.pth')
    assert not list(cache.iterdir())


def test_a_slow_server_is_given_up(server, cache):
    started = time.monotonic()
    with pytest.raises(WeightsError, match='did not arrive within 0.5 s; download it by hand to'):
        download(server, cache, bytes(20 * 1024), pause=0.2, seconds=0.5)
    assert time.monotonic() - started < 3


def test_without_network_the_measure_has_no_weights(cache):
    pytest.importorskip('piq')
    assert available_measure() == 'local_contrast'


def test_a_silent_network_does_not_hang(cache, monkeypatch):
    pytest.importorskip('piq')
    monkeypatch.setattr(perceptual, '_SECONDS', 0.5)
    with socket.socket() as silent:  # accepts connections, and never answers
        silent.bind(('127.0.0.1', 0))
        silent.listen()
        through(monkeypatch, silent.getsockname()[1])
        started = time.monotonic()
        assert available_measure() == 'local_contrast'
        assert time.monotonic() - started < 5
        assert available_measure() == 'local_contrast' and time.monotonic() - started < 5


def test_cached_weights_are_taken_in_order(cache):
    pytest.importorskip('lpips')
    save_features(squeezenet_features(), cached_at('squeeze'))
    assert available_measure() == 'lpips_squeeze'
    forget_measures()
    save_features(alexnet_features(), cached_at('alex'))
    assert available_measure() == 'lpips'
    assert fetch_backbone('alex')['features.0.weight'].shape == (64, 3, 11, 11)


def test_a_given_file_decides(cache, tmp_path):
    assert available_measure(save_features(alexnet_features(), tmp_path / 'a.pth')) == 'lpips'
    assert available_measure(save_features(squeezenet_features(), tmp_path / 's.pth')) == 'lpips_squeeze'
    torch.save({'conv.weight': torch.zeros(1)}, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match="other.pth holds no features of torchvision's AlexNet or SqueezeNet 1.1"):
        available_measure(tmp_path / 'other.pth')


def test_without_any_package(cache, monkeypatch):
    for package in ('lpips', 'piq'):
        monkeypatch.setitem(__import__('sys').modules, package, None)
    assert available_measure() == 'local_contrast'
