"""Attacks that ask for no gradient: Square sees the outputs of the network, random noise nothing."""

from __future__ import annotations

import torch

from rsr_basicsr.attacks.base import Attack
from rsr_basicsr.attacks.checks import expect
from rsr_basicsr.attacks.problem import worse
from rsr_basicsr.attacks.restrictions import extent


class Square(Attack):
    """Square attack (Andriushchenko et al. 2020): random search by the outputs alone.

    It starts from vertical stripes on the border of the L-inf ball; each query sets a square of one sign a channel,
    at a random place, and keeps it where the loss grew. The squares shrink on the way.

    Args:
        queries: passes of the network.
        area: share of the image, or of its region, that the first squares take.
    """

    uses = 'queries'
    norms = ('Linf',)
    # Where the area is halved, of the 10,000 queries of the paper.
    halvings = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)

    def __init__(self, *, queries: int = 1000, area: float = 0.3, **common):
        super().__init__(**common)
        self.queries, self.area = expect('queries', queries, 2, whole=True), expect('area', area, 0, 1, above=True)

    def run(self, problem):
        channels, _, width = problem.lq.shape[1:]
        rows, columns = extent(problem.constraint, problem.lq)
        attacked = problem.project(problem.lq + problem.radius * problem.signs(channels, 1, width))
        best = (problem.loss(attacked), attacked)
        for query in range(1, self.queries):
            side = self.side(query, len(rows), len(columns))
            inside = self._window(problem.rand(1), rows, side, problem.lq).unsqueeze(2) & self._window(
                problem.rand(1), columns, side, problem.lq, -1
            ).unsqueeze(1)
            moved = problem.project(problem.lq + problem.radius * problem.signs(channels, 1, 1))
            candidate = torch.where(inside.unsqueeze(1), moved, best[1])
            if self.zero_mean is not None:  # of two images of mean zero, the parts are not
                candidate = problem.project(candidate)
            best = worse(best, (problem.loss(candidate), candidate))
        return best

    def side(self, query: int, height: int, width: int) -> int:
        """Side of the square of one query, in pixels."""
        done = query / self.queries * 10000
        area = self.area / 2 ** sum(done > halving for halving in self.halvings)
        return min(max(round((area * height * width) ** 0.5), 1), height, width)

    @staticmethod
    def _window(place: torch.Tensor, within: range, side: int, x: torch.Tensor, axis: int = -2) -> torch.Tensor:
        """Where on an axis of ``x`` the square lies, bool (B, size of the axis), for a place in [0, 1), (B, 1)."""
        begin = within.start + (place * (len(within) - side + 1)).floor()
        indices = torch.arange(x.shape[axis], device=x.device)
        return (indices >= begin) & (indices < begin + side)


class RandomNoise(Attack):
    """The control: noise of the size that the attacks have, on the border of the ball, blind to the network.

    L-inf: a random sign of eps for each value. L2: uniform noise scaled to the radius. ``restarts`` keeps the worst
    of so many.
    """

    uses = 'nothing'

    @property
    def asks_for_loss(self):
        return self.restarts > 1

    def run(self, problem):
        noise = (
            problem.signs(*problem.lq.shape[1:]) if self.norm == 'Linf' else problem.rand(*problem.lq.shape[1:]) * 2 - 1
        )
        attacked = problem.project(problem.lq + problem.constraint.random(noise, problem.radius))
        loss = problem.loss(attacked) if self.asks_for_loss else problem.lq.new_zeros(len(attacked))
        return loss, attacked
