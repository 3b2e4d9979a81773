"""Pillow for the formats of images alone, and OpenCV for files of any name."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from PIL import Image

from rsr_basicsr.utils.files import read_regular

#: Pillow's names of the formats that are read. No other: for PostScript, Pillow starts Ghostscript, and a file's name
#: does not tell that it is PostScript.
READ_FORMATS = ('PNG', 'JPEG', 'MPO', 'WEBP', 'BMP', 'DIB', 'TIFF', 'GIF', 'AVIF', 'PPM')


def open_image(file: IO[bytes]) -> Image.Image:
    """Pillow's ``Image.open`` for the formats of :data:`READ_FORMATS`.

    Raises:
        UnidentifiedImageError: it is none of them.
    """
    return Image.open(file, formats=_formats())


def read_bgr(path: Path) -> np.ndarray | None:
    """OpenCV's ``imread`` in colour, of 8 bits; None for what it cannot read.

    ``imread`` itself ends the process where a name is not in UTF-8.
    """
    try:
        content = read_regular(path)
    except OSError:
        return None
    if not content:
        return None
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    return None if image is None else np.asarray(image, np.uint8)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of :data:`READ_FORMATS` that this Pillow has."""
    Image.init()
    return tuple(name for name in READ_FORMATS if name in Image.OPEN)
