"""The arguments of one call of an attack, for the batch or for one of its samples."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from rsr_basicsr.attacks.problem import Generators


class Call(NamedTuple):
    """Arguments of :meth:`rsr_basicsr.attacks.Attack.perturb`, where they are explained."""

    model: nn.Module
    lq: torch.Tensor
    target: torch.Tensor | None = None
    eps: torch.Tensor | None = None
    generator: Generators | None = None
    start: torch.Tensor | None = None
    first_gradient: torch.Tensor | None = None

    def samples(self) -> Iterator[Call]:
        """The same call for each sample on its own."""
        images = self.lq.split(1)
        names = ('target', 'eps', 'start', 'first_gradient')
        given = (getattr(self, name) for name in names)
        parts = ([None] * len(images) if x is None else x.split(1) for x in given)
        for image, *others in zip(images, *parts):
            yield self._replace(lq=image, **dict(zip(names, others)))

    @contextlib.contextmanager
    def seeded(self, seed: int) -> Iterator[Call]:
        """The same call of one sample, whose random numbers depend on ``seed`` and the image alone.

        Within the block, torch's own generator is seeded too, for the network's random masks.
        """
        of_image = zlib.crc32((self.lq * 255).round().to('cpu', torch.uint8).numpy().tobytes(), seed)
        with torch.random.fork_rng(devices=[self.lq.device] if self.lq.is_cuda else []):
            torch.manual_seed(of_image)
            yield self._replace(generator=torch.Generator().manual_seed(of_image))
