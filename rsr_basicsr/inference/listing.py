"""Which files of a folder are images; every command that reads a folder of images asks here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rsr_basicsr.utils.errors import ImageError

#: Lower-case endings of image files
EXTENSIONS = ('.png', '.jpg', '.jpeg', '.jpe', '.jfif', '.bmp', '.tif', '.tiff', '.webp', '.gif', '.avif', '.ppm')
_NAMED = 5  # skipped files that a sentence names


class Listing(NamedTuple):
    """The files of folders.

    Args:
        images: paths of the images, sorted by name per folder.
        skipped: the other visible files, each with the reason.
    """

    images: list[str]
    skipped: list[tuple[str, str]]

    @property
    def remark(self) -> str:
        """The skipped files in a sentence; empty where there are none."""
        if not self.skipped:
            return ''
        named = ', '.join(f'{path} ({reason})' for path, reason in self.skipped[:_NAMED])
        more = len(self.skipped) - _NAMED
        return f'skipped {named}{f", and {more} more files" if more > 0 else ""}'


def list_images(folders: Sequence[str]) -> Listing:
    """The images in folders and their subfolders, and what was skipped.

    Hidden files and folders are passed over, as BasicSR does: what a killed run has left is hidden. A folder that
    is linked to from several places counts once.

    Raises:
        ImageError: a folder is missing.
    """
    found = Listing([], [])
    for folder in folders:
        if not os.path.isdir(folder):
            raise ImageError(f'{folder} is not a folder of images')
        for path in sorted(_files(folder, set())):
            reason = _reason(path)
            if reason:
                found.skipped.append((path, reason))
            else:
                found.images.append(path)
    return found


def find_images(folders: Sequence[str]) -> list[str]:
    """As :func:`list_images`, without what was skipped.

    Raises:
        ImageError: a folder is missing, or there is no image.
    """
    listing = list_images(folders)
    if not listing.images:
        raise ImageError(no_image(folders, listing))
    return listing.images


def no_image(folders: Sequence[str], listing: Listing) -> str:
    """The sentence for folders without an image."""
    sentence = f'there is no image in {", ".join(map(str, folders))}; expected files named *{", *".join(EXTENSIONS)}'
    return f'{sentence}; {listing.remark}' if listing.skipped else sentence


def _files(folder: str, seen: set[str]) -> Iterator[str]:
    """All visible entries below a folder that are no folders themselves; each folder counts once."""
    seen.add(os.path.realpath(folder))
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise ImageError(f'{folder} cannot be read: {error.strerror}') from None
    for path in (os.path.join(folder, name) for name in names if not name.startswith('.')):
        if not os.path.isdir(path):
            yield path
        elif os.path.realpath(path) not in seen:
            yield from _files(path, seen)


def _reason(path: str) -> str:
    """Why a path is no image file; empty if it is one."""
    if not Path(path).name.lower().endswith(EXTENSIONS):
        return 'no image'
    if os.path.isfile(path):
        return ''
    return 'broken link' if os.path.islink(path) else 'no regular file'
