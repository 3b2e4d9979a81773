"""Figures of a training that are printed now and then: means over all steps since the last time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import distributed as dist


class RunningMeans:
    """Means over samples, kept on their device until they are asked for, so that no step waits for it.

    Args:
        names: of the figures. Fixed, so that processes can add theirs up.
    """

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self._start()

    def _start(self):
        self._sums: dict[str, torch.Tensor] = {}  # total and count
        self._times: dict[str, list[Callable[[], float]]] = {}

    def add(self, name: str, values: torch.Tensor, mine: torch.Tensor | None = None) -> None:
        """Add values of any shape; ``mine``, (B,) bool, tells which of them count."""
        values = values.detach().float().reshape(-1)
        count = torch.full_like(values[:1], values.numel())[0] if mine is None else mine.sum().to(values)
        total = (values if mine is None else values.where(mine, 0)).sum()
        self._sums[name] = self._sums.get(name, 0) + torch.stack([total, count])

    def add_times(self, **stopwatches: Callable[[], float]) -> None:
        """Add times that are read when they are asked for."""
        for name, read in stopwatches.items():
            self._times.setdefault(name, []).append(read)

    def take(self, distributed: bool = False) -> dict[str, float]:
        """The means, of all processes in the first one, and begin anew. What had no values is left out.

        To be called by every process, when the host has waited for the device anyway.
        """
        pairs = [self._pair(name) for name in self.names]
        device = next((pair.device for pair in pairs if pair.device.type != 'cpu'), pairs[0].device)
        pairs = torch.stack([pair.to(device) for pair in pairs])
        if distributed:
            dist.reduce(pairs, dst=0)
        self._start()
        return {name: total / count for name, (total, count) in zip(self.names, pairs.tolist()) if count}

    def _pair(self, name):
        if name in self._times:
            times = [read() for read in self._times[name]]
            return torch.tensor([sum(times), len(times)])
        return self._sums.get(name, torch.zeros(2))


class Stopwatch:
    """Time between its making and :meth:`stopped`, measured on the device without waiting for it."""

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == 'cuda'
        self.start = self._now()

    def stopped(self) -> Callable[[], float]:
        """Stop, and return what reads the seconds once the host has waited for the device."""
        end = self._now()
        return lambda: self.start.elapsed_time(end) / 1000 if self.on_gpu else end - self.start

    def _now(self):
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
