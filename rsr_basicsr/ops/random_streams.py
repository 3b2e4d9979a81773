"""States of the random number generators of a process: saved and restored."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """States of all random number generators of this process (Python, NumPy, torch, CUDA if in use)."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state = {
        'python': random.getstate(),
        'numpy': [name, np.asarray(keys).tolist(), position, has_gauss, cached],
        'torch': torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore the states that :func:`random_state` returned."""
    random.setstate(state['python'])
    name, keys, *rest = state['numpy']
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state['torch'])
    if 'cuda' in state and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state['cuda'])


@contextlib.contextmanager
def random_streams_kept() -> Iterator[None]:
    """Restore all random number generators at the end of the block."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)


@contextlib.contextmanager
def random_streams_seeded(seed: int) -> Iterator[None]:
    """Seed the CPU's random number generators within the block, and restore all of them at its end.

    Args:
        seed: from 0 to 2**32 - 1.
    """
    with random_streams_kept():
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed those of GPUs too
        yield
