"""The ``card`` of a network: what the leaderboard says of it, with figures of attacks by other people."""

from __future__ import annotations

from rsr_basicsr.options.parsing import Block, key
from rsr_basicsr.options.types import NonNegative, PositiveEps, Text


class ExternalOptions(Block):
    """The stability that somebody else's attack left of a network."""

    attack: Text = key('its name', ...)
    source: Text = key('where it is described', ...)
    eps: PositiveEps = key('its budget', ..., unit='1/255')
    stability: NonNegative = key('what it left', ..., unit='dB')


class CardOptions(Block):
    """What the leaderboard says of a network."""

    authors: Text | None = key('who made it')
    link: Text | None = key('where it is')
    note: Text | None = key('one sentence')
    external: list[ExternalOptions] | None = key('attacks by other people')
