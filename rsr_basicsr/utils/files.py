"""Files: written whole or not at all, whatever ends the process; folders with one writer; options files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from rsr_basicsr.utils.errors import OptionsError

_PATIENCE = 10  # seconds


def check_new(path: Path | None, overwrite: bool = False, made: Path | None = None) -> None:
    """Check, before any work, that a file can be written; None is none.

    Args:
        made: a folder that need not be there yet.

    Raises:
        OptionsError: it is there already and may not be replaced, or there is no such folder.
    """
    if path is None:
        return
    if path.exists() and (path.is_dir() or not overwrite):
        raise OptionsError(
            f'{path} is there already; ' + ('name a file' if path.is_dir() else 'it is replaced with --overwrite only')
        )
    if not path.parent.is_dir() and path.parent != made:
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


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Within the block nobody else who asks is the writer of a folder, which need not be there yet.

    The file that says so stays beside the folder; what it says ends with the process, however that ends.

    Raises:
        OptionsError: somebody else is, or the place of the folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # The workers of a run that was killed need some seconds to see it.
        claim = FileLock(_claim_of(folder), timeout=_PATIENCE).acquire()
    except Timeout:
        raise OptionsError(
            f'{folder} belongs to a run that still goes on; wait for its end, or give this one another name'
        ) from None
    except OSError as error:
        raise OptionsError(f'{folder} cannot be written: {error.strerror}') from error
    with claim:
        yield


def has_writer(folder: Path) -> bool:
    """Whether somebody is within :func:`sole_writer` of a folder; nothing is written to find out."""
    claim = _claim_of(folder)
    try:
        with FileLock(claim, timeout=0) if claim.exists() else contextlib.nullcontext():
            return False
    except Timeout:
        return True
    except OSError:  # it belongs to another user, as the folder will: whoever writes there is told so
        return False


def _claim_of(folder):
    return folder.with_name(f'.{folder.name}.lock')
