"""Attacks that follow the gradient: FGSM, I-FGSM, PGD, MI-FGSM, APGD, and PGD within a band of the spectrum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from rsr_basicsr.attacks.checks import expect
from rsr_basicsr.attacks.constraints import Band
from rsr_basicsr.attacks.gradient_base import GradientAttack, Scheduled
from rsr_basicsr.attacks.problem import Problem, worse
from rsr_basicsr.attacks.registry import ATTACKS


@ATTACKS.register()
class IFGSM(GradientAttack):
    """Iterative fast gradient sign method (Kurakin et al. 2017), as in Yue et al. 2021.

    The step is ``eps / steps``. There is a random start, within half a step, only if the objective has no gradient at
    the clean image.
    """

    def own_step(self, radius: Any) -> Any:
        return radius / self.steps

    def own_start(self, radius: Any) -> Any:
        return self.step_length(radius) / 2 if self.objective.needs_random_start else 0.0


@ATTACKS.register()
class FGSM(IFGSM):
    """Fast gradient sign method (Goodfellow et al. 2015): one step to the border of the ball."""

    fixed = ('steps', 'step_size', 'keep_best')

    def __init__(self, **common: Any) -> None:
        super().__init__(steps=1, **common)

    def own_step(self, radius: Any) -> Any:
        return radius + self.start_radius(radius)  # reaches the border from any random start

    def own_start(self, radius: Any) -> Any:
        return radius / 10 if self.objective.needs_random_start else 0.0


@ATTACKS.register()
class MIFGSM(IFGSM):
    """I-FGSM with momentum (Dong et al. 2018): steps along a running sum of gradients of unit L1 norm.

    Args:
        decay: factor of the sum at each step.
    """

    def __init__(self, *, decay: float = 1.0, **common: Any) -> None:
        super().__init__(**common)
        self.decay = expect('decay', decay, 0)

    def step(self, gradient: torch.Tensor, problem: Problem, state: dict[str, Any]) -> torch.Tensor:
        state['sum'] = self.decay * state.get('sum', 0) + to_unit(gradient)
        return super().step(state['sum'], problem, state)


@ATTACKS.register()
class PGD(Scheduled):
    """Projected gradient descent (Madry et al. 2018) with a random start, and a step that falls from 2 eps to zero.

    Large steps explore the ball at first, small ones refine at the end. The usual constant step of 2.5 eps / steps
    (``schedule='constant'``) is weaker on every network measured; docs/attacks.md compares the schedules.

    The start is within a quarter of the radius, which is near the best on every network measured; with a constant
    step, for which smaller starts are better, within a twentieth.

    Examples:
        >>> import torch
        >>> from rsr_basicsr.attacks import PGD
        >>> net = torch.nn.Conv2d(3, 3, kernel_size=3, padding=1)
        >>> lq = torch.rand(1, 3, 16, 16)
        >>> attacked = PGD(eps=4, steps=5)(net, lq)
        >>> (attacked - lq).abs().max() <= 4.01 / 255
        tensor(True)
    """


@ATTACKS.register()
class APGD(Scheduled):
    """Auto-PGD (Croce and Hein 2020): PGD that halves its step when it stops gaining, and continues from its best.

    The step begins at 2 eps, the start is that of PGD, and the best image found is always kept. The step also falls
    as that of PGD does; with ``schedule='constant'``, the published rule, only halvings shorten it.

    Args:
        momentum: weight of the new step against the last one.
        rho: share of the steps since the last review that must have raised the loss for the step to stay.
    """

    fixed = ('step_size', 'keep_best')

    def __init__(self, *, steps: int = 50, momentum: float = 0.75, rho: float = 0.75, **common: Any) -> None:
        super().__init__(steps=steps, keep_best=True, **common)
        self.momentum, self.rho = expect('momentum', momentum, 0, 1), expect('rho', rho, 0, 1)

    def run(self, problem: Problem) -> tuple[torch.Tensor, ...]:
        reviews = self.reviews(self.steps)
        x = previous = self.start(problem)
        gradient, loss = problem.uphill(x)
        length = 2 * (problem.radius + torch.zeros_like(x[:, :1, :1, :1]))
        best: tuple[torch.Tensor, ...] = (loss, x, gradient)
        gains, halved = torch.zeros_like(loss), torch.zeros_like(loss).bool()
        best_before, last = loss, 0  # at the last review
        for step in range(1, self.steps + 1):
            ahead = problem.project(x + self.share(step - 1) * length * problem.constraint.steepest(gradient))
            weight = 1.0 if step == 1 else self.momentum
            moved = problem.project(x + weight * (ahead - x) + (1 - weight) * (x - previous))
            previous, x, before = x, moved, loss
            gradient, loss = problem.uphill(x) if step < self.steps else (gradient, problem.loss(x))
            best = worse(best, (loss, x, gradient))
            gains = gains + (loss > before)
            if step in reviews:
                stuck = gains < self.rho * (step - last)
                idle = ~halved & (best[0] <= best_before)
                halved = stuck | idle
                at = halved.view(-1, 1, 1, 1)
                length = torch.where(at, length / 2, length)
                loss = torch.where(halved, best[0], loss)
                x, gradient = torch.where(at, best[1], x), torch.where(at, best[2], gradient)
                gains, best_before, last = torch.zeros_like(gains), best[0], step
        return best[:2]

    @staticmethod
    def reviews(steps: int) -> set[int]:
        """The steps after which the step length is reviewed, at shrinking intervals, as in the paper."""
        found: set[int] = set()
        share = gap = 0.22
        while share <= 1:
            found.add(math.ceil(round(share * steps, 6)))  # 57.00000000000001 is 57
            gap = max(gap - 0.03, 0.06)
            share += gap
        return found


@ATTACKS.register()
class BandLimited(PGD):
    """PGD with a perturbation restricted to a band of the spectrum.

    A perturbation below 0.43 of the diagonal passes the frequency mask on the image unchanged. Alternating projection
    keeps it to the band, the ball and [0, 1]. Before ``quantize``, less than 1e-4 of its energy lies outside the band;
    rounding adds white noise of a third of a level, some of it outside.

    Args:
        band: [low, high], distance from the DC corner as a share of the diagonal ``sqrt(H^2 + W^2)`` of the DCT.
    """

    def __init__(self, *, band: Sequence[float] = (0.0, 0.43), **common: Any) -> None:
        super().__init__(**common)
        if self.region is not None or self.zero_mean is not None:
            raise ValueError(
                'BandLimited takes neither region nor zero_mean: a perturbation of a band spreads over '
                'the whole image; a band that begins above 0 leaves out the mean of each channel'
            )
        if not isinstance(band, (list, tuple)) or len(band) != 2:
            raise ValueError(f'expected band as [low, high], got {band!r}')
        low, high = (expect('band', bound, 0, 1) for bound in band)
        self.band, self.constraint = (low, high), Band(self.constraint, low, high)


def to_unit(gradient: torch.Tensor) -> torch.Tensor:
    """Scale each gradient of (B, C, H, W) to an L1 norm of 1; a zero gradient stays zero."""
    return gradient / gradient.abs().sum(dim=(1, 2, 3), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
