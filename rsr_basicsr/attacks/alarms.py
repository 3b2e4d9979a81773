"""Signs that a network hides its gradients instead of being robust (Athalye et al. 2018, Carlini et al. 2019)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from rsr_basicsr.attacks.base import MEASURED, Attack, GradientAttack
from rsr_basicsr.attacks.problem import Problem


@dataclass(frozen=True)
class Measurement:
    """What one attack did to a set of images.

    Args:
        attack: the attack.
        loss: mean loss of the images, by the attack's objective, to the network as it is deployed.
        zero_gradient: share of the input's values whose gradient is exactly zero, both where the attack starts and
            where it ends; None for attacks that ask for no gradient. Behind a codec the start alone proves nothing:
            as long as the output is that of the clean image, its distance from there has no gradient.
        name: what sentences call the attack; None calls it by its arguments.
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
    """Attack images, and measure what :func:`masking_alarms` wants to know; arguments as in the attack's call."""
    attacked = attack(model, lq, target, generator=generator)
    radius = attack.radius(lq)
    judge = Attack(**{name: getattr(attack, name) for name in ('eps', *MEASURED)})
    with Problem.of(judge, model, lq, target, radius) as problem:
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
        if problem.reference is None:  # of an attack that is finished before it is made
            problem.refer_to(target)
        zeros = [problem.gradient(x)[0] == 0 for x in (attack.start(problem), attacked.to(problem.lq))]
    return min(zero.float().mean().item() for zero in zeros)


def masking_alarms(measurements: Iterable[Measurement], *, tolerance: float = 0.02, zeros: float = 0.5) -> list[str]:
    """What a set of results says against the gradients that the white-box attacks among them used.

    Args:
        measurements: of one network on one set of images; attacks with several eps, several numbers of steps, and
            without gradients (transfer, Square, noise) among them. Only what is there can be compared.
        tolerance: relative difference of loss that is put down to chance.
        zeros: share of exactly zero gradients that is put down to saturated values, and to filters such as the median,
            which hand two fifths of the pixels no gradient.

    Returns:
        One sentence for each sign; none for a network without any.
    """
    measurements = list(measurements)
    return [
        *_without_gradient(measurements, zeros),
        *_weaker_than_blind(measurements, tolerance),
        *_without_growth_by_steps(measurements, tolerance),
        *_without_growth_by_eps(measurements, tolerance),
    ]


def _without_gradient(measurements, zeros):
    for m in measurements:
        if m.zero_gradient is not None and m.zero_gradient > zeros:
            yield f'{m}: {m.zero_gradient:.0%} of the gradient is exactly zero'


def _weaker_than_blind(measurements, tolerance):
    """Attacks that see less must not do more."""
    for group in _grouped(measurements, _comparable):
        white, blind = ([m for m in group if (m.attack.uses == 'gradients') is sees] for sees in (True, False))
        if not white or not blind:
            continue
        best = max(white, key=lambda m: m.loss)
        for m in blind:
            if _exceeds(m, best, tolerance):
                yield (
                    f'{m} asks for no gradient and does {_by(m, best)} more loss than the best attack that does, {best}'
                )


def _without_growth_by_steps(measurements, tolerance):
    """More steps must not do less, nor the same where another attack shows that there is more to be done."""
    worst = {key: max(group, key=lambda m: m.loss) for key, group in _keyed(measurements, _comparable).items()}
    for less, more in _neighbours(measurements, 'steps'):
        converged = not _exceeds(worst[_comparable(more)], more, tolerance)
        if _exceeds(less, more, tolerance) or not _exceeds(more, less, 1e-3) and not converged:
            yield _no_more(less, more, 'steps')


def _without_growth_by_eps(measurements, tolerance):
    for less, more in _neighbours(measurements, 'eps'):
        if not _exceeds(more, less, tolerance):
            yield _no_more(less, more, 'eps')


def _no_more(less, more, name):
    return (
        f'{more} does not do more loss with {name} {getattr(more.attack, name)} than with {getattr(less.attack, name)}'
    )


def _neighbours(measurements, name):
    """Pairs of measurements of the same attack with less and with more of something."""
    able = [
        m
        for m in measurements
        if hasattr(m.attack, name) and name in m.attack.parameters() and m.attack.uses != 'nothing'
    ]  # noise and the samples of others do what they do
    for group in _grouped(able, lambda m: repr(m.attack.but(**{name: 1}))):
        group.sort(key=lambda m: getattr(m.attack, name))
        for less, more in zip(group, group[1:]):
            if getattr(less.attack, name) < getattr(more.attack, name) and not _same_ball(less.attack, more.attack):
                yield less, more


def _same_ball(less, more):
    """Whether two radii are the same to images of 8 bit."""
    return less.eps != more.eps and more.quantize != 'none' and int(less.eps) == int(more.eps)


def _comparable(m):
    return m.attack.eps, m.attack.norm, str(m.attack.objective)


def _keyed(measurements, key):
    groups = defaultdict(list)
    for measurement in measurements:
        groups[key(measurement)].append(measurement)
    return groups


def _grouped(measurements, key):
    return _keyed(measurements, key).values()


def _exceeds(more, less, tolerance):
    return more.loss > less.loss + tolerance * abs(less.loss)


def _by(more, less):
    return f'{more.loss / less.loss - 1:.0%}' if less.loss > 0 else f'{more.loss - less.loss:.3g}'
