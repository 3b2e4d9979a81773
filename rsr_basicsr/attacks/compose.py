"""Attacks made of other attacks: the samples of another network, and for each image the worst of several."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from rsr_basicsr.attacks.base import MEASURED, Attack
from rsr_basicsr.attacks.gradient import PGD
from rsr_basicsr.attacks.problem import Problem, worse


class Transfer(Attack):
    """Adversarial samples of another network.

    Args:
        source: the network that is attacked in the place of the one under attack; of the same scale where the
            objective needs a target. It is attacked in evaluation mode.
        attack: how it is attacked; None is PGD with the arguments given.
    """

    uses = 'nothing'

    def __init__(self, *, source: nn.Module, attack: Attack | None = None, **common):
        if not isinstance(source, nn.Module):
            raise ValueError(f'Transfer needs source, a network, got {source!r}')
        if attack is not None and common:
            raise ValueError(f'Transfer: {", ".join(common)} belong to the attack that is given')
        self.source, self.attack = source, PGD(**common) if attack is None else attack
        if not self.attack.objective.per_sample:
            raise ValueError(f'Transfer: {self.attack.objective} is that of the network in training, not of the source')
        # What others ask an attack for.
        self.eps, self.norm, self.seed = self.attack.eps, self.attack.norm, self.attack.seed
        for name in MEASURED:
            setattr(self, name, getattr(self.attack, name))

    @classmethod
    def parameters(cls):
        own = super().parameters()
        return {'source': own['source'], 'attack': own['attack'], **PGD.parameters()}

    @classmethod
    def from_options(cls, options, load_network=None):
        """``source``: a network, or a block for ``load_network``; ``attack``: a block; the rest is for the attack."""
        shared = dict(options)
        source, attack = shared.pop('source', None), shared.pop('attack', None)
        if isinstance(source, Mapping) and load_network is not None:
            source = load_network(source)
        attack = {} if attack is None else attack
        _refuse_unknown(cls, shared, [attack])
        return cls(source=source, attack=_inner(attack, shared, load_network))

    def results(self, model, lq, target=None, *, eps=None, generator=None, start=None):
        """Attack the source, whatever the model. A target that is the model's own output is not handed on."""
        target = target if self.objective.needs_target else None
        modes = {module: module.training for module in self.source.modules()}
        self.source.eval()
        try:
            return self.attack.results(self.source, lq, target, eps=eps, generator=generator, start=start)[:1]
        finally:
            for module, training in modes.items():
                module.training = training

    def but(self, **changes):
        source, attack = changes.pop('source', self.source), changes.pop('attack', self.attack)
        return Transfer(
            source=source,
            attack=attack.but(
                **{
                    name: value
                    for name, value in changes.items()
                    if _concerns(attack, name) or name == 'seed' and name in attack.parameters()
                }
            ),
        )

    def __repr__(self) -> str:
        return f'Transfer(source={type(self.source).__name__}, attack={self.attack})'


class WorstOf(Attack):
    """Runs several attacks and keeps, image by image, the result that harms the deployed network most.

    The loss is that of the network as it decides by itself, whatever ``gate`` the attacks look through.

    Args:
        attacks: what is tried; each keeps its own settings.
        seed: of all that the network and the attacks draw, but for attacks that have a seed of their own.
        measured: ``objective``, ``eot_samples``, ``tile``, ``memory``, ``overlap`` and ``precision`` of the loss; by
            default what the first attack has.

    Raises:
        ValueError: there is no attack, or the target would mean different things to them.
    """

    fixed = ('eps', 'norm', 'restarts', 'quantize', 'clamp', 'region', 'zero_mean', 'gate')

    def __init__(self, *, attacks: Sequence[Attack], seed: int | None = None, **measured):
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
    def from_options(cls, options, load_network=None):
        """``attacks``: a list of blocks, which take of the others what they know and do not say themselves."""
        own = {key: value for key, value in options.items() if key in cls.parameters()}
        blocks = own.pop('attacks', None) or ()
        shared = {key: value for key, value in options.items() if key not in ('attacks', 'seed')}
        _refuse_unknown(cls, [key for key in shared if key not in own], blocks)
        return cls(attacks=[_inner(block, shared, load_network) for block in blocks], **own)

    def _results(self, model, lq, target, eps, generator, start=None):
        worst = None
        with Problem.of(self, model, lq, target, self.radius(lq, eps), generator) as problem:
            for index, attack in enumerate(self.attacks):
                attacked = attack.results(
                    model, lq, target, eps=eps, generator=generator if attack.seed is None else None
                )[0]
                loss = problem.loss(attacked.to(problem.lq))
                worst = worse(worst, (loss, attacked, torch.full_like(loss, index, dtype=torch.long)))
            loss, attacked, which = worst
            return problem.finished(attacked), loss, which

    def but(self, **changes):
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


def worst_of(attacks: Sequence[Attack], **options) -> WorstOf:
    """The attack that tries all of ``attacks`` and keeps the worst for each image; see :class:`WorstOf`."""
    return WorstOf(attacks=list(attacks), **options)


def _concerns(attack, name):
    """Whether a change of all attacks concerns one of them."""
    if name in ('attacks', 'seed') or name == 'gate' and attack.uses == 'nothing':
        return False  # a gate is that of the network under attack, not of the source of a transfer
    return isinstance(attack, WorstOf) or name in attack.parameters()


def _accepted(block):
    """The arguments that an attack block takes, with those of the blocks inside."""
    from rsr_basicsr.attacks import ATTACKS  # which knows the classes of this file

    if isinstance(block, Attack):
        return set()
    if not isinstance(block, Mapping):
        raise ValueError(f'expected an attack block, with type and arguments, got {block!r}')
    kind = block.get('type', 'PGD')
    cls = ATTACKS.get(kind) if isinstance(kind, str) else None
    if cls is Transfer:
        return _accepted(block.get('attack') or {})
    if cls is WorstOf:
        return set(MEASURED).union(*map(_accepted, block.get('attacks') or ()))
    return set(cls.parameters()) if cls else set()


def _inner(block, shared, load_network):
    """The attack of a block inside a block, which takes of the outer one what it knows and does not say itself."""
    from rsr_basicsr.attacks import build_attack

    if isinstance(block, Attack):
        return block
    taken = _accepted(block)
    return build_attack(
        {'type': 'PGD', **{key: value for key, value in shared.items() if key in taken}, **block}, load_network
    )


def _refuse_unknown(cls, names, blocks):
    known = set().union(*map(_accepted, blocks))
    for name in names:
        if name not in known and blocks:
            close = difflib.get_close_matches(str(name), sorted(known), n=1)
            raise ValueError(
                f'{cls.__name__}: no attack inside has {name!r}' + (f'; did you mean {close[0]!r}?' if close else '')
            )
