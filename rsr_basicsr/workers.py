"""Loader workers of a training: kept over its epochs, started once, and with random numbers that never come again."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from basicsr.data.prefetch_dataloader import CPUPrefetcher, CUDAPrefetcher

from rsr_basicsr.checkpoints import ResumingSampler


def keeping_workers(build_dataloader: Callable[..., Any]) -> Callable[..., Any]:
    """BasicSR's ``build_dataloader``, for blocks with ``persistent_workers``, and with :func:`seed_worker`.

    Torch refuses ``persistent_workers`` where there is no worker to keep, as in a validation.
    """

    @functools.wraps(build_dataloader)
    def build(dataset: Any, dataset_opt: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        if dataset_opt['phase'] != 'train' or not dataset_opt['num_worker_per_gpu']:
            return build_dataloader(dataset, {**dataset_opt, 'persistent_workers': False}, *args, **kwargs)
        loader = build_dataloader(dataset, dataset_opt, *args, **kwargs)
        resumed = ResumingSampler.resumed
        loader.worker_init_fn = functools.partial(seed_worker, iteration=resumed.state['iter'] if resumed else 0)
        return loader

    return build


def seed_worker(worker: int, iteration: int) -> None:
    """Seed the random streams of a loader worker when it starts.

    BasicSR seeds them alike in every epoch and after every resume, so the same crops and flips come again and again.
    Torch's seed depends on ``manual_seed``, process and worker, and on the epoch unless workers are kept.

    Args:
        worker: its number, which torch's seed depends on already.
        iteration: where the training was resumed; 0 at its start.
    """
    first, second, third = np.random.SeedSequence([torch.initial_seed(), iteration]).generate_state(3).tolist()
    random.seed(first)
    np.random.seed(second)
    torch.manual_seed(third)


class LateCPUPrefetcher(CPUPrefetcher):
    """CPUPrefetcher that starts workers at its first ``reset``, which BasicSR calls before it takes an image.

    BasicSR's starts them when it is made, too. Where workers are kept, two threads of ``prefetch_mode: cpu`` would then
    take images from the same ones.
    """

    def __init__(self, loader: Any) -> None:
        super().__init__(() if loader.num_workers else loader)
        self.ori_loader = loader


class LateCUDAPrefetcher(CUDAPrefetcher):
    """CUDAPrefetcher that starts workers as :class:`LateCPUPrefetcher`, and keeps batches as long as they are used."""

    def __init__(self, loader: Any, opt: dict[str, Any]) -> None:
        super().__init__(() if loader.num_workers else loader, opt)
        self.ori_loader = loader

    def next(self) -> Any:
        """The next batch, whose memory is not reused before the step that works on it is done with it.

        BasicSR's belongs to the stream that copies, which does not know of the step; a step in which nothing waits for
        the device may be far behind the host.
        """
        batch = super().next()
        for value in (batch or {}).values():
            if isinstance(value, torch.Tensor) and value.is_cuda:
                value.record_stream(torch.cuda.current_stream())
        return batch
