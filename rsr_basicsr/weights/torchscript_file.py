"""TorchScript archives: their tensors, read without compiling or running the program beside them."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rsr_basicsr.utils.errors import WeightsError

_DEEPEST = 100  # modules within modules
_DTYPES = {
    'FloatStorage': torch.float32,
    'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16,
    'DoubleStorage': torch.float64,
    'LongStorage': torch.int64,
    'IntStorage': torch.int32,
    'ShortStorage': torch.int16,
    'CharStorage': torch.int8,
    'ByteStorage': torch.uint8,
    'BoolStorage': torch.bool,
}


def is_torchscript(path: str | Path) -> bool:
    """Whether a file is an archive that ``torch.jit.save`` wrote."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return any(name.endswith('/constants.pkl') for name in names) and any('/code/' in name for name in names)


def read_torchscript(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the parameters and other tensors of an archive, under the names of ``torch.jit.load(path).state_dict()``.

    Raises:
        WeightsError: the archive is damaged, asks for anything but tensors and modules, or holds no tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith('/data.pkl') and name.count('/') == 1)
            with archive.open(name) as file:
                root = _Unpickler(file, archive, name.removesuffix('data.pkl')).load()
    except WeightsError as error:
        raise WeightsError(f'{path}: {error}') from None
    except Exception as error:  # a damaged pickle can raise anything
        raise WeightsError(f'{path} is a damaged TorchScript archive; save it again') from error
    state: OrderedDict[str, torch.Tensor] = OrderedDict()
    _collect(root, '', state, 0)
    if not state:
        raise WeightsError(
            f'{path} is a TorchScript program without tensors of its own (frozen); give the weights it was made of'
        )
    return state


class _Module:
    """Stands for a module of the archive: its attributes by their names."""

    def __setstate__(self, attributes: Any) -> None:
        self.attributes = attributes if isinstance(attributes, dict) else {}


class _Unpickler(pickle.Unpickler):
    """Knows modules as :class:`_Module`, tensors, and lists of plain values; refuses all else."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(file)
        self._archive, self._prefix = archive, prefix
        self._storages: dict[str, torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split('.')[0] == '__torch__':
            return type(_Module.__name__, (_Module,), {})
        if module == 'torch' and name in _DTYPES:
            return _DTYPES[name]
        known: dict[str, Callable[..., Any]] = {
            'torch._utils._rebuild_tensor_v2': _tensor,
            'collections.OrderedDict': OrderedDict,
            'torch.jit._pickle.restore_type_tag': lambda value, kind: value,
        }
        known.update({f'torch.jit._pickle.build_{kind}list': list for kind in ('int', 'double', 'bool', 'tensor')})
        if f'{module}.{name}' not in known:
            raise WeightsError(f'it wants to run {module}.{name} when read, which is refused; give a file of tensors')
        return known[f'{module}.{name}']

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """The numbers of a storage, as a flat tensor."""
        _, dtype, key, _, _ = pid
        if key not in self._storages:
            content = self._archive.read(f'{self._prefix}data/{key}')
            self._storages[key] = (
                torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)
            )
        return self._storages[key]


def _tensor(
    storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> torch.Tensor:
    # as_strided refuses what reaches beyond the storage; the copy keeps no other tensor's numbers.
    view = storage.as_strided(size, stride, offset)
    if view.numel() > storage.numel():
        raise WeightsError('a tensor is larger than its numbers; give the original file')
    return view.clone()


def _collect(module: Any, prefix: str, state: dict[str, torch.Tensor], depth: int) -> None:
    if depth > _DEEPEST:
        raise WeightsError('modules are nested too deeply; give the original file')
    for name, value in getattr(module, 'attributes', {}).items():
        if isinstance(value, torch.Tensor):
            state[f'{prefix}{name}'] = value
        elif isinstance(value, _Module):
            _collect(value, f'{prefix}{name}.', state, depth + 1)
