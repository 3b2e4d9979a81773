"""Threads that read and write images while the calling thread computes others."""

from __future__ import annotations

import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from rsr_basicsr.inference.image_io import LoadedImage, read_image

_T = TypeVar('_T')

#: Results that are written at the same time: encoding a PNG takes longer than a GPU needs for its pixels
AHEAD = 4
#: Pixels of the results that are written while another image is computed, together: 0.8 GB as numbers
PENDING_PIXELS = 2**26


class Read(NamedTuple):
    """An image, and the seconds that reading it took."""

    image: LoadedImage
    seconds: float


@dataclass(frozen=True)
class _Pending(Generic[_T]):
    path: Path | None
    pixels: int
    result: Future[_T]


class Beside(Generic[_T]):
    """Reads one image ahead, and writes results, whose order is kept.

    Args:
        ahead: how many results are written at the same time; 0 reads and writes in the calling thread, when asked to.
    """

    def __init__(self, ahead: int = AHEAD) -> None:
        self.ahead = ahead
        self._reader: Executor = ThreadPoolExecutor(1) if ahead else _Inline()
        self._writer: Executor = ThreadPoolExecutor(ahead) if ahead else _Inline()
        self._pending: deque[_Pending[_T]] = deque()

    def __enter__(self) -> Beside[_T]:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until what has begun is finished, so that no file is left half written."""
        for executor in (self._reader, self._writer):
            executor.shutdown(cancel_futures=True)

    def read(self, files: Iterable[Path]) -> Iterator[Future[Read]]:
        """Yield the reading of each file, while the next one is read already."""
        begun: deque[Future[Read]] = deque()
        for file in files:
            begun.append(self._reader.submit(_timed_read, file))
            if len(begun) > bool(self.ahead):
                yield begun.popleft()
        while begun:
            yield begun.popleft()

    def write(self, path: Path, pixels: int, job: Callable[[], _T]) -> None:
        """Begin a job that writes a result of that many pixels."""
        self._pending.append(_Pending(path, pixels, self._writer.submit(job)))

    def keep(self, result: _T) -> None:
        """Put a result into the order for which nothing has to be written."""
        done: Future[_T] = Future()
        done.set_result(result)
        self._pending.append(_Pending(None, 0, done))

    def wait_for(self, path: Path) -> None:
        """Wait until no file is being written whose name some file system does not tell from that of ``path``."""
        wait([one.result for one in self._pending if one.path is not None and _alike(one.path, path)])

    def finished(self) -> Iterator[_T]:
        """Yield the first results that are finished; waits for them while too many are pending."""
        while self._pending and (self._too_many() or self._pending[0].result.done()):
            yield self._pending.popleft().result.result()

    def rest(self) -> Iterator[_T]:
        """Wait for all results that are pending, and yield them."""
        while self._pending:
            yield self._pending.popleft().result.result()

    def _too_many(self) -> bool:
        return len(self._pending) > self.ahead or sum(one.pixels for one in self._pending) > PENDING_PIXELS


class _Inline(Executor):
    """Runs each job at once, in the calling thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


def _timed_read(file: Path) -> Read:
    started = time.perf_counter()
    image = read_image(file)
    return Read(image, time.perf_counter() - started)


def _alike(one: Path, other: Path) -> bool:
    """Whether the names differ in case or in the form of accents at most, which Windows and macOS ignore."""
    return _folded(one.name) == _folded(other.name)


def _folded(name: str) -> str:
    return unicodedata.normalize('NFC', unicodedata.normalize('NFC', name).casefold())
