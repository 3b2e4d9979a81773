"""Progress bars on stderr: a bar where someone watches, lines now and then where stderr is a file."""

from __future__ import annotations

import sys

from tqdm import tqdm

_EVERY = 30  # seconds between the lines of a file


def progress_bar(**arguments) -> tqdm:
    """tqdm's bar, of its ``arguments``; in a file its states would be one line of any length."""
    if sys.stderr.isatty():
        return tqdm(file=sys.stderr, dynamic_ncols=True, **arguments)
    return tqdm(file=_Lines(), mininterval=_EVERY, **arguments)


class _Lines:
    """A file that gets a line for each state of a bar."""

    def write(self, text):
        state = text.strip()
        if state:
            sys.stderr.write(f'{state}\n')

    def flush(self):
        sys.stderr.flush()
