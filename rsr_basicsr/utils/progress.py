"""Progress on stderr: a bar in a terminal, one line every 30 seconds in a file."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

_LINE_INTERVAL = 30  # seconds between the lines in a file


def progress_bar(**arguments: Any) -> tqdm:
    """A tqdm bar; where stderr is no terminal, one line per update instead of carriage returns.

    Args:
        arguments: as of tqdm.
    """
    if sys.stderr.isatty():
        return tqdm(file=sys.stderr, dynamic_ncols=True, **arguments)
    return tqdm(file=_Lines(), mininterval=_LINE_INTERVAL, **arguments)


class _Lines:
    """File object that writes each state of a bar as a line of its own."""

    def write(self, text: str) -> None:
        state = text.strip()
        if state:
            sys.stderr.write(f'{state}\n')

    def flush(self) -> None:
        sys.stderr.flush()
