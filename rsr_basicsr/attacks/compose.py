"""Attacks made of other attacks: the samples of another network, and for each picture the worst of several."""

from __future__ import annotations

from typing import Mapping, Optional, Sequence, Union

import torch
from torch import nn

from rsr_basicsr.attacks.base import Attack
from rsr_basicsr.attacks.gradient import PGD
from rsr_basicsr.attacks.objectives import Objective
from rsr_basicsr.attacks.problem import Problem, untouched, worse
from rsr_basicsr.inference import OVERLAP


class Transfer(Attack):
    """Adversarial samples of another network.

    Args:
        source: the network that is attacked in the place of the one under attack; of the same scale where the
            objective needs a target. It is attacked in evaluation mode.
        attack: how it is attacked; None is PGD with the arguments given.
    """

    uses = 'nothing'

    def __init__(self, *, source: nn.Module, attack: Optional[Attack] = None, **common):
        if not isinstance(source, nn.Module):
            raise ValueError(f'Transfer needs source, a network, got {source!r}')
        if attack is not None and common:
            raise ValueError(f'Transfer: {", ".join(common)} belong to the attack that is given')
        self.source, self.attack = source, PGD(**common) if attack is None else attack
        self.eps, self.objective = self.attack.eps, self.attack.objective

    @classmethod
    def from_options(cls, options, load_network=None):
        """``source``: a network, or a block for ``load_network``; ``attack``: a block; the rest is for the attack."""
        shared = dict(options)
        source, attack = shared.pop('source', None), shared.pop('attack', None)
        if isinstance(source, Mapping) and load_network is not None:
            source = load_network(source)
        return cls(source=source, attack=_inner(attack or {}, shared, load_network))

    def results(self, model, lq, target=None, *, eps=None, generator=None):
        """Attack the source, whatever the model. A target that is the model's own output only is not handed on."""
        target = target if self.objective.needs_target else None
        modes = {module: module.training for module in self.source.modules()}
        self.source.eval()
        try:
            return self.attack.results(self.source, lq, target, eps=eps, generator=generator)[:1]
        finally:
            for module, training in modes.items():
                module.training = training

    def but(self, **changes):
        return Transfer(source=self.source, attack=self.attack.but(**changes))

    def __repr__(self) -> str:
        return f'Transfer(source={type(self.source).__name__}, attack={self.attack})'


class WorstOf(Attack):
    """Runs several attacks and keeps, picture by picture, the result that damages the deployed network most.

    The damage is that of the network as it decides by itself, whatever ``gate`` the attacks look through.

    Args:
        attacks: what is tried; each keeps its own settings.
        objective: measures the damage; None is the objective of the first attack.
        draws: passes of which the damage is the mean, for a network that draws at random.
        tile, overlap: of these passes.

    Raises:
        ValueError: there is no attack, or the target would mean different things to them.
    """

    def __init__(self, *, attacks: Sequence[Attack], objective: Union[None, str, Objective] = None, draws: int = 1,
                 tile: Optional[int] = None, overlap: int = OVERLAP):
        if not attacks:
            raise ValueError('worst_of needs at least one attack')
        self.attacks, self.eps = tuple(attacks), max(attack.eps for attack in attacks)
        self.judge = Attack(eps=self.eps, objective=objective or attacks[0].objective, draws=draws, tile=tile,
                            overlap=overlap)
        self.objective = self.judge.objective
        objectives = [self.objective, *(attack.objective for attack in attacks)]
        if len({(objective.needs_target, objective.needs_ground_truth) for objective in objectives}) > 1:
            raise ValueError('worst_of: the target would mean different things to '
                             + ' and '.join(sorted(set(map(str, objectives)))))
        self.uses = min((attack.uses for attack in attacks), key=('gradients', 'queries', 'nothing').index)

    @classmethod
    def from_options(cls, options, load_network=None):
        """``attacks``: a list of blocks; what is no argument of the class, and the objective, is for all of them."""
        own = {key: value for key, value in options.items() if key in cls.parameters()}
        shared = {key: value for key, value in options.items() if key not in own or key == 'objective'}
        own['attacks'] = [_inner(block, shared, load_network) for block in own.get('attacks') or ()]
        return cls(**own)

    def results(self, model, lq, target=None, *, eps=None, generator=None):
        """The attacked pictures, the damage of each, (B,), and the index of the attack that made it, (B,)."""
        with untouched(model):
            judged = Problem(self.judge, model, lq, lq.new_tensor(self.eps / 255))
            judged.refer_to(target)
        worst = None
        for index, attack in enumerate(self.attacks):
            attacked = attack.results(model, lq, target, eps=eps, generator=generator)[0]
            with untouched(model):
                damage = judged.damage(attacked)
            worst = worse(worst, (damage, attacked, torch.full_like(damage, index, dtype=torch.long)))
        return worst[1], worst[0], worst[2]

    def but(self, **changes):
        return WorstOf(attacks=[attack.but(**changes) for attack in self.attacks], objective=self.objective,
                       draws=self.judge.draws, tile=self.judge.tile, overlap=self.judge.overlap)

    def __repr__(self) -> str:
        return f'worst_of([{", ".join(map(repr, self.attacks))}])'


def worst_of(attacks: Sequence[Attack], **options) -> WorstOf:
    """The attack that tries all of ``attacks`` and keeps the worst for each picture; see :class:`WorstOf`."""
    return WorstOf(attacks=list(attacks), **options)


def _inner(block, shared, load_network):
    """The attack of a block inside a block, which takes of the outer one what it knows and does not say itself."""
    from rsr_basicsr.attacks import ATTACKS, build_attack  # which know the classes of this file
    if isinstance(block, Attack):
        return block
    block = {'type': 'PGD', **block}
    taken = ATTACKS[block['type']].parameters() if block['type'] in ATTACKS else ()
    return build_attack({**{key: value for key, value in shared.items() if key in taken}, **block}, load_network)
