"""What a file may cost: what a stranger's file claims, and the network it describes, are bounded by its size."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from rsr_basicsr.utils.errors import WeightsError

_Built = TypeVar('_Built')

_BYTES = 64 * 2**20  # that any network may take beyond its tensors: buffers, indices, a detector
_TIMES = 8  # more is taken for intermediate tensors of a constructor, counted together
_CALLS = 200  # of torch per tensor
_TENSORS = 100  # that any network may have beyond those in the file
_NUMBERS = 20  # by which names may count per tensor: layers without tensors are numbered too
_DIGITS, _LONGEST = 9, 100  # of a number in a name, of a name in a sentence
_DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


def built_within(build: Callable[[], _Built], state: Mapping[str, torch.Tensor]) -> _Built:
    """Call a constructor, and stop it where it makes much more than the tensors of a file.

    Building on the device meta would take no memory, but some constructors read values of tensors, such as SwinIR's.

    Args:
        build: builds the network.
        state: the tensors that it has to hold.

    Raises:
        WeightsError: the network is larger than these tensors.
    """
    size = sum(4 * value.numel() for value in state.values())
    with _Bounded(_TIMES * size + _BYTES, _CALLS * (len(state) + _TENSORS)):
        return build()


def check_archive(path: Path) -> None:
    """Check that an archive does not unpack to much more than its size; other files pass.

    Raises:
        WeightsError: it does.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > _TIMES * path.stat().st_size + _BYTES:
        raise WeightsError(
            f'{path} would unpack to {unpacked / 2**20:,.0f} MiB, far more than its size; take another file'
        )


def check_claims(state: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Check that tensors are plain numbers, which the file really holds, and that names count no further than they do.

    Raises:
        WeightsError: one sentence with the tensor and the reason.
    """
    storages: set[int] = set()
    held = claimed = 0  # bytes
    for name, tensor in state.items():
        kind = _unusable(tensor)
        if kind:
            raise WeightsError(f'{path} holds {name} as {kind}; save its tensors as float32, float16 or bfloat16')
        storage = tensor.untyped_storage()
        held += 0 if storage.data_ptr() in storages else storage.nbytes()
        storages.add(storage.data_ptr())
        claimed += tensor.numel() * tensor.element_size()
        if claimed > _TIMES * held + _BYTES:
            raise WeightsError(
                f'{path} claims more numbers than it holds: {name} is {" x ".join(map(str, tensor.shape))}; '
                'take another file'
            )
    counted = _NUMBERS * (len(state) + _TENSORS)
    for name in state:
        for part in name.split('.'):
            if part.isdigit() and (len(part) > _DIGITS or int(part) > counted):
                raise WeightsError(
                    f'{path} holds {len(state)} tensors, but numbers one {name[:_LONGEST]}; take another file'
                )


def _unusable(tensor: torch.Tensor) -> str:
    """What a tensor is instead of plain numbers; empty for those."""
    if tensor.device.type == 'meta':
        return 'a shape without numbers (meta)'
    if tensor.layout != torch.strided:
        return f'a sparse tensor ({str(tensor.layout).removeprefix("torch.")})'
    if tensor.is_quantized:
        return f'quantized numbers ({str(tensor.dtype).removeprefix("torch.")})'
    if tensor.is_complex() or tensor.dtype not in _DTYPES:
        return f'{str(tensor.dtype).removeprefix("torch.")}'
    return ''


class _Bounded(TorchDispatchMode):
    """Counts the calls of torch and the bytes of new tensors, before they are made."""

    def __init__(self, size: int, calls: int) -> None:
        super().__init__()
        self.size, self.calls = size, calls

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # A call that takes a tensor apart, as an iteration over it does, makes one for each of its parts.
        self.calls -= max(args[0].shape, default=1) if _takes_apart(function, args) else 1
        if not (function._schema.is_mutable or function.is_view):
            self.size -= _bytes_of(function, args, kwargs)
        if self.size < 0 or self.calls < 0:
            raise WeightsError('it would be far larger than its tensors')
        return function(*args, **kwargs)


def _takes_apart(function: Any, args: tuple[Any, ...]) -> bool:
    returns = function._schema.returns
    return bool(returns) and isinstance(returns[0].type, torch.ListType) and isinstance(args[0], torch.Tensor)


def _bytes_of(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """The bytes of the tensors that a call would make; 0 where the device meta cannot tell."""
    args, kwargs = tree_map(lambda leaf: leaf.to('meta') if isinstance(leaf, torch.Tensor) else leaf, (args, kwargs))
    if 'device' in kwargs or not any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves((args, kwargs))):
        kwargs['device'] = 'meta'
    try:
        made = function(*args, **kwargs)
    except (NotImplementedError, RuntimeError, TypeError):  # values decide, or the call makes no tensor
        return 0
    return sum(leaf.nbytes for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor))
