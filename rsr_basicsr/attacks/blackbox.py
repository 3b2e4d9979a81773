"""Attacks without gradients: Square uses the outputs of the network, random noise nothing."""

from __future__ import annotations

from typing import Any

import torch

from rsr_basicsr.attacks.base import Attack
from rsr_basicsr.attacks.checks import expect, expect_one_of
from rsr_basicsr.attacks.problem import Problem, worse
from rsr_basicsr.attacks.registry import ATTACKS
from rsr_basicsr.attacks.restrictions import extent


@ATTACKS.register()
class Square(Attack):
    """Square attack (Andriushchenko et al. 2020): random search by the outputs alone.

    It starts from vertical stripes on the border of the L-inf ball. Each query sets a square at a random place to one
    sign per channel, and keeps it if the loss grew. The squares shrink over time.

    Args:
        queries: passes of the network.
        area: share of the image, or of its region, that the first squares take.
    """

    uses = 'queries'
    norms = ('Linf',)
    # The queries after which the area is halved, out of the paper's 10,000.
    halvings = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)

    def __init__(self, *, queries: int = 1000, area: float = 0.3, **common: Any) -> None:
        super().__init__(**common)
        self.queries, self.area = expect('queries', queries, 2, whole=True), expect('area', area, 0, 1, above=True)

    def run(self, problem: Problem) -> tuple[torch.Tensor, ...]:
        channels, _, width = problem.lq.shape[1:]
        rows, columns = extent(problem.constraint, problem.lq)
        attacked = problem.project(problem.lq + problem.radius * problem.signs(channels, 1, width))
        best: tuple[torch.Tensor, ...] = (problem.loss(attacked), attacked)
        for query in range(1, self.queries):
            side = self.side(query, len(rows), len(columns))
            inside = self._window(problem.rand(1), rows, side, problem.lq).unsqueeze(2) & self._window(
                problem.rand(1), columns, side, problem.lq, -1
            ).unsqueeze(1)
            moved = problem.project(problem.lq + problem.radius * problem.signs(channels, 1, 1))
            candidate = torch.where(inside.unsqueeze(1), moved, best[1])
            if self.zero_mean is not None:  # parts of two perturbations of mean zero need not have it
                candidate = problem.project(candidate)
            best = worse(best, (problem.loss(candidate), candidate))
        return best

    def side(self, query: int, height: int, width: int) -> int:
        """Side of a query's square, in pixels."""
        done = query / self.queries * 10000
        area = self.area / 2 ** sum(done > halving for halving in self.halvings)
        return min(max(round((area * height * width) ** 0.5), 1), height, width)

    @staticmethod
    def _window(place: torch.Tensor, within: range, side: int, x: torch.Tensor, axis: int = -2) -> torch.Tensor:
        """Where the square lies on an axis of ``x``, bool (B, length of the axis), for a place in [0, 1), (B, 1)."""
        begin = within.start + (place * (len(within) - side + 1)).floor()
        indices = torch.arange(x.shape[axis], device=x.device)
        return (indices >= begin) & (indices < begin + side)


NOISES = ('sign', 'uniform', 'gaussian')


@ATTACKS.register()
class RandomNoise(Attack):
    """The control: noise independent of the network. With ``restarts``, the worst of as many.

    Args:
        distribution: of each value. ``sign``: eps with a random sign; ``uniform``: up to eps; ``gaussian``: normal with
            standard deviation eps, which no L-inf ball holds, so it needs ``norm='L2'``. With L2, the noise is scaled
            to have eps as its root mean square. None is ``sign`` for L-inf, and ``uniform`` for L2.

    Raises:
        ValueError: ``gaussian`` with another norm.
    """

    uses = 'nothing'

    def __init__(self, *, distribution: str | None = None, **common: Any) -> None:
        super().__init__(**common)
        expect_one_of('distribution', distribution, (*NOISES, None))
        if distribution == 'gaussian' and self.norm != 'L2':
            raise ValueError(f'distribution: gaussian is not bounded by norm: {self.norm}; write norm: L2')
        self.distribution = distribution

    @property
    def asks_for_loss(self) -> bool:
        return self.restarts > 1

    def run(self, problem: Problem) -> tuple[torch.Tensor, ...]:
        noise = self._noise(problem, problem.lq.shape[1:])
        attacked = problem.project(problem.lq + problem.constraint.random(noise, problem.radius))
        loss = problem.loss(attacked) if self.asks_for_loss else problem.lq.new_zeros(len(attacked))
        return loss, attacked

    def _noise(self, problem: Problem, shape: torch.Size) -> torch.Tensor:
        """Noise of unit size, (B, *shape)."""
        kind = self.distribution or ('sign' if self.norm == 'Linf' else 'uniform')
        if kind == 'sign':
            return problem.signs(*shape)
        if kind == 'uniform':
            return problem.rand(*shape) * 2 - 1
        # The normal distribution's quantile of uniform numbers, which do not include 0 and 1.
        return torch.special.ndtri(problem.rand(*shape).double().clamp(2**-25, 1 - 2**-25)).to(problem.lq.dtype)
