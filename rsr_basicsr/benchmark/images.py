"""The images of a benchmark: data sets of BasicSR, every image of which is read before anything is measured."""

from __future__ import annotations

import copy
import hashlib
import os.path as osp
from collections.abc import Mapping
from typing import Any, NamedTuple

from basicsr.data import build_dataset
from basicsr.utils.registry import DATASET_REGISTRY
from torch.utils.data import Dataset

from rsr_basicsr.options import host
from rsr_basicsr.options.calls import registered
from rsr_basicsr.options.messages import Problems
from rsr_basicsr.options.parsing import parse_keys
from rsr_basicsr.options.types import Count, Keys
from rsr_basicsr.utils.errors import OptionsError, in_one_line
from rsr_basicsr.utils.registry import did_you_mean

_OF_IMAGES = (
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
        index: its place there.
        name: what it is called.
        has_gt: whether there is a high-resolution one.
        size: (H, W) of the low-resolution one in pixels.
        digest: of the pixels of both.
    """

    dataset: str
    index: int
    name: str
    has_gt: bool
    size: tuple[int, int]
    digest: str


def open_dataset(options: Mapping[str, Any], name: str) -> Dataset:
    """The data set of that name; BasicSR takes its blocks apart when it reads from them, so that this gets a copy."""
    dataset = copy.deepcopy(options['datasets'][name])
    dataset.pop('num_images', None)
    # BasicSR logs a line for each data set, and opens its log for that.
    return build_dataset({**dataset, 'name': name, 'phase': 'val', 'scale': options['scale']})


def check_datasets(options: dict[str, Any], problems: Problems) -> list[BenchmarkImage]:
    """Check the block ``datasets``, in place, and read every image once."""
    found = []
    if not options['datasets']:
        problems.append('datasets: there is none')
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


def _check_known(dataset, where):
    """A misspelt key would be ignored in silence by the data sets that all users know."""
    own = {'ReducedImageDataset': {'crop'}, 'PairedImageDataset': {'filename_tmpl'}, 'SingleImageDataset': set()}
    kind = dataset.get('type')
    known = {*_OF_IMAGES, *own.get(kind if isinstance(kind, str) else None, dataset)}
    for key in dataset:
        if key not in known:
            raise OptionsError(f'{where}: unknown key {key!r}; {did_you_mean(key, sorted(known))}')


def _read_all(options, name, where, problems) -> list[BenchmarkImage]:
    try:
        dataset = open_dataset(options, name)
    except Exception as error:  # whatever a data set makes of its block
        raise OptionsError(f'{where}: the data set cannot be opened: {in_one_line(error)}') from error
    wanted = options['datasets'][name].get('num_images', len(dataset))
    if not len(dataset):
        raise OptionsError(f'{where}: there is no image')
    if wanted > len(dataset):
        raise OptionsError(f'{where}.num_images: {wanted}, but there are {len(dataset)}')
    found = []
    # By name: BasicSR lists some folders as the file system does.
    for path, index in sorted((_path(dataset, index), index) for index in range(len(dataset)))[:wanted]:
        try:
            item = dataset[index]
        except Exception as error:  # BasicSR hands on what OpenCV makes of it
            problems.append(
                f'{where}: {path} cannot be read as an image ({in_one_line(error)}); take it out, or save it again'
            )
            continue
        with problems.noted(f'{where}: {path}: '):
            size = _size(item, options['scale'])
            found.append(BenchmarkImage(name, index, _name(item['lq_path'], found), 'gt' in item, size, _digest(item)))
    return found


def _size(item, scale):
    height, width = item['lq'].shape[-2:]
    if 'gt' in item and tuple(item['gt'].shape[-2:]) != (scale * height, scale * width):
        raise ValueError(
            f'the high-resolution image is {item["gt"].shape[-1]}x{item["gt"].shape[-2]}, but the '
            f'low-resolution one is {width}x{height} and scale is {scale}'
        )
    if not item['lq'].isfinite().all():
        raise ValueError('it holds values that are not numbers')
    return height, width


def _digest(item):
    content = hashlib.sha256()
    for name in ('lq', 'gt'):
        if name in item:
            content.update(f'{name} {tuple(item[name].shape)}'.encode() + item[name].contiguous().numpy().tobytes())
    return content.hexdigest()


def _path(dataset, index):
    path = getattr(dataset, 'paths', {index: f'number {index}'})[index]
    return path['lq_path'] if isinstance(path, Mapping) else path


def _name(path, found):
    """The file's name without its ending, or the whole path where another image has the same."""
    short = osp.splitext(osp.basename(path))[0]
    return path if short in {image.name for image in found} else short
