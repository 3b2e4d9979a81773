"""Hints for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def nearest(name: Any, known: Iterable[Any], cutoff: float = 0.6) -> str | None:
    """The known name most similar to ``name``, ignoring case; None if none is similar enough.

    Args:
        name: what the user wrote.
        known: the names to choose from.
        cutoff: least similarity, from 0 to 1.
    """
    names = {str(one).lower(): str(one) for one in known}
    close = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=cutoff)
    return names[close[0]] if close else None


def did_you_mean(name: Any, known: Iterable[Any], otherwise: str = 'known are') -> str:
    """``did you mean 'x'?``, or the list of known names: the end of a message, after a semicolon.

    Args:
        name: what the user wrote.
        known: the names to choose from.
        otherwise: the beginning of the list.
    """
    known = [str(one) for one in known]
    close = nearest(name, known)
    if close is not None:
        return f'did you mean {close!r}?'
    return f'{otherwise} {", ".join(known)}' if known else 'there is none'
