"""Atomic writes of files, and folders with a single writer."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from rsr_basicsr.utils.errors import OptionsError

_LOCK_TIMEOUT = 10  # seconds
_PART, _KEPT = '.part', 100  # ending of a file that is being written, characters of its name that are kept
_ABANDONED = 3600  # seconds
_ABSOLUTE = re.compile(r'(/|~/|[A-Za-z]:[/\\]|\\\\)[^\n]*[^/\\\n][/\\]?')
_ABSOLUTE_WORD = re.compile(r'(?<![\w.:/\\~])(/|~/|[A-Za-z]:[/\\])[^\s;,\'"()\[\]]*[^\s;,\'"()\[\]:.]')


def check_new(path: Path | None, overwrite: bool = False, made: Path | None = None) -> None:
    """Check, before any work, that a file can be written.

    Args:
        path: the file; None is accepted.
        overwrite: whether an existing file may be replaced.
        made: a folder that need not exist yet.

    Raises:
        OptionsError: the file exists and may not be replaced, or its folder does not exist.
    """
    if path is None:
        return
    if path.exists() and (path.is_dir() or not overwrite):
        raise OptionsError(
            f'{path} is there already; ' + ('name a file' if path.is_dir() else 'it is replaced with --overwrite only')
        )
    if not path.parent.is_dir() and path.parent != made:
        raise OptionsError(f'{path} cannot be written: there is no folder {path.parent}')


class NotRegularError(OSError):
    """A file is a pipe, a socket or a device."""


def resolved(path: str | Path) -> Path:
    """As ``Path.resolve``, which raises a RuntimeError for loops of links up to Python 3.12."""
    return Path(os.path.realpath(path))


def check_regular(path: Path) -> None:
    """Check that a file, if it exists, is a regular one; a pipe could wait for ever, a device never end.

    Raises:
        IsADirectoryError, NotRegularError: it is none.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        raise NotRegularError(errno.EINVAL, 'it is no regular file', str(path))


def read_regular(path: Path) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    check_regular(path)
    return path.read_bytes()


def without_folders(text: str) -> str:
    """A text for readers elsewhere: absolute paths, the whole text or words of it, are reduced to their last parts."""
    if _ABSOLUTE.fullmatch(text) and ': ' not in text:
        return re.split(r'[/\\]', text.rstrip('/\\'))[-1]
    return _ABSOLUTE_WORD.sub(lambda found: without_folders(found[0]), text)


def read_text(path: Path) -> str:
    """The content of a regular file in UTF-8.

    Raises:
        OSError: as :func:`read_regular`.
        UnicodeDecodeError: it is not in UTF-8.
    """
    return read_regular(path).decode('utf-8')


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: a reader sees the old content or all of ``content``, also after a loss of power.

    Raises:
        OSError: the file cannot be written; the old content is untouched.
    """
    # In the same folder: a rename is atomic only within a file system. A random name: process numbers repeat in
    # containers that share a folder.
    aside = path.with_name(f'.{path.name[:_KEPT]}.{secrets.token_hex(6)}{_PART}')
    try:
        with open(aside, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def remove_leftovers(folder: Path) -> None:
    """Remove what killed runs have left of :func:`write_whole` in a folder, which need not exist.

    Only what is an hour old: another process may be writing.
    """
    with contextlib.suppress(OSError):  # the next run can remove it
        for path in folder.glob(f'.*{_PART}'):
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the write lock of a folder, which need not exist yet, within the block.

    The lock file stays beside the folder; the lock itself ends with the process.

    Raises:
        OptionsError: another process holds the lock, or the parent folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # The workers of a killed run need some seconds to end.
        lock = FileLock(_lock_file(folder), timeout=_LOCK_TIMEOUT).acquire()
    except Timeout:
        raise OptionsError(
            f'{folder} belongs to a run that still goes on; wait for its end, or give this one another name'
        ) from None
    except OSError as error:
        raise OptionsError(f'{folder} cannot be written: {error.strerror}') from error
    with lock:
        yield


def has_writer(folder: Path) -> bool:
    """Whether a process holds the lock of :func:`sole_writer` on a folder; writes nothing."""
    path = _lock_file(folder)
    try:
        with FileLock(path, timeout=0) if path.exists() else contextlib.nullcontext():
            return False
    except Timeout:
        return True
    except OSError:  # the lock file belongs to another user, and so will the folder: writing there fails with a message
        return False


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f'.{folder.name}.lock')
