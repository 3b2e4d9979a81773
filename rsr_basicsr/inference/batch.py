"""Upscale many image files: name the outputs, record one result per file, write the report."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rsr_basicsr.catalog.choices import FORMATS
from rsr_basicsr.inference.image_io import LoadedImage, check_size, has_limit, read_image, write_image
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
        seconds: from reading to writing.
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


def upscale_files(files: Sequence[tuple[Path, Path]], upscaler: Upscaler, naming: Naming) -> Iterator[Result]:
    """Upscale images one at a time; a failure yields a result with its error and does not stop the others.

    Args:
        files: as :func:`find_files` returns them.
    """
    originals = {resolved(file) for file, _ in files}
    remove_leftovers(naming.folder)
    written: set[tuple[int, int]] = set()
    for file, inside in files:
        started = time.time()
        try:
            result = _upscale_file(file, inside, upscaler, naming, originals, written)
        except ImageError as error:
            message = str(error)
            yield Result(str(file), error=message if str(file) in message else f'{file}: {message}')
        else:
            result.seconds = round(time.time() - started, 3)
            yield result


def _upscale_file(
    file: Path, inside: Path, upscaler: Upscaler, naming: Naming, originals: set[Path], written: set[tuple[int, int]]
) -> Result:
    image = read_image(file)
    path = naming.path(file, inside, image.alpha is not None)
    _check_free(path, originals, written)
    if _exists(path) and not naming.overwrite:
        written.add(_identity(path))
        return Result(str(file), str(path), skipped=True)
    if has_limit(path):  # finding out the scale of a network takes a pass
        check_size(path, *upscaler.output_size(image))
    upscaled, verdict = upscaler(image)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f'the folder {path.parent} cannot be created: {error.strerror}') from None
    upscaled = write_image(path, upscaled)
    written.add(_identity(path))
    return Result(
        str(file), str(path), False, *_size(image), *_size(upscaled), notes=upscaled.notes, **verdict._asdict()
    )


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
