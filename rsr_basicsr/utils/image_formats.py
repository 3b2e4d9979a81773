"""Pillow, for the formats of images alone."""

from __future__ import annotations

import functools
from typing import IO

from PIL import Image

#: Pillow's names of the formats that are read. No other: for PostScript, Pillow starts Ghostscript, and a file's name
#: does not tell that it is PostScript.
READ_FORMATS = ('PNG', 'JPEG', 'MPO', 'WEBP', 'BMP', 'DIB', 'TIFF', 'GIF', 'AVIF', 'PPM')


def open_image(file: IO[bytes]) -> Image.Image:
    """Pillow's ``Image.open`` for the formats of :data:`READ_FORMATS`.

    Raises:
        UnidentifiedImageError: it is none of them.
    """
    return Image.open(file, formats=_formats())


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of :data:`READ_FORMATS` that this Pillow has."""
    Image.init()
    return tuple(name for name in READ_FORMATS if name in Image.OPEN)
