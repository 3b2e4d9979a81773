"""Tensors that are made once and used again."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

import torch


def constant_tensor(maxsize: int) -> Callable:
    """Decorator: caches the tensors that a function makes, and tells compilers that they are constants.

    The cached tensors must not be written to. The arguments of the function must be hashable.

    Args:
        maxsize: how many tensors are kept.
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
            return cached(*args)

        return constant

    return decorate
