"""The template of gradient attacks: an objective, a step, a projection."""

from __future__ import annotations

import contextlib
from typing import Callable, Optional, Tuple, Union

import torch
from torch import nn

from rsr_basicsr.attacks.objectives import Objective, build_objective

Eps = Union[float, torch.Tensor]
QUANTIZE = ('nearest', 'floor', 'none')


class GradientAttack:
    """An attack that follows the gradient of the damage with respect to the picture.

    The loop is here; subclasses fill in ``start``, ``step`` and ``project``. Attacks work on any module that maps
    pictures to pictures; they take the gradient of the input only, so that parameters keep theirs, and they leave
    train and eval mode alone. Each sample is attacked on its own: its result does not depend on its batch.

    Args:
        eps: radius of the ball around the picture, in 1/255.
        steps: number of gradient steps.
        step_size: length of a step in 1/255; None takes the attack's own rule.
        objective: ``ground_truth``, ``ground_truth_l1``, ``stability``, or an :class:`Objective`.
        random_start: radius of the uniform random start in 1/255; None takes the attack's own rule.
        restarts: number of independent starts; the best result of each sample is kept.
        keep_best: return the most damaging picture met, at the price of one more pass; False returns the last one.
        quantize: ``nearest`` rounds the result to 8 bit, still inside the ball, as a stored picture would be;
            ``floor`` rounds it down, as the published code does, which makes it 0.4 of a level darker; ``none``
            leaves it as it is.
        clamp: keep the pictures inside [0, 1]; False keeps them inside the ball only, as the published code does in
            training, and needs ``quantize`` to be ``none``.
    """

    def __init__(self, *, eps: float = 8, steps: int = 10, step_size: Optional[float] = None,
                 objective: Union[str, Objective] = 'stability', random_start: Optional[float] = None,
                 restarts: int = 1, keep_best: bool = False, quantize: str = 'none', clamp: bool = True):
        if not 0 <= eps <= 255:
            raise ValueError(f'expected eps in 1/255 units, 0 to 255, got {eps}')
        if steps < 1 or restarts < 1:
            raise ValueError(f'expected steps >= 1 and restarts >= 1, got {steps} and {restarts}')
        if step_size is not None and step_size <= 0 or random_start is not None and random_start < 0:
            raise ValueError(f'expected step_size > 0 and random_start >= 0, got {step_size} and {random_start}')
        if quantize not in QUANTIZE:
            raise ValueError(f'quantize must be one of {", ".join(QUANTIZE)}, got {quantize!r}')
        if quantize != 'none' and not clamp:
            raise ValueError(f'quantize: {quantize} needs clamp: an 8-bit picture has no values outside [0, 1]')
        self.eps, self.steps, self.step_size = eps, steps, step_size
        self.objective = build_objective(objective)
        if random_start == 0 and self.objective.needs_random_start:
            raise ValueError(f'{self.objective} has no gradient at the clean picture; it needs random_start > 0')
        self.random_start = random_start
        self.restarts, self.quantize, self.clamp = restarts, quantize, clamp
        self.keep_best = keep_best or restarts > 1

    def __call__(self, model: nn.Module, lq: torch.Tensor, target: Optional[torch.Tensor] = None, *,
                 eps: Optional[torch.Tensor] = None, generator: Optional[torch.Generator] = None) -> torch.Tensor:
        """Attack pictures.

        Args:
            model: maps (B, 3, H, W) to (B, 3, sH, sW), value range [0, 1].
            lq: the pictures, (B, 3, H, W) in [0, 1].
            target: what the objective compares with, (B, 3, sH, sW): the ground truth, or for ``stability`` the
                clean output if it is not the model's own.
            eps: a radius a sample, (B,), in 1/255, instead of the attack's one.
            generator: makes the random starts repeatable.

        Returns:
            The attacked pictures, detached, (B, 3, H, W), inside the ball and, but for ``clamp=False``, [0, 1].
        """
        lq = lq.detach()
        radius = (lq.new_tensor(self.eps) if eps is None else eps.to(lq)).reshape(-1, 1, 1, 1) / 255
        with torch.enable_grad(), frozen(model):
            reference = self.objective.reference(model, lq, target).detach()
            worst = None
            for _ in range(self.restarts):
                worst = worse(worst, self._run(model, lq, reference, radius, generator))
        attacked = worst[-1]
        if self.quantize == 'none':
            return attacked
        return to_8_bit(attacked, lq, radius, torch.round if self.quantize == 'nearest' else torch.floor)

    def _run(self, model, lq, reference, radius, generator):
        attacked = self.start(lq, radius, generator)
        best = None
        for _ in range(self.steps):
            gradient, damage = input_gradient(model, attacked, self.objective, reference)
            if self.keep_best:
                best = worse(best, (damage, attacked))
            attacked = self.project(self.step(attacked, gradient, radius), lq, radius)
        if not self.keep_best:
            return damage, attacked
        with torch.no_grad():
            damage = self.objective(model(attacked), reference)
        return worse(best, (damage, attacked))

    def start(self, lq, radius, generator):
        """Where the loop begins: uniform in the ball of radius ``random_start`` around the picture."""
        size = self.start_radius(radius)
        if isinstance(size, float) and size == 0:
            return lq
        noise = torch.rand(lq.shape, generator=generator, device=generator.device if generator else lq.device)
        return self.project(lq + (2 * noise.to(lq) - 1) * size, lq, radius)

    def start_radius(self, radius):
        """Radius of the random start in [0, 1] units, a number or one a sample (B, 1, 1, 1)."""
        raise NotImplementedError

    def step(self, attacked, gradient, radius):
        """Move along the gradient."""
        raise NotImplementedError

    def project(self, attacked, lq, radius):
        """The nearest picture inside the ball and, with ``clamp``, [0, 1]."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return (f'{type(self).__name__}(eps={self.eps}, steps={self.steps}, step_size={self.step_size}, '
                f'objective={self.objective}, random_start={self.random_start}, restarts={self.restarts})')


def input_gradient(model, x: torch.Tensor, objective: Objective,
                   reference: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """Gradient of the damage with respect to ``x``, and the damage of each sample, (B,)."""
    x = x.detach().requires_grad_()
    damage = objective(model(x), reference)
    gradient, = torch.autograd.grad(damage.sum(), x)
    return gradient, damage.detach()


@contextlib.contextmanager
def frozen(model):
    """Within the block no parameter asks for a gradient: autograd then keeps less for the way back."""
    trainable = [p for p in model.parameters() if p.requires_grad] if isinstance(model, nn.Module) else []
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def to_8_bit(attacked: torch.Tensor, lq: torch.Tensor, radius: torch.Tensor,
             rounding: Callable[[torch.Tensor], torch.Tensor] = torch.round) -> torch.Tensor:
    """Round to 8 bit without leaving the ball of ``radius``, in [0, 1] units, around ``lq``."""
    # The tolerance keeps 12.0000004 / 255 a level of the ball that ends at 12.
    low = ((lq - radius) * 255 - 1e-3).ceil()
    high = ((lq + radius) * 255 + 1e-3).floor()
    rounded = torch.minimum(torch.maximum(rounding(attacked * 255), low), high).clamp(0, 255) / 255
    # A ball of less than a level around a value between two levels holds no 8-bit value at all.
    return torch.where(low > high, lq, rounded)


def worse(best: Optional[Tuple[torch.Tensor, ...]], candidate: Tuple[torch.Tensor, ...]) -> Tuple[torch.Tensor, ...]:
    """Sample by sample the more damaging of two results: the damage, (B,), and whatever belongs to it, (B, ...)."""
    if best is None:
        return candidate
    better = candidate[0] > best[0]
    return tuple(torch.where(better.view(-1, *[1] * (new.dim() - 1)), new, old) for new, old in zip(candidate, best))
