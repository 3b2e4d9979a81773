"""Shared by the benchmark scripts: interleaved timing of several functions, and peak memory."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch


def describe(device: torch.device) -> str:
    """The torch version and the device behind a figure."""
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else f'{torch.get_num_threads()} threads'
    return f'torch {torch.__version__}, {device} ({name})'


def fastest(
    sides: Sequence[Callable[[], Any]],
    times: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """The shortest time of each function in seconds; they are called in turn, ``times`` times each."""
    best = [float('inf')] * len(sides)
    for run in range(times + 1):
        for index, side in enumerate(sides):
            finish(device)
            started = clock()
            side()
            finish(device)
            if run:  # the first run is a warm-up
                best[index] = min(best[index], clock() - started)
    return best


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def peak_mib(function: Callable[[], Any]) -> float:
    """Peak memory of a call in MiB, beyond what this process holds before it (Linux only)."""
    Path('/proc/self/clear_refs').write_text('5')  # resets the peak
    before = _peak_kib()
    function()
    return (_peak_kib() - before) / 2**10


def _peak_kib() -> int:
    found = re.search(r'VmHWM:\s*(\d+)', Path('/proc/self/status').read_text())
    assert found, 'Linux states VmHWM'
    return int(found[1])
