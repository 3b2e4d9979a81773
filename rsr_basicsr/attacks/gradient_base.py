"""The loop of attacks that follow the gradient, and the schedule of their step."""

from __future__ import annotations

from typing import Any

import torch

from rsr_basicsr.attacks.base import Attack
from rsr_basicsr.attacks.checks import expect, expect_bool, expect_one_of
from rsr_basicsr.attacks.problem import Problem, worse

SCHEDULES = ('linear', 'constant')
_START, _START_OF_CONSTANT = 0.25, 0.05  # of the radius

Length = float | torch.Tensor


class GradientAttack(Attack):
    """An attack that follows the gradient of the loss with respect to the image, in a fixed number of steps.

    Subclasses define the length of a step, the start, and the direction.

    Args:
        steps: number of gradient steps.
        step_size: length of a step in 1/255; None takes the attack's own rule.
        random_start: radius of the random start in 1/255; None takes the attack's own rule.
        start_coarseness: side in pixels of the blocks over which the random start is constant, so that it is correlated
            in space, as in Castillo et al. 2021, who take 1.5; 1 gives each pixel its own value.
        keep_best: return the strongest image found, at the price of one more pass; False returns the last one.
            Restarts always keep the best.
    """

    takes_start = True

    def __init__(
        self,
        *,
        steps: int = 10,
        step_size: float | None = None,
        random_start: float | None = None,
        start_coarseness: float = 1,
        keep_best: bool = False,
        **common: Any,
    ) -> None:
        self.keep_best = expect_bool('keep_best', keep_best)
        super().__init__(**common)
        self.steps: int = expect('steps', steps, 1, whole=True)
        self.random_start: float | None = expect('random_start', random_start, 0, 255, optional=True)
        self.start_coarseness: float = expect('start_coarseness', start_coarseness, 1)
        self.step_size: float | None = expect('step_size', step_size, 0, above=True, optional=True)
        if random_start == 0 and self.objective.needs_random_start:
            raise ValueError(f'{self.objective} has no gradient at the clean image; it needs random_start > 0')
        self.keep_best = keep_best or self.restarts > 1

    @property
    def compares_samples(self) -> bool:
        return self.keep_best or self.restarts > 1

    def run(self, problem: Problem) -> tuple[torch.Tensor, ...]:
        attacked = self.start(problem)
        best: tuple[torch.Tensor, ...] | None = None
        state: dict[str, Any] = {}
        for _ in range(self.steps):
            gradient, loss = problem.uphill(attacked)
            if self.keep_best:
                best = worse(best, (loss, attacked))
            attacked = problem.project(attacked + self.step(gradient, problem, state))
        if not self.keep_best:
            return loss, attacked
        return worse(best, (problem.loss(attacked), attacked))

    def start(self, problem: Problem) -> torch.Tensor:
        """Where a run begins: at the caller's perturbation in the first run, else by the attack's own rule."""
        if problem.start is not None:
            start, problem.start = problem.start, None
            return problem.project(problem.lq + start.to(problem.lq))
        return problem.near(self.start_radius(problem.radius), self.start_coarseness)

    def step(self, gradient: torch.Tensor, problem: Problem, state: dict[str, Any]) -> torch.Tensor:
        """What is added to the images, (B, C, H, W); the attack may keep values in ``state`` during one run."""
        return self.step_length(problem.radius) * problem.constraint.steepest(gradient)

    def step_length(self, radius: torch.Tensor) -> Length:
        """Length of a step in [0, 1] units: a number, or per sample (B, 1, 1, 1)."""
        return self.own_step(radius) if self.step_size is None else self.step_size / 255

    def start_radius(self, radius: torch.Tensor) -> Length:
        """Radius of the random start in [0, 1] units: a number, or per sample (B, 1, 1, 1)."""
        return self.own_start(radius) if self.random_start is None else self.random_start / 255

    def own_step(self, radius: Any) -> Any:
        """The attack's own rule for :meth:`step_length`, of the type of ``radius``."""
        raise NotImplementedError

    def own_start(self, radius: Any) -> Any:
        """The attack's own rule for :meth:`start_radius`, of the type of ``radius`` or 0.0."""
        raise NotImplementedError


class Scheduled(GradientAttack):
    """A gradient attack whose step falls to zero, or is constant.

    Args:
        schedule: ``linear``: step i of T, counted from 0, is ``1 - i / T`` of the first one, which is ``step_size``, by
            default 2 eps. ``constant``: each is ``step_size``, by default 2.5 eps / steps. None is ``constant`` if
            ``step_size`` is given, else ``linear``.
    """

    def __init__(self, *, schedule: str | None = None, **common: Any) -> None:
        super().__init__(**common)
        expect_one_of('schedule', schedule, (*SCHEDULES, None))
        self.schedule = schedule

    @property
    def falls(self) -> bool:
        """Whether the step falls to zero."""
        return self.schedule == 'linear' or (self.schedule is None and self.step_size is None)

    def share(self, taken: int) -> float:
        """Length of the step after ``taken`` steps, as a share of the first one's."""
        return 1 - taken / self.steps if self.falls else 1.0

    def own_start(self, radius: Any) -> Any:
        return (_START if self.falls else _START_OF_CONSTANT) * radius

    def own_step(self, radius: Any) -> Any:
        return 2 * radius if self.falls else 2.5 * radius / self.steps

    def step(self, gradient: torch.Tensor, problem: Problem, state: dict[str, Any]) -> torch.Tensor:
        state['taken'] = state.get('taken', -1) + 1
        return self.share(state['taken']) * super().step(gradient, problem, state)
