"""Read and write image files with alpha, bit depth, orientation, ICC profile and EXIF; each loss is noted."""

from __future__ import annotations

import dataclasses
import io
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from rsr_basicsr.catalog.choices import FORMATS
from rsr_basicsr.utils.device_errors import out_of_memory, within_memory
from rsr_basicsr.utils.errors import ImageError, in_one_line
from rsr_basicsr.utils.files import read_regular, write_whole
from rsr_basicsr.utils.image_formats import open_image

_DEEP = ('png', 'tif', 'tiff')  # formats with 16 bits per channel
_WITH_ALPHA = ('png', 'webp', 'tif', 'tiff')
#: Pillow's name of metadata -> ours, and the formats that have none
_METADATA = {'icc_profile': ('ICC profile', ('BMP',)), 'exif': ('EXIF', ('BMP',)), 'dpi': ('resolution', ('WEBP',))}
_LARGEST = {'WEBP': 16383, 'JPEG': 65500}  # pixels per side that the encoders take
_ORIENTATION = 0x0112  # tag of EXIF
#: Tags of EXIF that say how TIFF stores the pixels, which are no longer true of another file
_OF_STORAGE = (
    *(0x100, 0x101, 0x102, 0x103, 0x106, 0x111, _ORIENTATION, 0x115, 0x116, 0x117, 0x11A, 0x11B, 0x11C, 0x128),
    *(0x142, 0x143, 0x144, 0x145, 0x153, 0x201, 0x202, 0x8773),
)
_PLAIN = ('L', 'LA', 'RGB', 'RGBA')  # modes of Pillow that are kept as they are
_ROWS = 256  # rounded at a time


class _Header(NamedTuple):
    """What Pillow reads from a file.

    Args:
        pixels: (H, W, C), uint8, as grey or RGB, with or without alpha; None for what Pillow does not read in full.
        orientation: of EXIF, 1 to 8, as far as the pixels still have to be turned.
        profile: ICC profile.
        exif: EXIF data without what describes the stored pixels; empty without any.
        dpi: resolution, across and down; None without one.
        notes: changes worth knowing.
    """

    pixels: np.ndarray | None = None
    orientation: int = 1
    profile: bytes | None = None
    exif: bytes = b''
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadedImage:
    """An image with its metadata.

    Attributes:
        rgb: float32, (1, 3, H, W) in [0, 1], upright.
        alpha: float32, (1, 1, H, W) in [0, 1]; None without an alpha channel.
        grey: whether the file has one colour channel, which ``rgb`` repeats three times.
        bits: per channel in the file, 8 or 16.
        profile: ICC profile.
        exif: EXIF data, without an orientation; empty without any.
        dpi: resolution in dots per inch, across and down; None without one.
        notes: changes worth knowing, such as a dropped channel.
    """

    rgb: torch.Tensor
    alpha: torch.Tensor | None = None
    grey: bool = False
    bits: int = 8
    profile: bytes | None = None
    exif: bytes = b''
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    def replaced(self, **changes: Any) -> LoadedImage:
        """A copy with other values."""
        return dataclasses.replace(self, **changes)


def read_image(path: str | Path) -> LoadedImage:
    """Read an image file at its own bit depth and turn it upright.

    Raises:
        ImageError: the file is missing, is no regular file or no image, is damaged, has more pixels than Pillow opens,
            holds floating-point values outside [0, 1], or does not fit into memory.
    """
    with within_memory(str(path), 'cut it into parts'):
        return _read(path)


def _read(path: str | Path) -> LoadedImage:
    try:
        content = read_regular(Path(path))
    except FileNotFoundError:
        raise ImageError(f'{path}: no such file') from None
    except OSError as error:
        raise ImageError(f'{path} cannot be read: {error.strerror}') from None
    if not content:
        raise _unreadable(path, 'the file is empty')
    header = _header(path, content)
    pixels, notes = _decoded(content), header.notes
    if pixels is None and header.pixels is None:
        raise _unreadable(path, 'unknown format')
    if pixels is None or (pixels.dtype == np.uint8 and header.pixels is not None):
        pixels = header.pixels  # OpenCV premultiplies alpha in TIFF and turns grey with alpha into RGBA
    assert pixels is not None
    if not np.issubdtype(pixels.dtype, np.integer):
        notes += ('floating-point values, saved with 16 bits at most',)
    bits = 8 if pixels.dtype == np.uint8 else 16
    pixels = _upright(_in_unit_range(path, pixels), header.orientation)
    channels = pixels.shape[2]
    rgb = pixels[..., [0, 0, 0]] if channels < 3 else pixels[..., :3]
    alpha = _tensor(pixels[..., -1:]) if channels in (2, 4) else None
    return LoadedImage(_tensor(rgb), alpha, channels < 3, bits, header.profile, header.exif, header.dpi, notes)


def has_limit(path: Path) -> bool:
    """Whether the format given by a path's ending bounds the size of an image."""
    return _kind(path) in _LARGEST


def check_size(path: Path, height: int, width: int) -> None:
    """Check, before it is computed, that the format given by a path's ending holds an image of that size.

    Raises:
        ImageError: it does not.
    """
    kind, limit = _kind(path), _LARGEST.get(_kind(path))
    if limit is not None and max(height, width) > limit:
        raise ImageError(
            f'{path}: the output is {width}x{height}, and {kind} holds at most {limit} pixels per side; write PNG '
            '(--ext png)'
        )


def _kind(path: Path) -> str:
    """Pillow's name of the format given by a path's ending; empty for an unknown one."""
    return FORMATS.get(path.suffix[1:].lower(), ('', {}))[0]


def write_image(path: str | Path, image: LoadedImage) -> LoadedImage:
    """Write an image atomically, in the format given by the path's ending.

    Returns:
        The image, with notes on what the format could not hold.

    Raises:
        ImageError: the file cannot be written, or its ending is not in :data:`FORMATS`.
    """
    with within_memory(f'{path}, {image.rgb.shape[-1]}x{image.rgb.shape[-2]} pixels', 'cut the image into parts'):
        return _write(Path(path), image)


def _write(path: Path, image: LoadedImage) -> LoadedImage:
    ending = path.suffix[1:].lower()
    if ending not in FORMATS:
        raise ImageError(f'{path}: unknown image format {path.suffix!r}; known are {", ".join(FORMATS)}')
    notes = list(image.notes)
    if image.alpha is not None and ending not in _WITH_ALPHA:
        notes.append(f'alpha channel dropped: {ending} has none')
        image = image.replaced(alpha=None)
    if image.bits == 16 and ending not in _DEEP:
        notes.append(f'16 bits reduced to 8: {ending} has only 8')
        image = image.replaced(bits=8)
    check_size(path, *image.rgb.shape[-2:])
    try:
        content = _encoded_deep(image, ending, notes) if image.bits == 16 else _encoded(image, ending, notes)
    except Exception as error:  # encoders raise anything, and the other images of a folder go on
        if out_of_memory(error):
            raise
        raise ImageError(f'{path} cannot be written as {FORMATS[ending][0]}: {in_one_line(error)}') from None
    try:
        write_whole(path, content)
    except OSError as error:
        raise ImageError(f'{path} cannot be written: {error.strerror}') from None
    return image.replaced(notes=tuple(notes))


def _header(path: str | Path, content: bytes) -> _Header:
    """Pillow detects damage, which OpenCV fills with grey; but it reads colour images at 8 bits only."""
    try:
        with warnings.catch_warnings():
            # On odd metadata, and on images of one to two times its limit. No others: this may run beside a network.
            warnings.filterwarnings('ignore', module='PIL')
            with open_image(io.BytesIO(content)) as opened:
                frames = getattr(opened, 'n_frames', 1)
                profile, mode, before = (
                    opened.info.get('icc_profile'),
                    opened.mode,
                    opened.getexif().get(_ORIENTATION, 1),
                )
                opened.load()
                exif, dpi = opened.getexif(), opened.info.get('dpi')
                left = exif.get(_ORIENTATION, 1)  # 1 behind TIFF, which load turns upright
                pixels = _plain_pixels(opened)
    except Image.DecompressionBombError as error:
        raise ImageError(f'{path} is too large: {error}; cut it into parts') from None
    except UnidentifiedImageError:
        return _Header()  # only OpenCV reads some kinds, such as floating-point colour
    except Exception as error:  # a decoder can raise anything on a damaged file
        if out_of_memory(error):
            raise
        raise _unreadable(path, in_one_line(error)) from None
    notes: list[str] = []
    if before != 1:
        notes.append('rotated upright, following its EXIF orientation')
    if frames > 1:
        notes.append(f'first of {frames} frames')
    if mode == 'CMYK':
        notes.append(f'CMYK converted to RGB{", ICC profile dropped" if profile else ""}')
        profile = None
    if dpi is not None and min(dpi) <= 1:
        dpi = None  # TIFF without a unit
    if dpi is not None:
        dpi = (float(dpi[0]), float(dpi[1]))[:: 1 if left < 5 else -1]
    return _Header(pixels, left, profile, _kept(exif, notes), dpi, tuple(notes))


def _plain_pixels(image: Image.Image) -> np.ndarray | None:
    """The pixels of an 8-bit image of any mode, (H, W, C), grey or RGB, with alpha where anything is transparent."""
    if image.mode.startswith(('I', 'F')):
        return None
    grey = image.mode in ('1', 'L', 'LA')
    if 'transparency' in image.info or image.mode in ('LA', 'PA', 'RGBA', 'RGBa'):
        image = (
            image.convert('RGBA').convert('LA')
            if grey and image.mode != 'LA'
            else image.convert('LA' if grey else 'RGBA')
        )
    elif image.mode not in _PLAIN:
        image = image.convert('L' if grey else 'RGB')
    return np.asarray(image).reshape(image.height, image.width, -1)


def _kept(exif: Image.Exif, notes: list[str]) -> bytes:
    """EXIF data to be written with another image: the pixels are upright and stored in another way."""
    for tag in _OF_STORAGE:
        exif.pop(tag, None)
    if not len(exif):
        return b''
    try:
        return exif.tobytes()
    except Exception as error:  # Pillow raises anything on damaged or unusual entries
        notes.append(f'EXIF dropped: it cannot be written again ({in_one_line(error)})')
        return b''


def _unreadable(path: str | Path, reason: str) -> ImageError:
    return ImageError(
        f'{path} is not an image that can be read ({reason}); give a whole PNG, JPEG, WebP, BMP or TIFF file'
    )


def _decoded(content: bytes) -> np.ndarray | None:
    """(H, W, C) at the file's own bit depth, channels in the order red, green, blue, alpha; None where OpenCV fails."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # errors are raised by the caller
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if out_of_memory(error):
            raise
        return None
    finally:
        cv2.utils.logging.setLogLevel(level)
    if pixels is None:
        return None
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return pixels if pixels.shape[2] < 3 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]


def _in_unit_range(path: str | Path, pixels: np.ndarray) -> np.ndarray:
    if np.issubdtype(pixels.dtype, np.integer):
        return pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
        raise ImageError(f'{path} has values that are not numbers in [0, 1]; save it with 8 or 16 bits per channel')
    return pixels


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The same as ``ImageOps.exif_transpose``, for arrays."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32))[None]


def _array(image: LoadedImage, dtype: type[np.integer]) -> np.ndarray:
    """Rounded, (H, W, C), channels in the order red, green, blue, alpha."""
    height, width = image.rgb.shape[-2:]
    channels = (1 if image.grey else 3) + (image.alpha is not None)
    array = np.empty((height, width, channels), dtype)
    for top in range(0, height, _ROWS):  # in parts: unrounded values take four times the memory
        rows = slice(top, top + _ROWS)
        parts = [image.rgb[0, : 1 if image.grey else 3, rows]]
        parts += [] if image.alpha is None else [image.alpha[0, :, rows]]
        values = torch.cat(parts).clamp_(0, 1).mul_(np.iinfo(dtype).max).round_()
        array[rows] = values.permute(1, 2, 0).numpy()
    return array


def _encoded(image: LoadedImage, ending: str, notes: list[str]) -> bytes:
    kind, settings = FORMATS[ending]
    array = _array(image, np.uint8)
    if array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim == 3 and array.shape[2] == 2 and kind == 'WEBP':
        array = array[..., [0, 0, 0, 1]]
    for name, value in (('icc_profile', image.profile), ('exif', image.exif), ('dpi', image.dpi)):
        title, without = _METADATA[name]
        if value and kind in without:
            notes.append(f'{title} dropped: {ending} has none')
        elif value:
            settings = {**settings, name: value}
    content = io.BytesIO()
    Image.fromarray(array).save(content, format=kind, **settings)
    return content.getvalue()


def _encoded_deep(image: LoadedImage, ending: str, notes: list[str]) -> bytes:
    """By OpenCV: Pillow has no 16-bit colour images."""
    array = _array(image, np.uint16)
    order = {1: [0], 2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[array.shape[2]]
    done, encoded = cv2.imencode(f'.{ending}', array[..., order])
    if not done:
        raise ValueError('OpenCV cannot encode it')
    content = encoded.tobytes()
    for name, value in (('EXIF', image.exif), ('resolution', image.dpi)):
        if value:
            notes.append(f'{name} dropped: it is kept with 8 bits only')
    if not image.profile:
        return content
    if ending == 'png':
        return _with_profile(content, image.profile)
    notes.append('ICC profile dropped: with 16 bits only PNG keeps it')
    return content


def _with_profile(png: bytes, profile: bytes) -> bytes:
    """Insert the chunk iCCP after the header of a PNG (PNG specification, section 11.3.3.3)."""
    data = b'iCCP' + b'ICC profile\0\0' + zlib.compress(profile)
    chunk = (len(data) - 4).to_bytes(4, 'big') + data + zlib.crc32(data).to_bytes(4, 'big')
    header_ends = 8 + 25  # signature and chunk IHDR
    return png[:header_ends] + chunk + png[header_ends:]
