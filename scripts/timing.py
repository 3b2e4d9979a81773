"""What the benchmark scripts share: both sides of a ratio, timed in turn, and peaks of memory."""

import re
import time
from pathlib import Path

import torch


def describe(device):
    """What a figure was measured with."""
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else f'{torch.get_num_threads()} threads'
    return f'torch {torch.__version__}, {device} ({name})'


def fastest(sides, times, device):
    """The shortest time in seconds of each function, all called in turn."""
    best = [float('inf')] * len(sides)
    for run in range(times + 1):
        for index, side in enumerate(sides):
            _finish(device)
            started = time.perf_counter()
            side()
            _finish(device)
            if run:  # the first one fills caches
                best[index] = min(best[index], time.perf_counter() - started)
    return best


def _finish(device):
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def peak_mib(function):
    """Memory in MiB by which a call raises this process's peak, on Linux."""
    Path('/proc/self/clear_refs').write_text('5')  # resets the peak
    before = _peak_kib()
    function()
    return (_peak_kib() - before) / 2**10


def _peak_kib():
    return int(re.search(r'VmHWM:\s*(\d+)', Path('/proc/self/status').read_text())[1])
