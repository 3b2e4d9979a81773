"""Checks that folders, lists and databases of data sets exist, with the images they name.

Images are not read here; :mod:`rsr_basicsr.check.images` does that.
"""

from __future__ import annotations

import os.path as osp
import re
from typing import Any, NamedTuple

from basicsr.utils import scandir
from basicsr.utils.registry import DATASET_REGISTRY

from rsr_basicsr.data.adversarial_set_options import AdversarialSetOptions, check_adversarial_set
from rsr_basicsr.data.degraded_image_dataset import check_degradations
from rsr_basicsr.options.calls import registered
from rsr_basicsr.options.messages import Problems
from rsr_basicsr.options.parsing import parse_keys
from rsr_basicsr.options.types import Count, names
from rsr_basicsr.utils.errors import OptionsError

#: Height and width in pixels of RealESRGANDataset's images; no option changes it
CROP = 400

_FOLDERS = ('dataroot', 'dataroot_extra', 'dataroot_gt', 'dataroot_lq')
#: The folders that a data set of BasicSR takes images from, and the key of its list of them
FOLDERS_OF = {
    'RealESRGANDataset': ('dataroot_gt',),
    'SingleImageDataset': ('dataroot_lq',),
    'ReducedImageDataset': ('dataroot_gt',),
    'DegradedImageDataset': ('dataroot_gt',),
    'PairedImageDataset': ('dataroot_gt', 'dataroot_lq'),
    'RealESRGANPairedDataset': ('dataroot_gt', 'dataroot_lq'),
}
_LIST_OF = {
    'RealESRGANDataset': 'meta_info',
    'RealESRGANPairedDataset': 'meta_info',
    'SingleImageDataset': 'meta_info_file',
    'ReducedImageDataset': 'meta_info_file',
    'DegradedImageDataset': 'meta_info_file',
    'PairedImageDataset': 'meta_info_file',
}
_SCALED = ('PairedImageDataset', 'RealESRGANPairedDataset', 'ReducedImageDataset', 'DegradedImageDataset')
_OPENS_ITS_LIST = ('SingleImageDataset', 'ReducedImageDataset', 'DegradedImageDataset')


class Images(NamedTuple):
    """Where a data set finds its images.

    Args:
        keys: of the folders, ``dataroot_gt`` first where there are two.
        entries: for each image its name in each folder: a path below it, or a key of an LMDB data set.
    """

    keys: tuple[str, ...]
    entries: list[tuple[str, ...]]


def check_datasets(opt: dict[str, Any], problems: Problems) -> dict[str, Images]:
    """Check all data sets and put their folders into their final form, in place.

    Returns:
        By phase, the images of BasicSR's data sets that have no problem.
    """
    found = {}
    for phase, dataset in opt['datasets'].items() if problems.there('datasets') else ():
        where = f'datasets.{phase}'
        if not problems.sound(f'{where}.type', f'{where}.io_backend'):
            continue
        if dataset['type'] in _SCALED:
            parse_keys(opt, ('scale',), Count, '', problems, required=True)
        with problems.noted(part=f'{where}.images'):
            images = check_dataset(dataset, where, problems)
            if images is not None:
                found[phase] = images
    return found


def check_dataset(dataset: dict[str, Any], where: str, problems: Problems) -> Images | None:
    """Check one data set, as :func:`check_datasets` does for all of them.

    Raises:
        OptionsError: one sentence with the key, the value and the remedy.
    """
    with problems.noted(part=f'{where}.type'):
        registered(DATASET_REGISTRY, dataset['type'], f'{where}.type')
    if dataset['type'] == 'AdversarialImagesDataset':
        own = {
            key: value
            for key, value in dataset.items()
            if key in AdversarialSetOptions.model_fields and key != 'dataroot'
        }
        checked = check_adversarial_set(own, where)
        dataset.update({key: value for key, value in checked.items() if key != 'photos'})
        dataset['photos'] = names(dataset['photos'])
        return None
    if dataset['type'] == 'DegradedImageDataset' and problems.sound(where):
        check_degradations(dataset, where)
    for key in _FOLDERS:
        if dataset.get(key) is not None and problems.sound(f'{where}.{key}'):
            with problems.noted(part=f'{where}.{key}'):
                dataset[key] = _folders(dataset[key], f'{where}.{key}')
    for key in ('meta_info', 'meta_info_file'):
        if dataset.get(key) is not None and problems.sound(f'{where}.{key}') and not osp.isfile(dataset[key]):
            with problems.noted(part=f'{where}.{key}'):
                raise OptionsError(f'{where}.{key}: no such file: {dataset[key]}')
    keys = FOLDERS_OF.get(dataset['type'])
    wanted = [f'{where}.{key}' for key in (*(keys or ()), 'meta_info', 'meta_info_file', 'filename_tmpl')]
    if keys is None or not problems.sound(*wanted) or any(dataset.get(key) is None for key in keys):
        return None
    return _images(dataset, where, keys)


def _folders(value: Any, where: str) -> str | list[str]:
    folders = [osp.expanduser(folder) for folder in names(value)]
    for folder in folders:
        if not osp.isdir(folder):
            raise OptionsError(f'{where}: no such folder: {folder}')
    return folders[0] if len(folders) == 1 else folders


def _images(dataset: dict[str, Any], where: str, keys: tuple[str, ...]) -> Images | None:
    backend = (dataset.get('io_backend') or {}).get('type')
    if backend == 'lmdb':
        return _check_databases(dataset, where, keys)
    if backend == 'memcached':
        _check_importable('mc', f'{where}.io_backend.type: memcached', 'the client of memcached')
        return None
    key = _LIST_OF[dataset['type']]
    if key in dataset and dataset[key] is None and dataset['type'] in _OPENS_ITS_LIST:
        raise OptionsError(f'{where}.{key}: BasicSR opens the file named there, and there is none; remove the key')
    if dataset.get(key) is not None:
        entries = _listed(dataset, f'{where}.{key}', dataset[key])
        _check_there(dataset, f'{where}.{key}', dataset[key], keys, entries)
    elif len(keys) == 2:
        entries = _paired(dataset, where)
    else:
        entries = [(name,) for name in sorted(scandir(dataset[keys[0]]))]
        if not entries:
            raise OptionsError(f'{where}.{keys[0]}: there is no image in {dataset[keys[0]]}')
    return Images(keys, entries)


def _listed(dataset: dict[str, Any], where: str, path: str) -> list[tuple[str, ...]]:
    """The entries of a list: the first word of ``name size``, both of a pair ``gt, lq``."""
    lines = [line.strip() for line in _lines(path, where)]
    if not any(lines):
        raise OptionsError(f'{where}: {path} lists no image')
    if dataset['type'] == 'RealESRGANPairedDataset':
        for line in lines:
            if len(line.split(', ')) != 2:
                raise OptionsError(f'{where}: {path} has the line {line!r}, expected "gt, lq"')
        return [tuple(line.split(', ')) for line in lines]
    found = [line.split(' ')[0] for line in lines if line]
    _check_spaces(names(dataset[FOLDERS_OF[dataset['type']][0]]), lines, where, path)
    if dataset['type'] == 'PairedImageDataset':
        return [(name, _counterpart(dataset, name, where)) for name in found]
    return [(name,) for name in found]


def _check_spaces(folders: list[str], lines: list[str], where: str, path: str) -> None:
    """Refuse names with spaces: BasicSR takes the first word of a line, since a size may follow."""
    for line in lines:
        name = re.sub(r' \(\d+,.*$', '', line)
        if ' ' not in name:
            continue
        first = name.split(' ')[0]
        there = {entry: any(osp.isfile(osp.join(folder, entry)) for folder in folders) for entry in (first, name)}
        if there[name] and not there[first]:
            raise OptionsError(
                f'{where}: {path} lists {name!r}, of which BasicSR reads {first!r}, up to the space; rename the image'
            )


def _lines(path: str, where: str) -> list[str]:
    try:
        with open(path, encoding='utf-8-sig') as file:
            return file.readlines()
    except (OSError, UnicodeDecodeError):
        raise OptionsError(f'{where}: {path} cannot be read as a text file') from None


def _counterpart(dataset: dict[str, Any], name: str, where: str) -> str:
    """The name of the low-resolution image, as BasicSR derives it from the high-resolution one."""
    stem, ending = osp.splitext(osp.basename(name))
    template = dataset.get('filename_tmpl', '{}')
    try:
        return f'{template.format(stem)}{ending}'
    except (AttributeError, IndexError, KeyError, ValueError):
        raise OptionsError(
            f'{where.rsplit(".", 1)[0]}.filename_tmpl: expected a name with braces in it, such as '
            f"'{{}}x4', got {template!r}"
        ) from None


def _check_there(
    dataset: dict[str, Any], where: str, path: str, keys: tuple[str, ...], entries: list[tuple[str, ...]]
) -> None:
    missing = [
        (dataset[key], name)
        for entry in entries
        for key, name in zip(keys, entry)
        if not osp.isfile(osp.join(dataset[key], name))
    ]
    if missing:
        folder, name = missing[0]
        more = f', nor are {len(missing) - 1} others' if len(missing) > 1 else ''
        raise OptionsError(f'{where}: {path} lists {name}, which is not in {folder}{more}')


def _paired(dataset: dict[str, Any], where: str) -> list[tuple[str, ...]]:
    """Pairs by name, as BasicSR finds them in two folders."""
    gt, lq = (sorted(scandir(dataset[key])) for key in ('dataroot_gt', 'dataroot_lq'))
    for key, found in (('dataroot_gt', gt), ('dataroot_lq', lq)):
        if not found:
            raise OptionsError(f'{where}.{key}: there is no image in {dataset[key]}')
    entries: list[tuple[str, ...]] = [(name, _counterpart(dataset, name, f'{where}.filename_tmpl')) for name in gt]
    there = set(lq)
    alone = [entry for entry in entries if entry[1] not in there]
    if alone:
        name, wanted = alone[0]
        more = f', nor are those of {len(alone) - 1} others' if len(alone) > 1 else ''
        raise OptionsError(
            f'{where}.dataroot_lq: {name} of {dataset["dataroot_gt"]} has no counterpart: {wanted} is '
            f'not in {dataset["dataroot_lq"]}{more} (see filename_tmpl)'
        )
    if len(lq) != len(gt):
        extra = sorted(there - {entry[1] for entry in entries}) or lq
        raise OptionsError(
            f'{where}.dataroot_lq: {len(lq)} files for {len(gt)} in {dataset["dataroot_gt"]}; '
            f'{extra[0]} has no counterpart there'
        )
    return entries


def _check_databases(dataset: dict[str, Any], where: str, keys: tuple[str, ...]) -> Images:
    _check_importable('lmdb', f'{where}.io_backend.type: lmdb', 'the package lmdb')
    found = []
    for key in keys:
        folder = dataset[key]
        if not folder.endswith('.lmdb'):
            raise OptionsError(
                f'{where}.{key}: with io_backend lmdb BasicSR wants a folder NAME.lmdb, got {folder}; '
                'write type: disk for a folder of images'
            )
        for name in ('data.mdb', 'meta_info.txt'):
            if not osp.isfile(osp.join(folder, name)):
                raise OptionsError(f'{where}.{key}: {folder} is no LMDB data set of BasicSR: there is no {name} in it')
        entries = [line.split('.')[0] for line in _lines(osp.join(folder, 'meta_info.txt'), f'{where}.{key}')]
        if not any(entries):
            raise OptionsError(f'{where}.{key}: {osp.join(folder, "meta_info.txt")} lists no image')
        found.append(sorted(entries))
    if len(found) == 2 and set(found[0]) != set(found[1]):
        odd = sorted(set(found[0]) ^ set(found[1]))
        raise OptionsError(f'{where}: {odd[0]} is in one of {dataset["dataroot_gt"]} and {dataset["dataroot_lq"]} only')
    return Images(keys, [(key,) * len(keys) for key in found[0]])


def _check_importable(module: str, where: str, what: str) -> None:
    try:
        __import__(module)
    except Exception as error:  # a broken installation raises anything
        raise OptionsError(f'{where} needs {what}: {error}') from None
