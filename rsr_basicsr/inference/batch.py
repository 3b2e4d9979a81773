"""Upscale many image files: name the outputs, record one result per file, write the report."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rsr_basicsr.inference.image_io import LoadedImage, read_image, write_image
from rsr_basicsr.inference.listing import find_images
from rsr_basicsr.inference.upscaler import Upscaler
from rsr_basicsr.utils.errors import ImageError, OptionsError
from rsr_basicsr.utils.files import write_whole


@dataclass(frozen=True)
class Naming:
    """Output paths, named as Real-ESRGAN's script names them.

    Attributes:
        folder: output folder; subfolders of the input are kept below it.
        suffix: appended to the image's name after ``_``; may be empty.
        extension: one of :data:`rsr_basicsr.inference.image_io.FORMATS`, or ``auto`` to keep the image's own.
            Images with an alpha channel become PNG files.
        overwrite: whether existing outputs may be replaced. Input images never are.
    """

    folder: Path
    suffix: str = 'out'
    extension: str = 'auto'
    overwrite: bool = False

    def path(self, file: Path, inside: Path, alpha: bool) -> Path:
        """Output path of a file from the subfolder ``inside``."""
        extension = 'png' if alpha else file.suffix[1:] if self.extension == 'auto' else self.extension
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


def find_files(paths: Sequence[str | Path]) -> list[tuple[Path, Path]]:
    """List the images to upscale, each with its subfolder relative to the folder given.

    Args:
        paths: images, which are kept as given, and folders, whose images are listed sorted by name.

    Raises:
        OptionsError: a folder holds no image, or none of the paths exists.
    """
    found: list[tuple[Path, Path]] = []
    for path in map(Path, paths):
        if path.is_dir():
            try:
                files = [Path(file) for file in find_images([str(path)])]
            except ImageError as error:
                raise OptionsError(str(error)) from None
            found += [(file, file.parent.relative_to(path)) for file in files]
        else:
            found.append((path, Path()))
    if not any(file.exists() for file, _ in found):
        raise OptionsError(f'{", ".join(map(str, paths))}: no such file or folder')
    return found


def upscale_files(files: Sequence[tuple[Path, Path]], upscaler: Upscaler, naming: Naming) -> Iterator[Result]:
    """Upscale images one at a time; a failure yields a result with its error and does not stop the others.

    Args:
        files: as :func:`find_files` returns them.
    """
    originals = {file.resolve() for file, _ in files}
    written: set[Path] = set()
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
    file: Path, inside: Path, upscaler: Upscaler, naming: Naming, originals: set[Path], written: set[Path]
) -> Result:
    image = read_image(file)
    path = naming.path(file, inside, image.alpha is not None)
    _check_free(path, originals, written)
    if path.exists() and not naming.overwrite:
        written.add(path.resolve())
        return Result(str(file), str(path), skipped=True)
    upscaled, verdict = upscaler(image)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f'the folder {path.parent} cannot be created: {error.strerror}') from None
    upscaled = write_image(path, upscaled)
    written.add(path.resolve())
    return Result(
        str(file), str(path), False, *_size(image), *_size(upscaled), notes=upscaled.notes, **verdict._asdict()
    )


def _check_free(path: Path, originals: set[Path], written: set[Path]) -> None:
    if path.resolve() in originals:
        raise ImageError(f'the output would overwrite the input image {path}; give a suffix or another folder')
    if path.resolve() in written:
        raise ImageError(f'the output would overwrite that of another image, {path}; use separate output folders')


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
