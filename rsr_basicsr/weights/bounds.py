"""What a file may cost: a network that a stranger's file describes is built within the size of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
