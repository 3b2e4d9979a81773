"""Cached constant tensors, and a mode without them, for exports that hold for any image size."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch

_any_size = False  # not a context variable: compilers must understand it
_used: list[torch.Tensor] | None = None  # no context variable either: gradients are computed in threads of their own

TensorFunction = Callable[..., torch.Tensor]


@contextlib.contextmanager
def for_any_size() -> Iterator[None]:
    """Within the block, a pass uses no constants that depend on a size and does not branch on sizes.

    Everything is computed from the sizes by tensor operations, and random numbers come from ``torch.rand``, so that a
    graph recorded from the pass holds for images of any size. Slower; the result is the same up to rounding and the
    random numbers drawn. To be used outside of autocast.
    """
    global _any_size
    previous, _any_size = _any_size, True
    try:
        yield
    finally:
        _any_size = previous


def any_size() -> bool:
    """Whether :func:`for_any_size` is active."""
    return _any_size


@contextlib.contextmanager
def constants_kept() -> Iterator[list[torch.Tensor]]:
    """Within the block, the constants that are asked for are added to the list it yields.

    For whoever reads them later by address, and so has to keep them, as a cache does not.
    """
    global _used
    previous, _used = _used, []
    try:
        yield _used
    finally:
        _used = previous


def constant_tensor(maxsize: int, always: bool = False) -> Callable[[TensorFunction], TensorFunction]:
    """Decorator: caches the tensors that a function returns, and marks them as constants for compilers.

    Callers must not write to the cached tensors. The arguments of the function must be hashable.

    Args:
        maxsize: number of tensors kept.
        always: cache within :func:`for_any_size`, too.
    """

    def decorate(function: TensorFunction) -> TensorFunction:
        @functools.lru_cache(maxsize)
        def cached(*args: Any) -> torch.Tensor:
            # Inference mode and the fake tensors of an export are per thread. A new thread makes an ordinary tensor;
            # any other in the cache would break later users.
            with ThreadPoolExecutor(max_workers=1) as thread:
                return thread.submit(function, *args).result()

        @torch.compiler.assume_constant_result
        @functools.wraps(function)
        def constant(*args: Any) -> torch.Tensor:
            found = function(*args) if _any_size and not always else cached(*args)
            if _used is not None:
                _used.append(found)
            return found

        return cast(TensorFunction, constant)

    return decorate
