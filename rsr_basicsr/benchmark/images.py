"""The images of a benchmark: BasicSR data sets; every image is read once before anything is measured."""

from __future__ import annotations

import copy
import hashlib
import os.path as osp
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from basicsr.data import build_dataset
from basicsr.utils.registry import DATASET_REGISTRY

from rsr_basicsr.options import host
from rsr_basicsr.options.calls import registered
from rsr_basicsr.options.degradation_blocks import DegradedImageOptions
from rsr_basicsr.options.messages import Problems
from rsr_basicsr.options.parsing import parse_keys
from rsr_basicsr.options.types import Count, Keys
from rsr_basicsr.utils.errors import OptionsError, in_one_line
from rsr_basicsr.utils.hints import did_you_mean

_IMAGE_KEYS = (
    'type',
    'name',
    'num_images',
    'dataroot_gt',
    'dataroot_lq',
    'io_backend',
    'meta_info_file',
    'color',
    'mean',
    'std',
)


class BenchmarkImage(NamedTuple):
    """An image of a data set, without its pixels.

    Args:
        dataset: name of the data set.
        position: index of the image in the data set.
        name: name of the image in records and reports.
        has_gt: whether there is a high-resolution image.
        size: (H, W) of the low-resolution image in pixels.
        digest: SHA-256 of the pixels of the low- and high-resolution image.
    """

    dataset: str
    position: int
    name: str
    has_gt: bool
    size: tuple[int, int]
    digest: str


class ImageDataset(Protocol):
    """The interface that BasicSR's data sets share."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


def open_dataset(options: Mapping[str, Any], name: str) -> ImageDataset:
    """Build the data set of that name from a copy of its block, which BasicSR changes while reading."""
    dataset = copy.deepcopy(options['datasets'][name])
    dataset.pop('num_images', None)
    return build_dataset({**dataset, 'name': name, 'phase': 'val', 'scale': options['scale']})


def check_datasets(options: dict[str, Any], problems: Problems) -> list[BenchmarkImage]:
    """Check the block ``datasets``, in place, and read every image once."""
    found: list[BenchmarkImage] = []
    if not options['datasets']:
        problems.append('datasets: expected at least one data set')
    for name, dataset in options['datasets'].items():
        where = f'datasets.{name}'
        with problems.noted():
            parse_keys(options['datasets'], (name,), Keys, 'datasets', required=True)
            _check_known(dataset, where)
            dataset.setdefault('name', name)
            dataset.setdefault('io_backend', {'type': 'disk'})
            parse_keys(dataset, ('num_images', 'crop'), Count, where)
            host.check_dataset(dataset, where, 'val', problems)
            if not problems.sound(where):
                continue
            registered(DATASET_REGISTRY, dataset['type'], f'{where}.type')
            for key in ('dataroot_gt', 'dataroot_lq'):
                if dataset.get(key) is not None and not osp.isdir(osp.expanduser(dataset[key])):
                    raise OptionsError(f'{where}.{key}: no such folder: {dataset[key]}')
                if dataset.get(key) is not None:
                    dataset[key] = osp.expanduser(dataset[key])
            found += _read_all(options, name, where, problems)
    return found


def _check_known(dataset: Mapping[str, Any], where: str) -> None:
    """Reject unknown keys, which BasicSR's data sets would ignore silently."""
    own: dict[str, set[str]] = {
        'ReducedImageDataset': {'crop'},
        'DegradedImageDataset': {*DegradedImageOptions.model_fields},
        'PairedImageDataset': {'filename_tmpl'},
        'SingleImageDataset': set(),
    }
    kind = dataset.get('type')
    known = {*_IMAGE_KEYS, *(own[kind] if isinstance(kind, str) and kind in own else dataset)}
    for key in dataset:
        if key not in known:
            raise OptionsError(f'{where}: unknown key {key!r}; {did_you_mean(key, sorted(known))}')


def _read_all(options: Mapping[str, Any], name: str, where: str, problems: Problems) -> list[BenchmarkImage]:
    try:
        dataset = open_dataset(options, name)
    except Exception as error:  # data sets raise errors of any type
        raise OptionsError(f'{where}: the data set cannot be opened: {in_one_line(error)}') from error
    wanted = options['datasets'][name].get('num_images')  # or fewer: the report says so
    if not len(dataset):
        raise OptionsError(f'{where}: the data set has no image')
    found: list[BenchmarkImage] = []
    # Sorted by path: BasicSR lists some folders in the order of the file system.
    for path, index in sorted((_path(dataset, index), index) for index in range(len(dataset)))[:wanted]:
        try:
            item = dataset[index]
        except Exception as error:  # OpenCV raises errors of several types
            problems.append(
                f'{where}: {path} cannot be read as an image ({in_one_line(error)}); remove it or save it again'
            )
            continue
        with problems.noted(f'{where}: {path}: '):
            size = _size(item, options['scale'])
            found.append(BenchmarkImage(name, index, _name(item['lq_path'], found), 'gt' in item, size, _digest(item)))
    return found


def _size(item: Mapping[str, Any], scale: int) -> tuple[int, int]:
    height, width = item['lq'].shape[-2:]
    if 'gt' in item and tuple(item['gt'].shape[-2:]) != (scale * height, scale * width):
        raise ValueError(
            f'the high-resolution image is {item["gt"].shape[-1]}x{item["gt"].shape[-2]}, but the '
            f'low-resolution one is {width}x{height} and scale is {scale}'
        )
    if not item['lq'].isfinite().all():
        raise ValueError('it contains values that are not finite')
    return height, width


def _digest(item: Mapping[str, Any]) -> str:
    content = hashlib.sha256()
    for name in ('lq', 'gt'):
        if name in item:
            content.update(f'{name} {tuple(item[name].shape)}'.encode() + item[name].contiguous().numpy().tobytes())
    return content.hexdigest()


def _path(dataset: ImageDataset, index: int) -> str:
    path = getattr(dataset, 'paths', {index: f'number {index}'})[index]
    return path['lq_path'] if isinstance(path, Mapping) else path


def _name(path: str, found: list[BenchmarkImage]) -> str:
    """The file name without its suffix, or the whole path if another image has that name."""
    path = path.encode(errors='backslashreplace').decode()  # a name that is not in UTF-8 could not be written
    short = osp.splitext(osp.basename(path))[0]
    return path if short in {image.name for image in found} else short
