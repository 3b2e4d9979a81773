"""State dicts: read from any weight file without running code from it, checked, and loaded into networks."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from basicsr.archs import build_network

from rsr_basicsr.utils.errors import WeightsError, in_one_line
from rsr_basicsr.utils.files import NotRegularError, check_regular
from rsr_basicsr.weights.bounds import check_archive, check_claims
from rsr_basicsr.weights.safetensors_file import is_safetensors, read_safetensors
from rsr_basicsr.weights.spandrel_network import SPANDREL, spandrel_network
from rsr_basicsr.weights.torchscript_file import is_torchscript, read_torchscript
from rsr_basicsr.weights.versions import with_metadata

# Entries under which trainers save a state dict, the first one that is there counts.
_AVERAGED, _OTHER_ENTRIES = ('params_ema', 'params'), ('params-ema', 'state_dict', 'model_state_dict', 'model', 'net')
_WRAPPER = 'netG.'  # prefix that trainers of GANs add to each key


def file_sha256(path: str | Path) -> str:
    """sha256 of a whole file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def digest(state: Mapping[str, torch.Tensor]) -> str:
    """sha256 of the tensors as float32, independent of the file format: sorted keys, shapes, little-endian bytes."""
    total = hashlib.sha256()
    for key in sorted(state):
        numbers = state[key].detach().float().numpy().astype('<f4')
        total.update(f'{key} {numbers.shape}\n'.encode())
        total.update(numbers.tobytes())
    return total.hexdigest()


def load_state(path: str | Path, key: str | Sequence[str] | None = None) -> dict[str, torch.Tensor]:
    """Read the state dict in a weight file, on the CPU, without running code from the file.

    Args:
        path: a file written by ``torch.save``, a safetensors file, or a TorchScript archive, whose program is ignored.
        key: the entry that holds the state dict, or several, of which the first existing one is taken; None takes
            ``params_ema``, else ``params``, else what other trainers write, such as ``state_dict``, else the whole
            file.

    Returns:
        The state dict, with the metadata that ``torch.save`` kept, see :mod:`rsr_basicsr.weights.versions`.

    Raises:
        WeightsError: the file is missing or damaged, contains code, holds no tensors, or values that are not finite.

    Examples:
        >>> net = torch.nn.Conv2d(3, 3, kernel_size=3)
        >>> torch.save({'params': net.state_dict()}, 'net.pth')
        >>> {name: tuple(value.shape) for name, value in load_state('net.pth').items()}
        {'weight': (3, 3, 3, 3), 'bias': (3,)}
    """
    return state_in(read_file(path), path, key)


def state_in(content: Any, path: str | Path, key: str | Sequence[str] | None = None) -> dict[str, torch.Tensor]:
    """As :func:`load_state`, from content that :func:`read_file` returned."""
    state = tensors_in(content, path, key)
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(f'{path} holds NaN or infinite values in {name}; take an earlier or a fresh file')
    return state


def tensors_in(content: Any, path: str | Path, key: str | Sequence[str] | None = None) -> dict[str, torch.Tensor]:
    """As :func:`state_in`, but accepts values that are not finite: a diverged training can be resumed."""
    state = _pick(path, content, key)
    if not is_state(state) or not state:
        raise WeightsError(
            f'{path} holds no state dict; give a weight file with tensors under params_ema, params or at its top'
        )
    check_claims(state, path)
    return with_metadata(state, state)


def entry_taken(content: Any, key: str | None) -> str | None:
    """The entry of a file that a BasicSR model loads; None for the whole file.

    Args:
        content: as :func:`read_file` returns it.
        key: the entry named in the options. If missing, ``params`` is taken, else the state dict in ``state_dict`` or
            an entry of other trainers, or at the top of the file.
    """
    entries_there = content if isinstance(content, dict) else {}
    found = next((entry for entry in (key, 'params') if entry in entries_there), None)
    if found is None and not is_state(content):
        return _other_entry(entries_there) or key
    return found


def is_state(value: Any) -> bool:
    """Whether a value from a file is a state dict, possibly an empty one."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items()
    )


def load_network(options: Mapping[str, Any]) -> torch.nn.Module:
    """Build a network and load its weights.

    Args:
        options: ``type`` and arguments as in BasicSR's ``network_g``, and ``weights``, the file; not needed for a
            network without parameters. ``type: Spandrel`` has no arguments: spandrel recognises the network.

    Returns:
        The network on the CPU, in evaluation mode.

    Raises:
        WeightsError: as :func:`load_state`; no file is named; or the file is for another network.
    """
    options = dict(options)
    path = options.pop('weights', None)
    if options.get('type') == SPANDREL:
        if path is None or len(options) > 1:
            raise WeightsError(f'the network {SPANDREL} takes weights, a file, and no other argument')
        return spandrel_network(without_wrapper(load_state(path)), path)
    net = build_quietly(options)
    if path is None:
        if any(True for _ in net.parameters()):
            raise WeightsError(f'the network {options.get("type")} has no weights; name their file')
        return net.eval()
    return fill(net, load_state(path), path)


def build_quietly(options: Mapping[str, Any]) -> torch.nn.Module:
    """BasicSR's ``build_network``, without its prints to stdout about suffixed names."""
    with open(os.devnull, 'w', encoding='utf-8') as nowhere, contextlib.redirect_stdout(nowhere):
        return build_network(options)


def fill(net: torch.nn.Module, state: Mapping[str, torch.Tensor], path: str | Path) -> torch.nn.Module:
    """Load a state dict into a network, and return the network in evaluation mode.

    Args:
        net: the network.
        state: as :func:`load_state` returns it.
        path: name of the file, for messages.

    Raises:
        WeightsError: the weights are for another network, or for an earlier version of it.
    """
    state = without_wrapper(state)
    try:
        net.load_state_dict(state)
    except WeightsError as error:
        raise WeightsError(f'{path}: {error}') from None
    except RuntimeError as error:
        raise another_network(net, state, path, error) from error
    return net.eval()


def another_network(
    net: torch.nn.Module, state: Mapping[str, torch.Tensor], path: str | Path, error: RuntimeError
) -> WeightsError:
    """The error for weights that do not fit a network; names the first tensor that differs.

    Args:
        net: the network.
        state: the tensors.
        path: name of the file.
        error: what loading them raised.
    """
    found, own = (
        {key: tuple(value.shape) for key, value in tensors.items()}
        for tensors in (under_own_names(net, state), net.state_dict())
    )
    what = next(
        (
            f'{key} is {found.get(key, "missing")} in the file and {own.get(key, "missing")} in {type(net).__name__}'
            for key in [*found, *own]
            if found.get(key) != own.get(key)
        ),
        in_one_line(error),
    )
    return WeightsError(f'{path} holds weights of another network: {what}')


def without_wrapper(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict without the prefix ``module.`` that DataParallel adds, or ``netG.`` before each key."""
    bare = _without_prefix(state, 'module.')
    if bare and all(key.startswith(_WRAPPER) for key in bare):
        return _without_prefix(bare, _WRAPPER)
    return bare


def _without_prefix(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    bare = OrderedDict((key[len(prefix) :] if key.startswith(prefix) else key, value) for key, value in state.items())
    metadata = getattr(state, '_metadata', None)
    if metadata is not None:
        if prefix[:-1] in metadata:  # beside the entry of the wrapper itself
            metadata = {
                f'{name}.'[len(prefix) : -1]: entry for name, entry in metadata.items() if f'{name}.'.startswith(prefix)
            }
        setattr(bare, '_metadata', OrderedDict(metadata))
    return bare


def under_own_names(
    net: torch.nn.Module, state: Mapping[str, torch.Tensor], report: Callable[[str], None] = lambda line: None
) -> Mapping[str, torch.Tensor]:
    """A state dict under the network's own names; only :class:`rsr_basicsr.archs.CDC` knows others.

    Args:
        net: the network.
        state: as :func:`without_wrapper` returns it.
        report: called with a sentence if a part of the file is left out.
    """
    rename = getattr(net, 'under_own_names', None)
    return state if rename is None else rename(state, report)


def entries(path: str | Path) -> list[str]:
    """Names of the top-level entries of a weight file, such as ``params`` and ``params_ema``.

    Raises:
        WeightsError: as :func:`read_file`.
    """
    content = read_file(path)
    return list(map(str, content)) if isinstance(content, dict) else []


def read_file(path: str | Path) -> Any:
    """Read a weight file, on the CPU, without running code from it.

    Args:
        path: a file that ``torch.save`` wrote, a safetensors file, or a TorchScript archive, of which only the tensors
            are read.

    Raises:
        WeightsError: the file is missing or damaged, or contains code.
    """
    try:
        check_regular(Path(path))
        if is_safetensors(path):
            return read_safetensors(path)
        check_archive(Path(path))
        if is_torchscript(path):
            return read_torchscript(path)
        return torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f'{path} does not exist; check the path, or fetch weights with "rsr weights"') from error
    except WeightsError:
        raise
    except (PermissionError, IsADirectoryError, NotRegularError) as error:
        raise WeightsError(f'{path} cannot be read ({error.strerror}); give the path of a readable file') from error
    except Exception as error:  # a damaged pickle can raise anything
        code = re.search(r'GLOBAL ([\w.]+)', str(error))
        if code:
            raise WeightsError(
                f'{path} wants to run {code[1]} when read, which is refused; give a file that holds only tensors '
                '(a state dict)'
            ) from error
        raise WeightsError(f'{path} is damaged or not a PyTorch weight file; fetch or save it again') from error


def _pick(path: str | Path, content: Any, key: str | Sequence[str] | None) -> Any:
    entries_there = content.keys() if isinstance(content, dict) else ()
    wanted = _AVERAGED if key is None else (key,) if isinstance(key, str) else tuple(dict.fromkeys(key))
    found = next((entry for entry in wanted if entry in entries_there), None)
    if found is not None:
        return content[found]
    if key is None:
        entry = _other_entry(content)
        return content if entry is None else content[entry]
    there = ', '.join(map(str, list(entries_there)[:5])) or 'none'
    raise WeightsError(f'{path} has no entry {" or ".join(wanted)}; it has {there}')


def _other_entry(content: Any) -> str | None:
    """The first of the other trainers' entries that holds a state dict."""
    there = content if isinstance(content, dict) else {}
    return next((entry for entry in _OTHER_ENTRIES if there.get(entry) and is_state(there[entry])), None)
