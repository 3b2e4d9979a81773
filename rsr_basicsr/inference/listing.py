"""Which files of a folder are images; every command that reads a folder of images asks here."""

from __future__ import annotations

import os.path as osp
from collections.abc import Sequence

from basicsr.utils import scandir

from rsr_basicsr.utils.errors import ImageError

#: Lower-case endings of image files
EXTENSIONS = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')


def find_images(folders: Sequence[str]) -> list[str]:
    """Paths of the images in folders and their subfolders, sorted by name per folder.

    Raises:
        ImageError: a folder is missing, or there is no image.
    """
    found: list[str] = []
    for folder in folders:
        if not osp.isdir(folder):
            raise ImageError(f'{folder} is not a folder of images')
        found += [
            osp.join(folder, name)
            for name in sorted(scandir(folder, recursive=True))
            if name.lower().endswith(EXTENSIONS)
        ]
    if not found:
        raise ImageError(
            f'there is no image in {", ".join(map(str, folders))}; expected files named *{", *".join(EXTENSIONS)}'
        )
    return found
