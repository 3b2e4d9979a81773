"""Attacks made of other attacks: the samples of another network, and the worst of several per image."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from rsr_basicsr.attacks.base import MEASURED, Attack
from rsr_basicsr.attacks.call import Call
from rsr_basicsr.attacks.gradient import PGD
from rsr_basicsr.attacks.problem import Problem, worse
from rsr_basicsr.attacks.registry import ATTACKS, build_attack
from rsr_basicsr.utils.hints import nearest
from rsr_basicsr.weights.spandrel_network import as_network

LoadNetwork = Callable[[Mapping[str, Any]], nn.Module]
AttackBlock = Mapping[str, Any] | Attack


@ATTACKS.register()
class Transfer(Attack):
    """Adversarial samples of another network.

    Args:
        source: the network that is attacked instead of the one under attack, in evaluation mode. It has the same scale
            if the objective needs a target.
        attack: the attack on the source; None is PGD with the arguments given.
    """

    uses = 'nothing'

    def __init__(self, *, source: nn.Module, attack: Attack | None = None, **common: Any) -> None:
        source = as_network(source)
        if not isinstance(source, nn.Module):
            raise ValueError(f'Transfer needs source, a network, got {source!r}')
        if attack is not None and common:
            raise ValueError(f'Transfer: {", ".join(common)} belong to the attack that is given')
        self.source, self.attack = source, PGD(**common) if attack is None else attack
        if not self.attack.objective.per_sample:
            raise ValueError(f'Transfer: {self.attack.objective} is that of the network in training, not of the source')
        # The attributes that callers read from any attack.
        self.eps, self.norm, self.seed = self.attack.eps, self.attack.norm, self.attack.seed
        for name in MEASURED:
            setattr(self, name, getattr(self.attack, name))

    @classmethod
    def parameters(cls) -> dict[str, inspect.Parameter]:
        own = super().parameters()
        return {'source': own['source'], 'attack': own['attack'], **PGD.parameters()}

    @classmethod
    def from_options(cls, options: Mapping[str, Any], load_network: LoadNetwork | None = None) -> Attack:
        """``source``: a network, or a block for ``load_network``; ``attack``: a block; the rest is for the attack."""
        shared = dict(options)
        source, attack = shared.pop('source', None), shared.pop('attack', None)
        if isinstance(source, Mapping) and load_network is not None:
            source = load_network(source)
        attack = {} if attack is None else attack
        _refuse_unknown(cls, shared, [attack])
        return cls(source=source, attack=_inner(attack, shared, load_network))

    def results_of(self, call: Call) -> tuple[torch.Tensor, ...]:
        """Attack the source instead of the model. A target that is the model's own output is not passed on."""
        target = call.target if self.objective.needs_target else None
        modes = {module: module.training for module in self.source.modules()}
        self.source.eval()
        try:
            return self.attack.results_of(call._replace(model=self.source, target=target))[:1]
        finally:
            for module, training in modes.items():
                module.training = training

    def but(self, **changes: Any) -> Attack:
        source, attack = changes.pop('source', self.source), changes.pop('attack', self.attack)
        concerned = {
            name: value
            for name, value in changes.items()
            if _concerns(attack, name) or (name == 'seed' and name in attack.parameters())
        }
        return Transfer(source=source, attack=attack.but(**concerned))

    def __repr__(self) -> str:
        return f'Transfer(source={type(self.source).__name__}, attack={self.attack})'


@ATTACKS.register()
class WorstOf(Attack):
    """Runs several attacks and keeps, per image, the result with the highest loss.

    The loss is that of the network with its own decisions, regardless of the ``gate`` of the attacks.

    Args:
        attacks: the attacks; each keeps its own settings.
        seed: seeds the network's and the attacks' random numbers, except in attacks with a seed of their own.
        measured: ``objective``, ``eot_samples``, ``tile``, ``memory``, ``overlap`` and ``precision`` of the loss; by
            default those of the first attack.

    Raises:
        ValueError: there is no attack, or the target would mean different things to them.
    """

    fixed = ('eps', 'norm', 'restarts', 'quantize', 'clamp', 'region', 'zero_mean', 'gate')

    def __init__(self, *, attacks: Sequence[Attack], seed: int | None = None, **measured: Any) -> None:
        if not attacks:
            raise ValueError('worst_of needs at least one attack')
        settings = {name: getattr(attacks[0], name) for name in MEASURED}
        if 'tile' in measured or 'memory' in measured:
            settings.update(tile=None, memory=None)  # the one excludes the other
        super().__init__(
            eps=max(attack.eps for attack in attacks), norm=attacks[0].norm, seed=seed, **{**settings, **measured}
        )
        self.attacks = tuple(attacks)
        objectives = [self.objective, *(attack.objective for attack in attacks)]
        if len({(objective.needs_target, objective.needs_ground_truth) for objective in objectives}) > 1:
            raise ValueError(
                'worst_of: the target would mean different things to ' + ' and '.join(sorted(set(map(str, objectives))))
            )
        self.uses = min((attack.uses for attack in attacks), key=('gradients', 'queries', 'nothing').index)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], load_network: LoadNetwork | None = None) -> Attack:
        """``attacks``: a list of blocks, each completed by those other arguments that its attack takes."""
        own = {key: value for key, value in options.items() if key in cls.parameters()}
        blocks = own.pop('attacks', None) or ()
        shared = {key: value for key, value in options.items() if key not in ('attacks', 'seed')}
        _refuse_unknown(cls, [key for key in shared if key not in own], blocks)
        return cls(attacks=[_inner(block, shared, load_network) for block in blocks], **own)

    def _results(self, call: Call) -> tuple[torch.Tensor, ...]:
        worst: tuple[torch.Tensor, ...] | None = None
        inner = call._replace(start=None, first_gradient=None)
        radius = self.radius(call.lq, call.eps)
        with Problem.of(self, call.model, call.lq, call.target, radius, call.generator) as problem:
            for index, attack in enumerate(self.attacks):
                attacked = attack.results_of(inner if attack.seed is None else inner._replace(generator=None))[0]
                loss = problem.loss(attacked.to(problem.lq))
                worst = worse(worst, (loss, attacked, torch.full_like(loss, index, dtype=torch.long)))
            loss, attacked, which = cast(tuple[torch.Tensor, ...], worst)
            return problem.finished(attacked), loss, which

    def but(self, **changes: Any) -> Attack:
        own = {
            **{name: getattr(self, name) for name in (*MEASURED, 'seed')},
            **{name: value for name, value in changes.items() if name in self.parameters()},
        }
        attacks = own.pop('attacks', self.attacks)
        inner = [
            attack.but(**{name: value for name, value in changes.items() if _concerns(attack, name)})
            for attack in attacks
        ]
        return WorstOf(attacks=inner, **own)

    def __repr__(self) -> str:
        return f'worst_of([{", ".join(map(repr, self.attacks))}])'


def worst_of(attacks: Sequence[Attack], **options: Any) -> WorstOf:
    """Build an attack that tries all of ``attacks`` and keeps the worst per image; see :class:`WorstOf`."""
    return WorstOf(attacks=list(attacks), **options)


def _concerns(attack: Attack, name: str) -> bool:
    """Whether a change to all attacks of a composition applies to this one."""
    if name in ('attacks', 'seed') or (name == 'gate' and attack.uses == 'nothing'):
        return False  # the gate is that of the network under attack, not of the source of a transfer
    return isinstance(attack, WorstOf) or name in attack.parameters()


def _accepted(block: Any) -> set[str]:
    """The arguments that an attack block takes, including those of the blocks inside."""
    if isinstance(block, Attack):
        return set()
    if not isinstance(block, Mapping):
        raise ValueError(f'expected attack as a block with type and arguments, got {block!r}')
    kind = block.get('type', 'PGD')
    cls = ATTACKS[kind] if isinstance(kind, str) and kind in ATTACKS else None
    if cls is Transfer:
        return _accepted(block.get('attack') or {})
    if cls is WorstOf:
        return set(MEASURED).union(*map(_accepted, block.get('attacks') or ()))
    return set(cls.parameters()) if cls else set()


def _inner(block: AttackBlock, shared: Mapping[str, Any], load_network: LoadNetwork | None) -> Attack:
    """Build the attack of an inner block, completed by those arguments of the outer block that it takes."""
    if isinstance(block, Attack):
        return block
    taken = _accepted(block)
    return build_attack(
        {'type': 'PGD', **{key: value for key, value in shared.items() if key in taken}, **block}, load_network
    )


def _refuse_unknown(cls: type[Attack], names: Iterable[str], blocks: Sequence[AttackBlock]) -> None:
    known = sorted(set[str]().union(*map(_accepted, blocks)))
    for name in names:
        if name not in known and blocks:
            close = nearest(name, known)
            raise ValueError(
                f'{cls.__name__}: no attack inside has {name!r}' + (f'; did you mean {close!r}?' if close else '')
            )
