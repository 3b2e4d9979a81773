"""Signs that a network hides its gradients instead of being robust (Athalye et al. 2018, Carlini et al. 2019)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from rsr_basicsr.attacks.base import MEASURED, Attack
from rsr_basicsr.attacks.gradient_base import GradientAttack
from rsr_basicsr.attacks.problem import Problem


@dataclass(frozen=True)
class Measurement:
    """What one attack did to a set of images.

    Args:
        attack: the attack.
        loss: mean loss of the attacked images, by the attack's objective, on the network as deployed.
        zero_gradient: share of the input's values whose gradient is exactly zero, at the start or at the end of the
            attack, whichever is smaller; None for attacks that use no gradient. The start alone proves nothing: behind
            a codec, the output there can equal the clean one, and their distance then has no gradient.
        name: name of the attack in messages; None is its ``repr``.
    """

    attack: Attack
    loss: float
    zero_gradient: float | None = None
    name: str | None = None

    def __str__(self) -> str:
        return self.name or str(self.attack)


def measure(
    attack: Attack,
    model: nn.Module,
    lq: torch.Tensor,
    target: torch.Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Measurement:
    """Attack images, and measure what :func:`masking_alarms` needs; arguments as in the attack's call."""
    attacked = attack(model, lq, target, generator=generator)
    radius = attack.radius(lq)
    evaluation = Attack(**{name: getattr(attack, name) for name in ('eps', *MEASURED)})
    with Problem.of(evaluation, model, lq, target, radius) as problem:
        loss = problem.loss(attacked).mean().item()
    return Measurement(attack, loss, zero_gradient(attack, model, lq, target, attacked, generator=generator))


def zero_gradient(
    attack: Attack,
    model: nn.Module,
    lq: torch.Tensor,
    target: torch.Tensor | None,
    attacked: torch.Tensor,
    *,
    generator: torch.Generator | None = None,
) -> float | None:
    """The share of the input's values whose gradient is exactly zero, see :class:`Measurement`."""
    if not isinstance(attack, GradientAttack):
        return None
    with Problem.of(attack, model, lq, target, attack.radius(lq), generator) as problem:
        if problem.reference is None:  # the attack has its perturbation already, and computes no loss
            problem.refer_to(target)
        zeros = [problem.gradient(x)[0] == 0 for x in (attack.start(problem), attacked.to(problem.lq))]
    return min(zero.float().mean().item() for zero in zeros)


def masking_alarms(measurements: Iterable[Measurement], *, tolerance: float = 0.02, zeros: float = 0.5) -> list[str]:
    """Signs of masked gradients in a set of measurements.

    Args:
        measurements: of one network on one set of images: attacks with several eps and several numbers of steps, and
            attacks without gradients (transfer, Square, noise). Checks that lack a measurement are left out.
        tolerance: relative difference of losses that counts as chance.
        zeros: share of exactly zero gradients that is normal: saturated values have none, and filters such as the
            median give none to two fifths of the pixels.

    Returns:
        One sentence per sign; empty if there is none.
    """
    measurements = list(measurements)
    return [
        *_without_gradient(measurements, zeros),
        *_weaker_than_blind(measurements, tolerance),
        *_without_growth_by_steps(measurements, tolerance),
        *_without_growth_by_eps(measurements, tolerance),
    ]


def _without_gradient(measurements: Sequence[Measurement], zeros: float) -> Iterator[str]:
    for m in measurements:
        if m.zero_gradient is not None and m.zero_gradient > zeros:
            yield f'{m}: {m.zero_gradient:.0%} of the gradient is exactly zero'


def _weaker_than_blind(measurements: Sequence[Measurement], tolerance: float) -> Iterator[str]:
    """Attacks that see less must not be stronger."""
    for group in _grouped(measurements, _comparable):
        white, blind = ([m for m in group if (m.attack.uses == 'gradients') is sees] for sees in (True, False))
        if not white or not blind:
            continue
        best = max(white, key=lambda m: m.loss)
        for m in blind:
            if _exceeds(m, best, tolerance):
                yield (
                    f'{m} uses no gradient, yet its loss is {_excess(m, best)} above that of the best attack that '
                    f'does, {best}'
                )


def _without_growth_by_steps(measurements: Sequence[Measurement], tolerance: float) -> Iterator[str]:
    """More steps must raise the loss, unless no comparable attack reaches more."""
    worst = {key: max(group, key=lambda m: m.loss) for key, group in _keyed(measurements, _comparable).items()}
    for less, more in _neighbours(measurements, 'steps'):
        converged = not _exceeds(worst[_comparable(more)], more, tolerance)
        if _exceeds(less, more, tolerance) or (not _exceeds(more, less, 1e-3) and not converged):
            yield _no_growth(less, more, 'steps')


def _without_growth_by_eps(measurements: Sequence[Measurement], tolerance: float) -> Iterator[str]:
    for less, more in _neighbours(measurements, 'eps'):
        if not _exceeds(more, less, tolerance):
            yield _no_growth(less, more, 'eps')


def _no_growth(less: Measurement, more: Measurement, name: str) -> str:
    return f'{more}: the loss does not grow from {name} {getattr(less.attack, name)} to {getattr(more.attack, name)}'


def _neighbours(measurements: Sequence[Measurement], name: str) -> Iterator[tuple[Measurement, Measurement]]:
    """Pairs of measurements of the same attack with a smaller and a larger value of one argument."""
    able = [
        m
        for m in measurements
        if hasattr(m.attack, name) and name in m.attack.parameters() and m.attack.uses != 'nothing'
    ]  # noise, and samples of other networks, need not grow
    for group in _grouped(able, lambda m: repr(m.attack.but(**{name: 1}))):
        group.sort(key=lambda m: getattr(m.attack, name))
        for less, more in zip(group, group[1:]):
            if getattr(less.attack, name) < getattr(more.attack, name) and not _same_ball(less.attack, more.attack):
                yield less, more


def _same_ball(less: Attack, more: Attack) -> bool:
    """Whether two radii allow the same 8-bit images."""
    return less.eps != more.eps and more.quantize != 'none' and int(less.eps) == int(more.eps)


def _comparable(m: Measurement) -> tuple[float, str, str]:
    return m.attack.eps, m.attack.norm, str(m.attack.objective)


def _keyed(
    measurements: Sequence[Measurement], key: Callable[[Measurement], Hashable]
) -> dict[Hashable, list[Measurement]]:
    groups = defaultdict(list)
    for measurement in measurements:
        groups[key(measurement)].append(measurement)
    return groups


def _grouped(
    measurements: Sequence[Measurement], key: Callable[[Measurement], Hashable]
) -> Iterable[list[Measurement]]:
    return _keyed(measurements, key).values()


def _exceeds(more: Measurement, less: Measurement, tolerance: float) -> bool:
    return more.loss > less.loss + tolerance * abs(less.loss)


def _excess(more: Measurement, less: Measurement) -> str:
    return f'{more.loss / less.loss - 1:.0%}' if less.loss > 0 else f'{more.loss - less.loss:.3g}'
