"""One perturbation for all pictures."""

from __future__ import annotations

from typing import Iterable, List, Optional

import torch
from torch import nn
from torch.nn import functional as F

from rsr_basicsr.attacks.base import GradientAttack, check_pictures, expect_at_least
from rsr_basicsr.attacks.problem import Generators, Problem, gate_set, untouched


class Universal(GradientAttack):
    """One perturbation for all pictures (Moosavi-Dezfooli et al. 2017), found by projected sign steps.

    :meth:`fit` finds it on a set of pictures. Without it each call finds one for its own batch: the only attack
    whose results depend on the batch. Larger pictures are tiled with it, smaller ones take its upper left part.

    Args:
        size: height and width of the perturbation in pixels.
        steps: passes over the pictures, each a step along the sign of the gradient of all; ``step_size`` as in PGD.
        perturbation: one that was found before, (1, C, size, size), as a share of eps.
    """

    fixed = ('restarts', 'keep_best', 'seed')
    norms = ('Linf',)

    def __init__(self, *, size: int = 64, steps: int = 20, perturbation: Optional[torch.Tensor] = None, **common):
        super().__init__(steps=steps, **common)
        expect_at_least(1, size=size)
        self.size, self.perturbation = size, perturbation

    def fit(self, model: nn.Module, batches: Iterable[torch.Tensor],
            targets: Optional[Iterable[torch.Tensor]] = None, *, generator: Generators = None) -> Universal:
        """Find the perturbation for a set of pictures.

        Args:
            model: as in the call of an attack.
            batches: pictures, (B, C, H, W) each; batches may differ in size.
            targets: theirs, where the objective needs them.
            generator: makes the random start repeatable.

        Returns:
            The attack itself; ``perturbation`` holds what was found.
        """
        batches = list(batches)
        targets = [None] * len(batches) if targets is None else list(targets)
        if not batches or len(batches) != len(targets):
            raise ValueError(f'expected as many batches of targets as of pictures, got {len(targets)} for '
                             f'{len(batches)}')
        with untouched(model), torch.enable_grad():
            problems = []
            for lq, target in zip(batches, targets):
                check_pictures(lq, target)
                problems.append(Problem(self, model, lq.detach(), lq.new_tensor(self.eps / 255), generator))
                problems[-1].refer_to(target)
            with gate_set(model, self.gate):
                self.perturbation = self._find(problems)
        return self

    @property
    def asks_for_damage(self):
        return self.perturbation is None

    def search(self, problem):
        found = self._find([problem]) if self.perturbation is None else self.perturbation
        return problem.quantized(self._applied(found, problem)),

    def _find(self, problems: List[Problem]):
        first, eps = problems[0].lq, max(self.eps, 1e-6)
        start = 1.0 if self.random_start is None else min(self.random_start / eps, 1.0)
        share = 2.5 / self.steps if self.step_size is None else self.step_size / eps
        found = (2 * problems[0].rand(first.shape[1], self.size, self.size)[:1] - 1) * start
        for _ in range(self.steps):
            uphill = 0
            for problem in problems:
                gradient, _ = problem.uphill(self._applied(found, problem))
                uphill = uphill + self._gathered(gradient)
            found = (found + share * problems[0].constraint.steepest(uphill)).clamp(-1, 1)
        return found

    def _applied(self, perturbation, problem):
        return problem.project(problem.lq + problem.radius * self._spread(perturbation.to(problem.lq), problem.lq))

    def _spread(self, perturbation, lq):
        (height, width), size = lq.shape[-2:], self.size
        return perturbation.repeat(1, 1, -(-height // size), -(-width // size))[..., :height, :width]

    def _gathered(self, gradient):
        """What a gradient with respect to the pictures is with respect to the perturbation: the sum over its tiles."""
        (height, width), size = gradient.shape[-2:], self.size
        total = F.pad(gradient.sum(0, keepdim=True), (0, -width % size, 0, -height % size))
        return total.unflatten(-1, (-1, size)).unflatten(-3, (-1, size)).sum(dim=(-4, -2))
