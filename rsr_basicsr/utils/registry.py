"""From a name that a user wrote to what is meant by it: the nearest known name, and what a message says of it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def nearest(name: Any, known: Iterable[Any], cutoff: float = 0.6) -> str | None:
    """The known name that is most like another one, whatever the case of its letters; None where none is.

    Args:
        name: what the user wrote.
        known: the names there are.
        cutoff: how alike the two must be, from 0 to 1.
    """
    names = {str(one).lower(): str(one) for one in known}
    close = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=cutoff)
    return names[close[0]] if close else None


def did_you_mean(name: Any, known: Iterable[Any], otherwise: str = 'known are') -> str:
    """``did you mean 'x'?``, or the list of what is known, to be put behind a message and a semicolon.

    Args:
        name: what the user wrote.
        known: the names there are.
        otherwise: what the list begins with.
    """
    known = [str(one) for one in known]
    close = nearest(name, known)
    if close is not None:
        return f'did you mean {close!r}?'
    return f'{otherwise} {", ".join(known)}' if known else 'there is none'
