"""Signs that a network hides its gradients instead of being robust (Athalye et al. 2018, Carlini et al. 2019)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Iterable, List, Optional

import torch
from torch import nn

from rsr_basicsr.attacks.base import Attack, GradientAttack, check_pictures
from rsr_basicsr.attacks.problem import Problem, gate_set, untouched


@dataclass(frozen=True)
class Measurement:
    """What one attack did to a set of pictures.

    Args:
        attack: the attack.
        damage: mean damage of the pictures, by the attack's objective, to the network as it is deployed.
        zero_gradient: share of the input's values whose gradient is exactly zero where the attack starts; None for
            attacks that ask for no gradient.
    """

    attack: Attack
    damage: float
    zero_gradient: Optional[float] = None


def measure(attack: Attack, model: nn.Module, lq: torch.Tensor, target: Optional[torch.Tensor] = None, *,
            generator: Optional[torch.Generator] = None) -> Measurement:
    """Attack pictures, and measure what :func:`masking_alarms` wants to know; arguments as in the attack's call."""
    check_pictures(lq, target)
    attacked = attack(model, lq, target, generator=generator)
    judge = Attack(eps=attack.eps, objective=attack.objective, draws=getattr(attack, 'draws', 1),
                   tile=getattr(attack, 'tile', None), memory=getattr(attack, 'memory', None))
    radius = lq.new_tensor(attack.eps / 255).view(1, 1, 1, 1)
    with untouched(model), torch.enable_grad():
        problem = Problem(judge, model, lq, radius)
        problem.refer_to(target)
        damage = problem.damage(attacked).mean().item()
        if not isinstance(attack, GradientAttack):
            return Measurement(attack, damage)
        problem = Problem(attack, model, lq, radius, generator)
        problem.refer_to(target)
        with gate_set(model, attack.gate):
            gradient, _ = problem.gradient(attack.start(problem))
    return Measurement(attack, damage, (gradient == 0).float().mean().item())


def masking_alarms(measurements: Iterable[Measurement], *, tolerance: float = 0.02, zeros: float = 0.1) -> List[str]:
    """What a set of results says against the gradients that the white-box attacks among them used.

    Args:
        measurements: of one network on one set of pictures; attacks with several eps, several numbers of steps, and
            without gradients (transfer, Square, noise) among them. Only what is there can be compared.
        tolerance: relative difference of damage that is put down to chance.
        zeros: share of exactly zero gradients that is put down to saturated values.

    Returns:
        One sentence for each sign; none for a network without any.
    """
    measurements = list(measurements)
    return [*_without_gradient(measurements, zeros), *_weaker_than_blind(measurements, tolerance),
            *_without_growth(measurements, 'steps', tolerance=1e-3), *_without_growth(measurements, 'eps', tolerance)]


def _without_gradient(measurements, zeros):
    for m in measurements:
        if m.zero_gradient is not None and m.zero_gradient > zeros:
            yield f'{m.attack}: {m.zero_gradient:.0%} of the gradient is exactly zero'


def _weaker_than_blind(measurements, tolerance):
    """Attacks that see less must not do more."""
    for group in _grouped(measurements, lambda m: (m.attack.eps, str(m.attack.objective))):
        white, blind = ([m for m in group if (m.attack.uses == 'gradients') is sees] for sees in (True, False))
        if not white or not blind:
            continue
        best = max(white, key=lambda m: m.damage)
        for m in blind:
            if m.damage > best.damage + tolerance * abs(best.damage):
                yield (f'{m.attack} asks for no gradient and does {_by(m, best)} more damage than the best attack '
                       f'that does, {best.attack}')


def _without_growth(measurements, name, tolerance):
    """The same attack with more of something must do more."""
    able = [m for m in measurements if name in getattr(type(m.attack), 'parameters', dict)()]
    for group in _grouped(able, lambda m: repr(m.attack.but(**{name: 1}))):
        group.sort(key=lambda m: getattr(m.attack, name))
        for less, more in zip(group, group[1:]):
            if getattr(less.attack, name) < getattr(more.attack, name) and \
                    more.damage <= less.damage + tolerance * abs(less.damage):
                yield (f'{more.attack} does not do more damage with {name} {getattr(more.attack, name)} than with '
                       f'{getattr(less.attack, name)}')


def _grouped(measurements, key):
    groups = defaultdict(list)
    for measurement in measurements:
        groups[key(measurement)].append(measurement)
    return groups.values()


def _by(more, less):
    return f'{more.damage / less.damage - 1:.0%}' if less.damage > 0 else f'{more.damage - less.damage:.3g}'
