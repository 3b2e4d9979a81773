"""safetensors files: tensors under names, with text beside them; reading one runs no code by construction."""

from __future__ import annotations

import importlib.util
import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rsr_basicsr.utils.errors import WeightsError

#: Suffix of such files
SAFETENSORS = '.safetensors'
#: Entry of a weight file for the options of its network
NETWORK = 'network_g'
_VERSIONS = 'versions'  # entry for the version of each module, which torch.save keeps as metadata
_LENGTH = 8  # bytes of the header's length


def check_package() -> None:
    """Check that the package safetensors is installed.

    Raises:
        WeightsError: it is not.
    """
    if importlib.util.find_spec('safetensors') is None:
        raise WeightsError(f'{SAFETENSORS} files need the package safetensors; pip install safetensors')


def is_safetensors(path: str | Path) -> bool:
    """Whether a file begins as a safetensors file does, whatever its name.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, 'rb') as file:
        start = file.read(_LENGTH + 2)
    return start[_LENGTH:] in (b'{"', b'{ ', b'{}')


def read_safetensors(path: str | Path) -> dict[str, Any]:
    """Read a safetensors file as :func:`rsr_basicsr.weights.read_file` reads others.

    Returns:
        The state dict; with options of its network in the file, the entries ``params`` and ``network_g``.

    Raises:
        WeightsError: the package is missing, or the file is damaged.
    """
    check_package()
    from safetensors import SafetensorError, safe_open

    if any(0xD800 <= ord(letter) < 0xE000 for letter in str(path)):
        raise WeightsError(f'{path}: safetensors reads only files whose path is in UTF-8; rename it')
    state: OrderedDict[str, torch.Tensor] = OrderedDict()
    try:
        with safe_open(str(path), framework='pt') as file:
            texts = file.metadata() or {}
            for key in file.keys():
                state[key] = file.get_tensor(key)
    except (SafetensorError, ValueError) as error:
        raise WeightsError(f'{path} is a damaged safetensors file ({error}); fetch or save it again') from error
    versions = _json(texts.get(_VERSIONS), path)
    if isinstance(versions, dict):
        setattr(state, '_metadata', OrderedDict((name, {'version': number}) for name, number in versions.items()))
    network = _json(texts.get(NETWORK), path)
    return state if network is None else {'params': state, NETWORK: network}


def safetensors_bytes(state: Mapping[str, torch.Tensor], network: Mapping[str, Any] | None = None) -> bytes:
    """The content of a safetensors file.

    Args:
        state: the state dict.
        network: the options of its network, kept beside the tensors; None keeps none.
    """
    from safetensors.torch import save

    texts = {'format': 'pt'}  # what other programs look for
    versions = {
        name: entry['version']
        for name, entry in getattr(state, '_metadata', {}).items()
        if entry.get('version', 1) != 1
    }
    if versions:
        texts[_VERSIONS] = json.dumps(versions)
    if network is not None:
        texts[NETWORK] = json.dumps(network)
    # Tensors that share memory are refused.
    return save({key: value.detach().cpu().contiguous().clone() for key, value in state.items()}, texts)


def _json(text: str | None, path: str | Path) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f'{path} has metadata that cannot be read ({error}); save it again') from None
