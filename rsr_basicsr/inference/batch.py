"""Upscale many image files: name the outputs, record one result per file, write the report."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rsr_basicsr.catalog.choices import FORMATS
from rsr_basicsr.inference.beside import AHEAD, Beside, Read
from rsr_basicsr.inference.image_io import LoadedImage, check_size, has_limit, write_image
from rsr_basicsr.inference.listing import list_images, no_image
from rsr_basicsr.inference.upscaler import Upscaler
from rsr_basicsr.utils.errors import ImageError, OptionsError
from rsr_basicsr.utils.files import remove_leftovers, resolved, write_whole


@dataclass(frozen=True)
class Naming:
    """Output paths, named as Real-ESRGAN's script names them.

    Attributes:
        folder: output folder; subfolders of the input are kept below it.
        suffix: appended to the image's name after ``_``; may be empty.
        extension: one of :data:`rsr_basicsr.inference.image_io.FORMATS`, or ``auto`` to keep the image's own.
            Images with an alpha channel become PNG files, and those of formats that are only read.
        overwrite: whether existing outputs may be replaced. Input images never are.

    Raises:
        OptionsError: the suffix names a folder.
    """

    folder: Path
    suffix: str = 'out'
    extension: str = 'auto'
    overwrite: bool = False

    def __post_init__(self) -> None:
        if set(self.suffix) & set('/\\'):
            raise OptionsError(f'suffix {self.suffix!r}: expected a part of a file name, without a folder')

    def path(self, file: Path, inside: Path, alpha: bool) -> Path:
        """Output path of a file from the subfolder ``inside``."""
        own = file.suffix[1:] if file.suffix[1:].lower() in FORMATS else 'png'
        extension = 'png' if alpha else own if self.extension == 'auto' else self.extension
        return self.folder / inside / f'{file.stem}{f"_{self.suffix}" if self.suffix else ""}.{extension}'


@dataclass
class Result:
    """Result for one file.

    Attributes:
        skipped: the output already existed.
        width, height, output_width, output_height: in pixels.
        clean_probability, attacked, masked: see :class:`rsr_basicsr.inference.upscaler.GateVerdict`.
        seconds: for reading, computing and writing this image, which overlap with those of others.
        notes: changes worth knowing, such as a dropped ICC profile.
        error: why there is no output.
    """

    file: str
    output: str | None = None
    skipped: bool = False
    width: int | None = None
    height: int | None = None
    output_width: int | None = None
    output_height: int | None = None
    clean_probability: float | None = None
    attacked: bool | None = None
    masked: float | None = None
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    error: str | None = None


class Found(NamedTuple):
    """Images to upscale.

    Args:
        files: each with its subfolder relative to the folder given.
        remark: a sentence that names what was skipped in folders; may be empty.
    """

    files: list[tuple[Path, Path]]
    remark: str


def find_files(paths: Sequence[str | Path], naming: Naming | None = None) -> Found:
    """List the images to upscale.

    A folder may also be the output folder, or hold it: results of earlier runs in it are left out.

    Args:
        paths: images, which are kept as given, and folders, whose images are listed sorted by name.
        naming: of the results, if there are any.

    Raises:
        OptionsError: a folder holds no image, or none of the paths exists.
    """
    found: list[tuple[Path, Path]] = []
    remarks: list[str] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append((path, Path()))
            continue
        try:
            listing = list_images([str(path)])
        except ImageError as error:
            raise OptionsError(str(error)) from None
        if not listing.images:
            raise OptionsError(no_image([str(path)], listing))
        inside = [(file, file.parent.relative_to(path)) for file in map(Path, listing.images)]
        found += _without_results(inside, path, naming) if naming else inside
        remarks += [listing.remark] if listing.skipped else []
    if not any(map(_there, (file for file, _ in found))):
        raise OptionsError(f'{", ".join(map(str, paths))}: no such file or folder')
    return Found(found, '; '.join(remarks))


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _without_results(files: list[tuple[Path, Path]], folder: Path, naming: Naming) -> list[tuple[Path, Path]]:
    """The images of a folder without the results that an earlier run with this naming has written into it."""
    root, results = resolved(folder), resolved(naming.folder)
    if not results.is_relative_to(root):
        return files
    if results != root:
        return [(file, inside) for file, inside in files if not resolved(file).is_relative_to(results)]
    sources = {
        resolved(naming.path(file, inside, alpha)): resolved(file) for file, inside in files for alpha in (False, True)
    }
    return [(file, inside) for file, inside in files if sources.get(resolved(file), resolved(file)) == resolved(file)]


def upscale_files(
    files: Sequence[tuple[Path, Path]], upscaler: Upscaler, naming: Naming, ahead: int = AHEAD
) -> Iterator[Result]:
    """Upscale images in order; a failure yields a result with its error and does not stop the others.

    While an image is computed, threads read the next one and write the last results. So memory holds, beside that
    image and its result, one more image and at most ``ahead`` results, of :data:`PENDING_PIXELS` together. What stops
    the computation, such as Ctrl-C, is raised behind the results of what was being written.

    Args:
        files: as :func:`find_files` returns them.
        ahead: how many results may be written at the same time; 0 reads, computes and writes in turn.
    """
    remove_leftovers(naming.folder)
    run = _Run(upscaler, naming, {resolved(file) for file, _ in files})
    with Beside[Result](ahead) as beside:
        reads = beside.read(file for file, _ in files)
        try:
            for file, inside in files:
                run.upscale(file, inside, next(reads), beside)
                yield from beside.finished()
        except (Exception, KeyboardInterrupt):
            yield from beside.rest()
            raise
        yield from beside.rest()


class _Run:
    """What the images of a run share.

    Args:
        upscaler, naming: as of :func:`upscale_files`.
        originals: the input images, which are never overwritten.
    """

    def __init__(self, upscaler: Upscaler, naming: Naming, originals: set[Path]) -> None:
        self.upscaler, self.naming, self.originals = upscaler, naming, originals
        self.written: set[tuple[int, int]] = set()  # see _identity

    def upscale(self, file: Path, inside: Path, reading: Future[Read], beside: Beside[Result]) -> None:
        """Compute the result of a file, and begin to write it."""
        try:
            image, seconds = reading.result()
            path = self.naming.path(file, inside, image.alpha is not None)
            beside.wait_for(path)
            if not self._is_to_be_written(path):
                beside.keep(Result(str(file), str(path), skipped=True))
                return
            started = time.perf_counter()
            if has_limit(path):  # finding out the scale of a network takes a pass
                check_size(path, *self.upscaler.output_size(image))
            upscaled, verdict = self.upscaler(image)
            seconds += time.perf_counter() - started
        except ImageError as error:
            beside.keep(_failed(file, error))
            return
        result = Result(str(file), str(path), False, *_size(image), seconds=seconds, **verdict._asdict())
        beside.write(path, upscaled.rgb[0, 0].numel(), functools.partial(self._write, file, path, upscaled, result))

    def _is_to_be_written(self, path: Path) -> bool:
        """Whether there is no result yet.

        Raises:
            ImageError: it would overwrite another image.
        """
        _check_free(path, self.originals, self.written)
        if self.naming.overwrite or not _exists(path):
            return True
        self.written.add(_identity(path))
        return False

    def _write(self, file: Path, path: Path, upscaled: LoadedImage, result: Result) -> Result:
        """Write a result, in any thread; returns it completed."""
        started = time.perf_counter()
        try:
            _make_folder(path.parent)
            upscaled = write_image(path, upscaled)
            self.written.add(_identity(path))
        except ImageError as error:
            return _failed(file, error)
        result.output_width, result.output_height = _size(upscaled)
        result.notes = upscaled.notes
        result.seconds = round((result.seconds or 0) + time.perf_counter() - started, 3)
        return result


def _failed(file: Path, error: ImageError) -> Result:
    message = str(error)
    return Result(str(file), error=message if str(file) in message else f'{file}: {message}')


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f'the folder {folder} cannot be created: {error.strerror}') from None


def _exists(path: Path) -> bool:
    """Whether there is a whole result; an empty file is what a full disk or a lost machine has left."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ImageError(f'{path} cannot be written: {error.strerror}') from None


def _check_free(path: Path, originals: set[Path], written: set[tuple[int, int]]) -> None:
    if resolved(path) in originals:
        raise ImageError(f'the output would overwrite the input image {path}; give a suffix or another folder')
    if _exists(path) and _identity(path) in written:
        raise ImageError(f'the output would overwrite that of another image, {path}; use separate output folders')


def _identity(path: Path) -> tuple[int, int]:
    """Tells files apart where names do not, as A.png and a.png on Windows and macOS."""
    found = path.stat()
    return found.st_dev, found.st_ino


def write_report(path: Path, network: str, upscaler: Upscaler, results: Sequence[Result]) -> None:
    """Write all results and the settings behind them to a JSON file.

    Raises:
        ImageError: the file cannot be written.
    """
    defense = upscaler.defense
    report = {
        'network': network,
        'defended': upscaler.defended,
        'gate': defense.gate,
        'threshold': defense.threshold_in_effect.item(),
        'seed': defense.seed,
        'precision': upscaler.precision,
        'tile': upscaler.tile,
        'overlap': upscaler.overlap,
        'images': [dataclasses.asdict(result) for result in results],
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(report, indent=2).encode())
    except OSError as error:
        raise ImageError(f'the report {path} cannot be written: {error.strerror}') from None


def _size(image: LoadedImage) -> tuple[int, int]:
    return image.rgb.shape[-1], image.rgb.shape[-2]
