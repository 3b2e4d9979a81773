"""Figures of attacks by other people, as the ``card`` of a network gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rsr_basicsr.utils.untrusted import is_number


def external_of(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The external figures of a card that may be a stranger's; those that are not sound are left out."""
    found = card.get('external')
    return [figure for figure in found if is_external(figure)] if isinstance(found, list) else []


def is_external(figure: Any) -> bool:
    """Whether an untrusted value has the keys and types of an external figure."""
    return (
        isinstance(figure, dict)
        and all(isinstance(figure.get(name), str) for name in ('attack', 'source'))
        and all(is_number(figure.get(name)) for name in ('eps', 'stability'))
        and figure['eps'] > 0
    )


def worst_external(figures: list[dict[str, Any]], eps: float | None = None) -> dict[str, Any] | None:
    """The external figure with the lowest stability, of all or of one eps; None without any."""
    found = [figure for figure in figures if eps is None or figure['eps'] == eps]
    return min(found, key=lambda figure: figure['stability'], default=None)


def described(figure: Mapping[str, Any]) -> str:
    """An external figure in words."""
    return f'{figure["stability"]:.1f} dB at eps {figure["eps"]:g} by {figure["attack"]} ({figure["source"]})'
