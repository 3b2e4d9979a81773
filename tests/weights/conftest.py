"""Fixtures for tests of weights: a server of the small file, a URL that nobody serves, an entry in the table."""

import dataclasses
import hashlib
import http.server
import socket
import threading

import pytest
from weights_files import NAME, OFFICIAL

from rsr_basicsr.catalog import weights as catalog


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
        monkeypatch.setitem(catalog.KNOWN, name, dataclasses.replace(catalog.KNOWN[name], **fields))

    replace(sha256=hashlib.sha256(OFFICIAL).hexdigest(), size=len(OFFICIAL), package=None)
    return replace
