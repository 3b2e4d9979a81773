"""What the processes of a launcher agree on, or share out, besides gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import distributed as dist
from torch import nn
from torch.utils.data import Dataset, Subset

Entry = TypeVar('Entry')


def share_of(dataset: Dataset[Any], rank: int, world: int) -> Subset[Any]:
    """The part of a data set that one process works on: every item whose number is ``rank`` modulo ``world``."""
    return Subset(dataset, range(rank, len(dataset), world))  # type: ignore[arg-type]


def gathered(own: list[Entry], world: int) -> list[Entry]:
    """What all processes have made of their shares, in the order of the data set; to be called by every process.

    Args:
        own: an entry for each item of :func:`share_of` this process.
        world: number of processes.
    """
    if world == 1:
        return own
    parts: list[Any] = [None] * world
    dist.all_gather_object(parts, own)
    return [parts[number % world][number // world] for number in range(sum(map(len, parts)))]


@torch.no_grad()
def average_untrained(nets: Iterable[nn.Module], world: int) -> None:
    """Average what networks keep without training it, such as running statistics, over all processes, in place.

    DistributedDataParallel keeps only gradients equal, and each process saw other images.
    """
    if world == 1:
        return
    for net in nets:
        for parameter in net.parameters():
            if not parameter.requires_grad:
                dist.all_reduce(parameter)
                parameter.div_(world)
