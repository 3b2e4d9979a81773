"""Checks that images of BasicSR's data sets are complete, readable and of fitting sizes; too slow for every start."""

from __future__ import annotations

import contextlib
import io
import os
import os.path as osp
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
from basicsr.utils import imfrombytes
from PIL import Image, UnidentifiedImageError

from rsr_basicsr.check.datasets import CROP, Images
from rsr_basicsr.options.messages import Problems
from rsr_basicsr.utils.errors import in_one_line
from rsr_basicsr.utils.image_formats import open_image

#: The last bytes of a complete file, by its first bytes
_ENDS = {b'\x89PNG': b'IEND\xaeB`\x82', b'\xff\xd8\xff': b'\xff\xd9'}
_ORIENTATION, _ON_THEIR_SIDE = 0x0112, (5, 6, 7, 8)  # of EXIF, which OpenCV obeys
_SCALED = ('PairedImageDataset', 'RealESRGANPairedDataset')
_NAMED = 3  # of the files of a folder that are broken


T = TypeVar('T')


class Header(NamedTuple):
    """The header of an image.

    Args:
        size: (width, height) in pixels, as BasicSR will see it.
        oddities: what BasicSR drops.
        truncated: whether its end is missing.
    """

    size: tuple[int, int]
    oddities: tuple[str, ...] = ()
    truncated: bool = False


#: From a folder's key, what makes of an image's name the image or its header
_Reader = Callable[[str], Callable[[str], T]]


def check_images(
    dataset: dict[str, Any], where: str, images: Images, patch: int | None, decoded: int, problems: Problems
) -> tuple[int, int] | None:
    """Read the header of every image of a data set, and decode some images.

    Args:
        dataset: its block, which was checked.
        where: its place in the file.
        images: what it takes them from.
        patch: height and width in pixels of the high-resolution patches that are cut out of them; None for none.
        decoded: how many are decoded, evenly spread; those whose end is missing are always decoded.
        problems: where it is noted what is found.

    Returns:
        (width, height) in pixels of the largest low-resolution image; None where there is none.
    """
    headers: dict[str, list[Header | None]] = {}
    with problems.noted(f'{where}: '), _source(dataset, images) as (read, header):
        for column, key in enumerate(images.keys):
            names = [entry[column] for entry in images.entries]
            headers[key] = _check_files(names, f'{where}.{key}', read(key), header(key), decoded, problems)
        _check_sizes(dataset, where, images, headers, patch, problems)
        _note(where, headers, problems)
    sizes = [header.size for header in headers.get('dataroot_lq', ()) if header is not None]
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


@contextlib.contextmanager
def _source(dataset: dict[str, Any], images: Images) -> Iterator[tuple[_Reader[bytes], _Reader[Header]]]:
    """Within the block: for a folder, what reads an image of a name, and what reads its header."""
    if dataset['io_backend']['type'] != 'lmdb':
        yield (
            lambda key: lambda name: _content(osp.join(dataset[key], name)),
            lambda key: lambda name: _header(osp.join(dataset[key], name)),
        )
        return
    import lmdb

    with contextlib.ExitStack() as stack:
        views = {}
        for key in images.keys:
            try:
                database = stack.enter_context(lmdb.open(dataset[key], readonly=True, lock=False))
                # Reading beyond the end of the file would kill the process.
                wanted = (database.info()['last_pgno'] + 1) * database.stat()['psize']
                if osp.getsize(osp.join(dataset[key], 'data.mdb')) < wanted:
                    raise lmdb.Error('data.mdb is cut short')
                views[key] = stack.enter_context(database.begin())
            except lmdb.Error as error:
                reason = in_one_line(error)
                raise ValueError(f'{dataset[key]} cannot be read as LMDB: {reason}; create it again') from None

        def read(key: str) -> Callable[[str], bytes]:
            def value(name: str) -> bytes:
                try:
                    found = views[key].get(name.encode('ascii', 'replace'))
                except lmdb.Error as error:
                    raise ValueError(f'cannot be read from data.mdb ({in_one_line(error)})') from None
                if found is None:
                    raise ValueError('is in meta_info.txt and not in data.mdb')
                return found

            return value

        yield read, lambda key: lambda name: _parsed(io.BytesIO(read(key)(name)))


def _check_files(
    names: Sequence[str],
    where: str,
    read: Callable[[str], bytes],
    header: Callable[[str], Header],
    decoded: int,
    problems: Problems,
) -> list[Header | None]:
    headers: list[Header | None] = []
    broken: dict[str, str] = {}
    chosen = set(range(0, len(names), max(1, len(names) // max(1, decoded)))) if decoded else set()
    endings = set()
    for index, name in enumerate(names):
        try:
            found = header(name)
            ending = osp.splitext(name)[1].lower()
            if found.truncated or index in chosen or (decoded and ending not in endings):
                _decode(read(name))
            endings.add(ending)
            headers.append(found)
        except ValueError as error:
            broken[name] = str(error)
            headers.append(None)
    for number, (name, reason) in enumerate(list(broken.items())[:_NAMED], start=1):
        more = f' (and {len(broken) - _NAMED} more)' if number == _NAMED < len(broken) else ''
        problems.append(f'{where}: {name} {reason}; take it out, or save it again{more}')
    return headers


def _content(path: str) -> bytes:
    try:
        with open(path, 'rb') as file:
            return file.read()
    except OSError as error:
        raise ValueError(f'cannot be read ({error.strerror})') from None


def _header(path: str) -> Header:
    try:
        with open(path, 'rb') as file:
            if not os.fstat(file.fileno()).st_size:
                raise ValueError('is an empty file')
            return _parsed(file)
    except OSError as error:
        raise ValueError(f'cannot be read ({error.strerror or in_one_line(error)})') from None


def _parsed(file: BinaryIO) -> Header:
    """The header of an image, of which nothing else is read."""
    start = file.read(32)
    end = next((end for begin, end in _ENDS.items() if start.startswith(begin)), b'')
    file.seek(-min(len(end), file.seek(0, os.SEEK_END)), os.SEEK_END)
    truncated = not file.read().endswith(end)
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            image = open_image(file)
            # For a PNG, getexif would decode the image; for TIFF, the size is that of the image turned upright.
            turned = image.format not in ('PNG', 'TIFF') and image.getexif().get(_ORIENTATION) in _ON_THEIR_SIDE
    except UnidentifiedImageError:
        return _decoded_header(file)
    except Exception as error:  # PIL raises anything on a damaged header
        raise ValueError(f'is not an image that can be read ({in_one_line(error)})') from None
    size = image.size[::-1] if turned else image.size
    return Header(size, tuple(_oddities(image, start)), truncated)


def _oddities(image: Image.Image, start: bytes) -> Iterator[str]:
    deep_png = start.startswith(b'\x89PNG') and start[24:25] == b'\x10'  # which PIL may show as 8 bit
    if deep_png or image.mode.startswith(('I', 'F')):
        yield 'more than 8 bit, of which BasicSR reads 8'
    if image.mode in ('1', 'L', 'LA') or image.mode.startswith(('I', 'F')):
        yield 'grey, read as three equal channels'
    if image.mode in ('LA', 'RGBA', 'PA') or 'transparency' in image.info:
        yield 'transparency, which is dropped'


def _decoded_header(file: BinaryIO) -> Header:
    """The header of a format that only OpenCV may know."""
    file.seek(0)
    height, width = _decoded(file.read()).shape[:2]
    return Header((width, height))


def _decode(content: bytes) -> None:
    """Decode an image by PIL, which knows when its end is missing, and as BasicSR will."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            open_image(io.BytesIO(content)).load()
    except UnidentifiedImageError:
        pass  # a format that only OpenCV may know
    except Exception as error:  # PIL raises anything on a damaged image
        raise ValueError(f'cannot be decoded ({in_one_line(error)})') from None
    _decoded(content)


def _decoded(content: bytes) -> np.ndarray[Any, Any]:
    try:
        return imfrombytes(content, float32=True)
    except Exception:  # BasicSR passes on OpenCV's errors
        raise ValueError('is not an image that OpenCV can read') from None


def _check_sizes(
    dataset: dict[str, Any],
    where: str,
    images: Images,
    headers: dict[str, list[Header | None]],
    patch: int | None,
    problems: Problems,
) -> None:
    if dataset['type'] in _SCALED:
        unfit, small = [], []
        for (name, _), gt, lq in zip(images.entries, headers['dataroot_gt'], headers['dataroot_lq']):
            if gt is None or lq is None:
                continue
            wanted = tuple(dataset['scale'] * side for side in lq.size)
            # In a validation BasicSR crops the excess; with a wrong folder that is nearly everything.
            spare = 0 if dataset['phase'] == 'train' else dataset['scale']
            if not all(want <= side <= want + spare for want, side in zip(wanted, gt.size)):
                unfit.append(f'{name} is {_shown(gt.size)} and its low-resolution image {_shown(lq.size)}')
            elif patch is not None and min(gt.size) < patch:
                small.append(f'{name} is {_shown(gt.size)}')
        if unfit:
            problems.append(f'{where}: {unfit[0]}, but scale is {dataset["scale"]}{_others(unfit)}; see dataroot_lq')
        if small:
            problems.append(
                f'{where}.gt_size: {small[0]}, smaller than {patch}{_others(small)}; take it out, or lower gt_size'
            )
    elif dataset['type'] == 'RealESRGANDataset':
        small = [
            f'{name} is {_shown(header.size)}'
            for (name,), header in zip(images.entries, headers['dataroot_gt'])
            if header is not None and min(header.size) < CROP
        ]
        if small:
            problems.warnings.append(
                f'{where}: {small[0]}, and is filled up to {CROP}x{CROP} by its mirror image{_others(small)}'
            )


def _note(where: str, headers: dict[str, list[Header | None]], problems: Problems) -> None:
    for key, entries in headers.items():
        found = [header for header in entries if header is not None]
        if not found:
            continue
        kinds = [kind for header in found for kind in header.oddities]
        if kinds:
            problems.warnings.append(
                f'{where}.{key}: '
                + '; '.join(f'{kinds.count(kind)} of {len(found)} images: {kind}' for kind in dict.fromkeys(kinds))
            )
        sizes = sorted((header.size for header in found), key=lambda size: size[0] * size[1])
        span = _shown(sizes[0]) if sizes[0] == sizes[-1] else f'{_shown(sizes[0])} to {_shown(sizes[-1])}'
        problems.facts.append(f'{where}.{key}: {len(found)} images, {span}')


def _others(found: Sequence[str]) -> str:
    return f' (and {len(found) - 1} more)' if len(found) > 1 else ''


def _shown(size: tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]}'
