"""One perturbation for all images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from rsr_basicsr.attacks.checks import check_images, expect
from rsr_basicsr.attacks.gradient_base import Scheduled
from rsr_basicsr.attacks.problem import Generators, Problem
from rsr_basicsr.attacks.registry import ATTACKS
from rsr_basicsr.attacks.restrictions import allowed


@ATTACKS.register()
class Universal(Scheduled):
    """One perturbation for all images (Moosavi-Dezfooli et al. 2017), found by projected sign steps.

    :meth:`fit` finds it on a set of images. Otherwise each call finds one for its own batch: only this attack's
    results depend on the batch. The perturbation is repeated over larger images; smaller ones take its upper left part.

    Args:
        size: height and width of the perturbation in pixels.
        steps: passes over the images, each a step along the sign of the summed gradient, of PGD's length.
        perturbation: one found before, (1, C, size, size), as a share of eps.
    """

    fixed = ('restarts', 'keep_best', 'seed')
    takes_start = False  # its start is one for all images
    norms = ('Linf',)

    def __init__(
        self, *, size: int = 64, steps: int = 20, perturbation: torch.Tensor | None = None, **common: Any
    ) -> None:
        super().__init__(steps=steps, **common)
        expect('size', size, 1, whole=True)
        if perturbation is not None and (
            perturbation.dim() != 4 or len(perturbation) != 1 or perturbation.shape[2] != perturbation.shape[3]
        ):
            raise ValueError(f'expected perturbation as (1, C, size, size), got {tuple(perturbation.shape)}')
        self.size = size if perturbation is None else perturbation.shape[-1]
        self.perturbation = perturbation

    def fit(
        self,
        model: nn.Module,
        batches: Iterable[torch.Tensor],
        targets: Iterable[torch.Tensor] | None = None,
        *,
        generator: Generators | None = None,
    ) -> Universal:
        """Find the perturbation for a set of images.

        Args:
            model: as in the call of an attack.
            batches: images, (B, C, H, W) each; batches may differ in size.
            targets: one per batch, if the objective needs them.
            generator: makes the random start repeatable.

        Returns:
            The attack itself, with the result as ``perturbation``.

        Raises:
            ValueError: images and targets do not match, or the network's output or gradient is not a number.
        """
        batches = list(batches)
        known: Sequence[torch.Tensor | None] = [None] * len(batches) if targets is None else list(targets)
        if not batches or len(batches) != len(known):
            raise ValueError(f'expected as many batches of targets as of images, got {len(known)} for {len(batches)}')
        self.perturbation = None
        with contextlib.ExitStack() as stack:
            problems = []
            for lq, target in zip(batches, known):
                check_images(lq, target)
                problems.append(
                    stack.enter_context(Problem.of(self, model, lq.detach(), target, self.radius(lq), generator))
                )
            found = self._find(problems)
            if not all(problem.sound.all() for problem in problems):
                raise ValueError(f'the output or the gradient of {type(model).__name__} is not a number')
        self.perturbation = found
        return self

    @property
    def compares_samples(self) -> bool:
        return True  # it sums gradients of several batches

    @property
    def asks_for_loss(self) -> bool:
        return self.perturbation is None

    def search(self, problem: Problem) -> tuple[torch.Tensor, ...]:
        found = self._find([problem]) if self.perturbation is None else self.perturbation
        if found.shape[1] != problem.lq.shape[1]:
            raise ValueError(f'the perturbation has {found.shape[1]} channels, the images {problem.lq.shape[1]}')
        return (problem.finished(self._applied(found, problem)),)

    def start(self, problem: Problem) -> torch.Tensor:
        return self._applied(self._random(problem), problem)

    def _find(self, problems: list[Problem]) -> torch.Tensor:
        first = self.own_step(1.0) if self.step_size is None else self.step_size / max(self.eps, 1e-6)
        found = self._random(problems[0])
        for taken in range(self.steps):
            uphill = torch.zeros_like(found)
            for problem in problems:
                gradient, _ = problem.gradient(self._applied(found, problem))
                uphill = uphill + self._gathered(allowed(problem.constraint, gradient))
            found = (found + self.share(taken) * first * problems[0].off_plateaus(uphill).sign()).clamp(-1, 1)
        return found

    def own_start(self, radius: Any) -> Any:
        return radius

    def _random(self, problem: Problem) -> torch.Tensor:
        start = self.own_start(1.0) if self.random_start is None else min(self.random_start / max(self.eps, 1e-6), 1.0)
        return (2 * problem.rand(problem.lq.shape[1], self.size, self.size)[:1] - 1) * start

    def _applied(self, perturbation: torch.Tensor, problem: Problem) -> torch.Tensor:
        return problem.project(problem.lq + problem.radius * self._spread(perturbation.to(problem.lq), problem.lq))

    def _spread(self, perturbation: torch.Tensor, lq: torch.Tensor) -> torch.Tensor:
        (height, width), size = lq.shape[-2:], self.size
        return perturbation.repeat(1, 1, -(-height // size), -(-width // size))[..., :height, :width]

    def _gathered(self, gradient: torch.Tensor) -> torch.Tensor:
        """Convert a gradient with respect to the images to one of the perturbation: the sum over its repetitions."""
        (height, width), size = gradient.shape[-2:], self.size
        total = F.pad(gradient.sum(0, keepdim=True), (0, -width % size, 0, -height % size))
        return total.unflatten(-1, (-1, size)).unflatten(-3, (-1, size)).sum(dim=(-4, -2))
