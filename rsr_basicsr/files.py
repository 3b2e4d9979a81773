"""Files that are there whole or not at all, whatever ends the process that writes them."""

from __future__ import annotations

import os
from pathlib import Path


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
