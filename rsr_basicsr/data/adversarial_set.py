"""Pairs of clean and attacked images on disk: two LMDB data sets that BasicSR's readers take, and a table of facts.

``FOLDER/clean.lmdb`` and ``FOLDER/attacked.lmdb`` have the same keys, so that they also serve as ``dataroot_gt`` and
``dataroot_lq`` of BasicSR's PairedImageDataset; ``FOLDER/facts.jsonl`` has a line a key.
"""

from __future__ import annotations

import concurrent.futures.process
import hashlib
import importlib
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from basicsr.utils.lmdb_util import LmdbMaker

from rsr_basicsr.data.adversarial_images import AdversarialImages, fingerprint
from rsr_basicsr.data.clean_images import read_photo
from rsr_basicsr.utils.errors import OptionsError, WorkerError
from rsr_basicsr.utils.files import write_whole
from rsr_basicsr.utils.progress import progress_bar

SIDES = ('clean', 'attacked')
FACTS = 'facts.jsonl'

_PARTS = 'parts'  # one file an image while the set is being made
_COMPRESSION = 1  # of PNG, as in BasicSR's own scripts
_images: AdversarialImages | None = None  # of a worker process


def write_adversarial_set(
    options: Mapping[str, Any], folder: Path, workers: int = 1, progress: bool = True, imports: Sequence[str] = ()
) -> int:
    """Make the pairs that are not there yet, and pack all of them.

    What was made stays when the run is killed, and the next one goes on from there. The result does not depend on the
    number of workers, each of which computes with one thread.

    Args:
        options: arguments of :class:`AdversarialImages`, plain values that a worker can be sent.
        folder: where the data sets go; one that holds others is refused.
        workers: number of processes; 0 makes the pairs in this one.
        progress: show a bar on stderr.
        imports: modules that each worker imports first, since they register architectures.

    Returns:
        The number of pairs that were made now.

    Raises:
        OptionsError: the folder belongs to other options.
    """
    parts = folder / _PARTS
    _claim(folder, options)
    made = {path.name[: -len('.json')] for path in parts.glob('*.json')}  # written last of each pair
    missing = [index for index in range(options['count']) if _key(index) not in made]
    with progress_bar(total=len(missing), unit='image', disable=not progress) as bar:
        for _ in _made(options, parts, missing, workers, imports):
            bar.update()
    keys = [_key(index) for index in range(options['count'])]
    for side in SIDES if options.get('networks') else SIDES[:1]:
        if _packed(folder / f'{side}.lmdb') != keys:
            (folder / FACTS).unlink(missing_ok=True)  # what makes a set a finished one
            _pack(parts, side, keys, folder / f'{side}.lmdb')
    write_whole(folder / FACTS, ''.join(f'{(parts / f"{key}.json").read_text()}\n' for key in keys).encode())
    return len(missing)


def read_facts(folder: Path) -> list[dict[str, Any]]:
    """The facts of each pair: ``key``, and those of :class:`Pair`.

    Raises:
        OptionsError: the folder holds no finished set.
    """
    path = Path(folder) / FACTS
    try:
        return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
    except (OSError, ValueError) as error:
        raise OptionsError(
            f'{folder} is not a finished adversarial set ({error}); make one with: rsr adversarial-set -opt FILE'
        ) from error


def _claim(folder, options):
    """Refuse a folder that was begun with other options."""
    mine = hashlib.sha256(fingerprint(options).encode()).hexdigest()
    claim = folder / 'fingerprint.txt'
    if folder.exists() and not folder.is_dir():
        raise OptionsError(f'{folder} is a file; give a folder')
    if claim.is_file():
        if claim.read_text().strip() != mine:
            raise OptionsError(
                f'{folder} holds pairs of other options, weights or photos; give another folder, or delete it'
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise OptionsError(f'{folder} is not empty and not an adversarial set; give another folder')
    else:
        for photo in options['photos']:
            read_photo(photo)  # a broken one that is found later could not be taken out without a new set
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(claim, f'{mine}\n'.encode())
    (folder / _PARTS).mkdir(exist_ok=True)


def _made(options, parts, indices, workers, imports) -> Iterable[None]:
    if not indices:
        return
    if not workers:
        yield from _made_here(options, parts, indices)
        return
    # Not forked: a copy of a process with threads of OpenMP in it can hang.
    context = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(
        workers, context, _start_worker, (dict(options), sys.path, list(imports))
    ) as pool:
        jobs = [pool.submit(_make, str(parts), index) for index in indices]
        try:
            for job in concurrent.futures.as_completed(jobs):
                yield job.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise WorkerError(
                'a process that makes pairs has ended, perhaps for want of memory; run the same command '
                'again with fewer --workers, it goes on where it was'
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _made_here(options, parts, indices):
    global _images
    threads = torch.get_num_threads(), cv2.getNumThreads()
    _start_worker(options, sys.path, ())
    try:
        for index in indices:
            yield _make(parts, index)
    finally:
        _images = None
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def _start_worker(options, path, imports):
    global _images
    sys.path[:] = path
    for name in imports:
        importlib.import_module(name)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _images = AdversarialImages(**options)


def _make(parts: str, index: int) -> None:
    pair = _images[index]
    key = _key(index)
    for side in SIDES if pair.attacked is not None else SIDES[:1]:
        bgr = cv2.cvtColor(getattr(pair, side), cv2.COLOR_RGB2BGR)
        _, code = cv2.imencode('.png', bgr, [cv2.IMWRITE_PNG_COMPRESSION, _COMPRESSION])
        write_whole(Path(parts) / f'{key}.{side}.png', code.tobytes())
    write_whole(Path(parts) / f'{key}.json', json.dumps({'key': key, **pair.facts}).encode())


def _key(index):
    return f'{index:08d}'


def _packed(target):
    """The keys that a data set has."""
    meta_info = target / 'meta_info.txt'
    return [line.split('.')[0] for line in meta_info.read_text().splitlines()] if meta_info.is_file() else []


def _pack(parts, side, keys, target):
    """An LMDB data set with the meta information that BasicSR reads."""
    aside = target.with_name(f'packing_{target.name}')
    shutil.rmtree(aside, ignore_errors=True)
    codes = [(parts / f'{key}.{side}.png').read_bytes() for key in keys]
    # Room for the pages of the tree too; LMDB's file is sparse where it can be.
    maker = LmdbMaker(str(aside), map_size=4 * sum(map(len, codes)) + 2**24, compress_level=_COMPRESSION)
    for key, code in zip(keys, codes):
        height, width = (int.from_bytes(code[start : start + 4], 'big') for start in (20, 16))
        maker.put(code, key, (height, width, 3))
    maker.close()
    shutil.rmtree(target, ignore_errors=True)
    os.replace(aside, target)
