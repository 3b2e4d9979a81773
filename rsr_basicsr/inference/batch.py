"""Many image files through one upscaler: where results go, what became of each file, the report."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rsr_basicsr.inference.image_io import read_image, write_image
from rsr_basicsr.inference.listing import find_images
from rsr_basicsr.inference.upscaler import Upscaler
from rsr_basicsr.utils.errors import ImageError, OptionsError
from rsr_basicsr.utils.files import write_whole


@dataclass(frozen=True)
class Naming:
    """Where the results go, as Real-ESRGAN's own script names them.

    Attributes:
        folder: of all results; those of images in a subfolder go into one of the same name.
        suffix: behind the name of the image and ``_``; may be empty.
        extension: ``auto`` for that of the image, or one of
            :data:`rsr_basicsr.inference.image_io.FORMATS`. Images with an alpha channel become PNG files.
        overwrite: whether files that are there may be replaced; the images themselves are not, ever.
    """

    folder: Path
    suffix: str = 'out'
    extension: str = 'auto'
    overwrite: bool = False

    def path(self, file: Path, inside: Path, alpha: bool) -> Path:
        """Where the result of a file goes that lay in the subfolder ``inside``."""
        extension = 'png' if alpha else file.suffix[1:] if self.extension == 'auto' else self.extension
        return self.folder / inside / f'{file.stem}{f"_{self.suffix}" if self.suffix else ""}.{extension}'


@dataclass
class Result:
    """What became of one file; ``error`` says why nothing did.

    Attributes:
        skipped: the output was there already.
        width, height, output_width, output_height: in pixels.
        seconds: from reading to writing.
        notes: what its owner may want to know, such as a profile that was dropped.
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
    """Each image with the subfolder that it lay in; images by name as they are, those of folders sorted.

    Raises:
        OptionsError: a folder holds no image, or nothing of all that is there.
    """
    found = []
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
    """Upscale images one after the other, so that memory holds one; what cannot be done is a result, too.

    Args:
        files: as :func:`find_files` returns them.
    """
    originals, written = {file.resolve() for file, _ in files}, set()
    for file, inside in files:
        started = time.time()
        try:
            result = _upscale_file(file, inside, upscaler, naming, originals, written)
        except ImageError as error:
            sentence = str(error)
            yield Result(str(file), error=sentence if str(file) in sentence else f'{file}: {sentence}')
        else:
            result.seconds = round(time.time() - started, 3)
            yield result


def _upscale_file(file, inside, upscaler, naming, originals: set[Path], written: set[Path]):
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
        raise ImageError(f'{path.parent} cannot be made: {error.strerror}') from None
    upscaled = write_image(path, upscaled)
    written.add(path.resolve())
    return Result(
        str(file), str(path), False, *_size(image), *_size(upscaled), notes=upscaled.notes, **verdict._asdict()
    )


def _check_free(path, originals, written):
    if path.resolve() in originals:
        raise ImageError(f'its result would replace the image {path}; give a suffix or another folder')
    if path.resolve() in written:
        raise ImageError(f'its result would replace that of another image, {path}; give folders of their own')


def write_report(path: Path, network: str, upscaler: Upscaler, results: Sequence[Result]) -> None:
    """Write all verdicts, and what they were made with, into a JSON file.

    Raises:
        ImageError: it cannot be written.
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


def _size(image):
    return image.rgb.shape[-1], image.rgb.shape[-2]
