"""Logged values of a training: means over all steps since they were last printed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import distributed as dist


class RunningMeans:
    """Means over samples, kept on the device until they are read, so that no step waits for the device.

    Args:
        names: names of the values, fixed so that processes can be summed.
        device: of the training. Sums of processes are taken there, since NCCL takes no tensors on the CPU.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.names, self.device = tuple(names), device
        self._start()

    def _start(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}  # total and count
        self._times: dict[str, list[Callable[[], float]]] = {}

    def add(self, name: str, values: torch.Tensor, mine: torch.Tensor | None = None) -> None:
        """Add values.

        Args:
            name: one of the names.
            values: of any shape.
            mine: (B,) bool, which of the values, then (B,), count; None for all.
        """
        values = values.detach().float().reshape(-1)
        count = torch.full_like(values[:1], values.numel())[0] if mine is None else mine.sum().to(values)
        total = (values if mine is None else values.where(mine, 0)).sum()
        self._sums[name] = self._sums.get(name, 0) + torch.stack([total, count])

    def add_times(self, **stopwatches: Callable[[], float]) -> None:
        """Add times, in seconds, by functions that are called when the means are read."""
        for name, read in stopwatches.items():
            self._times.setdefault(name, []).append(read)

    def take(self, distributed: bool = False) -> dict[str, float]:
        """Return the means and reset. Names without values are left out.

        To be called by every process, at a point where the host has waited for the device anyway.

        Args:
            distributed: take the means over all processes; they are valid on rank 0 only.
        """
        pairs = torch.stack([self._pair(name).to(self.device) for name in self.names])
        if distributed:
            dist.reduce(pairs, dst=0)
        self._start()
        return {name: total / count for name, (total, count) in zip(self.names, pairs.tolist()) if count}

    def _pair(self, name: str) -> torch.Tensor:
        if name in self._times:
            times = [read() for read in self._times[name]]
            return torch.tensor([sum(times), len(times)])
        return self._sums.get(name, torch.zeros(2))


class Stopwatch:
    """Measures the time from its creation to :meth:`stopped` on the device, without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == 'cuda'
        self.start = self._now()

    def stopped(self) -> Callable[[], float]:
        """Stop; returns a function that reads the seconds, to be called after the host has waited for the device."""
        end = self._now()
        return lambda: self.start.elapsed_time(end) / 1000 if self.on_gpu else end - self.start

    def _now(self) -> Any:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
