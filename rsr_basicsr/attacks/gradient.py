"""Attacks that follow the gradient: FGSM, I-FGSM, PGD, MI-FGSM, APGD, and PGD within a band of the spectrum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from rsr_basicsr.attacks.base import GradientAttack
from rsr_basicsr.attacks.checks import expect, expect_one_of
from rsr_basicsr.attacks.constraints import Band
from rsr_basicsr.attacks.problem import worse

SCHEDULES = ('linear', 'constant')
_START, _START_OF_CONSTANT = 0.25, 0.05  # of the radius


class Scheduled(GradientAttack):
    """A gradient attack whose step falls to zero on the way, or stays as it is.

    Args:
        schedule: ``linear``: step i of T, counted from 0, is ``1 - i / T`` of the first one, which is ``step_size``, by
            default 2 eps. ``constant``: each is ``step_size``, by default 2.5 eps / steps. None is ``constant`` where
            ``step_size`` is given, else ``linear``.
    """

    def __init__(self, *, schedule: str | None = None, **common):
        super().__init__(**common)
        expect_one_of('schedule', schedule, (*SCHEDULES, None))
        self.schedule = schedule

    @property
    def falls(self) -> bool:
        """Whether the step falls to zero."""
        return self.schedule == 'linear' or self.schedule is None and self.step_size is None

    def share(self, taken: int) -> float:
        """Length of a step after ``taken`` others, as a share of the first one's."""
        return 1 - taken / self.steps if self.falls else 1.0

    def own_start(self, radius):
        return (_START if self.falls else _START_OF_CONSTANT) * radius

    def own_step(self, radius):
        return 2 * radius if self.falls else 2.5 * radius / self.steps

    def step(self, gradient, problem, state):
        state['taken'] = state.get('taken', -1) + 1
        return self.share(state['taken']) * super().step(gradient, problem, state)


class IFGSM(GradientAttack):
    """Iterative fast gradient sign method (Kurakin et al. 2017), as in Yue et al. 2021.

    The step is ``eps / steps``. There is no random start, unless the objective has no gradient at the clean image:
    then it is within half a step.
    """

    def own_step(self, radius):
        return radius / self.steps

    def own_start(self, radius):
        return self.step_length(radius) / 2 if self.objective.needs_random_start else 0.0


class FGSM(IFGSM):
    """Fast gradient sign method (Goodfellow et al. 2015): one step to the border of the ball."""

    fixed = ('steps', 'step_size', 'keep_best')

    def __init__(self, **common):
        super().__init__(steps=1, **common)

    def own_step(self, radius):
        return radius + self.start_radius(radius)  # so that the random start does not keep it from the border

    def own_start(self, radius):
        return radius / 10 if self.objective.needs_random_start else 0.0


class MIFGSM(IFGSM):
    """I-FGSM with momentum (Dong et al. 2018): steps along a running sum of gradients of unit L1 norm.

    Args:
        decay: of the sum, from one step to the next.
    """

    def __init__(self, *, decay: float = 1.0, **common):
        super().__init__(**common)
        self.decay = expect('decay', decay, 0)

    def step(self, gradient, problem, state):
        state['sum'] = self.decay * state.get('sum', 0) + to_unit(gradient)
        return super().step(state['sum'], problem, state)


class PGD(Scheduled):
    """Projected gradient descent (Madry et al. 2018) with a random start, and a step that falls from 2 eps to zero.

    Large steps cross the ball at first, small ones climb at the end; with the usual constant step of 2.5 eps / steps
    (``schedule='constant'``) it is weaker on every network measured. docs/attacks.md compares the schedules.

    The start is within a quarter of the ball. Which one is best differs between networks, a twentieth or all of it; a
    quarter is near the best on each. With a constant step, for which less is better, it is within a twentieth.
    """


class BandLimited(PGD):
    """PGD with a perturbation of a band of the spectrum only.

    A perturbation below 0.43 of the diagonal passes the frequency mask on the image untouched. It is kept to the
    band, the ball and [0, 1] by alternating projection; less than 1e-4 of its energy lies outside the band, before
    ``quantize``. Rounding is white noise of a third of a level: some of it always lies outside.

    Args:
        band: [low, high], distance from the DC corner as a share of the diagonal ``sqrt(H^2 + W^2)`` of the DCT.
    """

    def __init__(self, *, band: Sequence[float] = (0.0, 0.43), **common):
        super().__init__(**common)
        if self.region is not None or self.zero_mean is not None:
            raise ValueError(
                'BandLimited takes neither region nor zero_mean: a perturbation of a band reaches over '
                'the whole image; a band that begins above 0 leaves out the mean of each channel'
            )
        if not isinstance(band, (list, tuple)) or len(band) != 2:
            raise ValueError(f'expected band as [low, high], got {band!r}')
        low, high = (expect('band', end, 0, 1) for end in band)
        self.band, self.constraint = (low, high), Band(self.constraint, low, high)


class APGD(Scheduled):
    """Auto-PGD (Croce and Hein 2020): PGD that halves its step where it stops to gain, and goes on from its best.

    The step begins at twice eps, the start is that of PGD, and the best image met is always kept. Between halvings
    the step falls as that of PGD does; ``schedule='constant'`` is the published rule: halvings alone shorten it.

    Args:
        momentum: weight of the new step against the last one.
        rho: share of the steps since the last look that must have gained for the step to stay.
    """

    fixed = ('step_size', 'keep_best')

    def __init__(self, *, steps: int = 50, momentum: float = 0.75, rho: float = 0.75, **common):
        super().__init__(steps=steps, keep_best=True, **common)
        self.momentum, self.rho = expect('momentum', momentum, 0, 1), expect('rho', rho, 0, 1)

    def run(self, problem):
        looks = self.looks(self.steps)
        x = previous = self.start(problem)
        gradient, loss = problem.uphill(x)
        length = 2 * (problem.radius + torch.zeros_like(x[:, :1, :1, :1]))
        best = (loss, x, gradient)
        gains, halved, best_at_look, last_look = torch.zeros_like(loss), torch.zeros_like(loss).bool(), loss, 0
        for step in range(1, self.steps + 1):
            ahead = problem.project(x + self.share(step - 1) * length * problem.constraint.steepest(gradient))
            weight = 1.0 if step == 1 else self.momentum
            moved = problem.project(x + weight * (ahead - x) + (1 - weight) * (x - previous))
            previous, x, before = x, moved, loss
            gradient, loss = problem.uphill(x) if step < self.steps else (gradient, problem.loss(x))
            best = worse(best, (loss, x, gradient))
            gains = gains + (loss > before)
            if step in looks:
                stuck = gains < self.rho * (step - last_look)
                idle = ~halved & (best[0] <= best_at_look)
                halved = stuck | idle
                at = halved.view(-1, 1, 1, 1)
                length = torch.where(at, length / 2, length)
                loss = torch.where(halved, best[0], loss)
                x, gradient = torch.where(at, best[1], x), torch.where(at, best[2], gradient)
                gains, best_at_look, last_look = torch.zeros_like(gains), best[0], step
        return best[:2]

    @staticmethod
    def looks(steps: int) -> set:
        """The steps after which the length of a step is reconsidered: ever closer, as in the paper."""
        found, share, gap = set(), 0.22, 0.22
        while share <= 1:
            found.add(math.ceil(round(share * steps, 6)))  # 57.00000000000001 is 57
            gap = max(gap - 0.03, 0.06)
            share += gap
        return found


def to_unit(gradient: torch.Tensor) -> torch.Tensor:
    """Gradients scaled to an L1 norm of 1 each, (B, C, H, W); a gradient of zero stays so."""
    return gradient / gradient.abs().sum(dim=(1, 2, 3), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
