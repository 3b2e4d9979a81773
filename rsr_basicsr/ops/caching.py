"""Tensors that are made once and used again, and the way without them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_any_size = False  # no context variable: compilers have to understand it


@contextlib.contextmanager
def for_any_size():
    """Within the block, outside of autocast, a pass uses no constant of a size, and branches on none.

    All is computed from the sizes by operations of the pass itself, and what is drawn is drawn by ``torch.rand``: so
    that a graph that is recorded of it holds for images of any size. It takes longer; but for rounding, and for the
    random numbers, the result is the same.
    """
    global _any_size
    previous, _any_size = _any_size, True
    try:
        yield
    finally:
        _any_size = previous


def any_size() -> bool:
    """Whether we are within :func:`for_any_size`."""
    return _any_size


def constant_tensor(maxsize: int, always: bool = False) -> Callable:
    """Decorator: caches the tensors that a function makes, and tells compilers that they are constants.


    The cached tensors must not be written to. The arguments of the function must be hashable.

    Args:
        maxsize: how many tensors are kept.
        always: do so within :func:`for_any_size`, too.
    """

    def decorate(function):
        @functools.lru_cache(maxsize)
        def cached(*args):
            # Inference mode and the fake tensors of an export belong to a thread. A new one makes an ordinary tensor;
            # a cache that held one of the others would break what uses it next.
            with ThreadPoolExecutor(max_workers=1) as thread:
                return thread.submit(function, *args).result()

        @torch.compiler.assume_constant_result
        @functools.wraps(function)
        def constant(*args):
            return function(*args) if _any_size and not always else cached(*args)

        return constant

    return decorate
