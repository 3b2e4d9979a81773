"""The registry of attacks, and the way from an options block to an attack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from rsr_basicsr.ops.registry import TypeRegistry, take_type

if TYPE_CHECKING:
    from rsr_basicsr.attacks.base import Attack

#: Attacks, by the name of ``type``; ``@ATTACKS.register()`` adds one
ATTACKS = TypeRegistry('attack')


def build_attack(
    options: Mapping[str, Any], load_network: Callable[[Mapping[str, Any]], nn.Module] | None = None
) -> Attack:
    """Build the attack of an options block: ``type`` and the keyword arguments of that class.

    Inner blocks, ``attack`` of Transfer and each of ``attacks`` of WorstOf, take missing arguments from the outer one.

    Args:
        options: the block.
        load_network: builds the network of the block ``source`` of Transfer, which may also be a network already.

    Raises:
        ValueError: there is no attack of that type, it has no such argument, or a value is out of range.

    Example:
        >>> build_attack({'type': 'PGD', 'eps': 4, 'steps': 20})
        PGD(eps=4, steps=20, objective=Stability())
    """
    _, attack, arguments = take_type(options, ATTACKS, 'attack')
    return attack.from_options(arguments, load_network)
