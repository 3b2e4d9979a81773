"""Files that are there whole or not at all, whatever ends the process that writes them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

from rsr_basicsr.errors import OptionsError


def check_new(path: Optional[Path], overwrite: bool = False) -> None:
    """Check, before any work, that a file can be written; None is none.

    Raises:
        OptionsError: it is there already and may not be replaced, or there is no such folder.
    """
    if path is None:
        return
    if path.exists() and (path.is_dir() or not overwrite):
        raise OptionsError(f'{path} is there already; ' + (
            'name a file' if path.is_dir() else 'it is replaced with --overwrite only'))
    if not path.parent.is_dir():
        raise OptionsError(f'{path} cannot be written: there is no folder {path.parent}')


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader finds what was there before, or all of ``content``.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    # Beside the file, since one can be moved in a single step only within a file system.
    aside = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        aside.write_bytes(content)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
