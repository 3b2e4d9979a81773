"""Adversarial sets on disk: pairs of clean and attacked images as two LMDB data sets, and their facts.

``FOLDER/clean.lmdb`` and ``FOLDER/attacked.lmdb`` have the same keys and so also serve as ``dataroot_gt`` and
``dataroot_lq`` of BasicSR's PairedImageDataset; ``FOLDER/facts.jsonl`` has one line per key.
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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import lmdb
import torch
from basicsr.utils.lmdb_util import LmdbMaker

from rsr_basicsr.data.adversarial_images import AdversarialImages, fingerprint
from rsr_basicsr.data.clean_images import read_photo
from rsr_basicsr.utils.errors import OptionsError, WorkerError, in_one_line
from rsr_basicsr.utils.files import read_text, remove_leftovers, write_whole
from rsr_basicsr.utils.progress import progress_bar
from rsr_basicsr.utils.untrusted import untrusted_json

SIDES = ('clean', 'attacked')
FACTS = 'facts.jsonl'

_PARTS = 'parts'  # subfolder with one file per image
_COMPRESSION = 1  # of PNG, as in BasicSR's scripts
_images: AdversarialImages | None = None  # per worker process


def write_adversarial_set(
    options: Mapping[str, Any],
    folder: Path,
    workers: int = 1,
    progress: bool = True,
    imports: Sequence[str] = (),
    device: str = 'cpu',
) -> int:
    """Generate the missing pairs and pack all of them.

    A killed run is continued by the next one. The result does not depend on the number of workers, each of which
    uses one thread.

    Args:
        options: arguments of :class:`AdversarialImages`, as plain values that can be sent to workers.
        folder: output folder.
        workers: number of processes; 0 generates the pairs in this process.
        progress: show a progress bar on stderr.
        imports: modules that each worker imports first to register architectures.
        device: of the networks under attack. Another kind of device makes another set, in a folder of its own.

    Returns:
        The number of pairs generated now.

    Raises:
        OptionsError: the folder is not empty and was not written with the same options.
        WorkerError: a worker process ended early.
    """
    options = {**options, 'device': device}
    parts = folder / _PARTS
    _claim(folder, options)
    for place in (folder, parts):
        remove_leftovers(place)
    # The last file of each pair; a damaged one is made again.
    made = {path.stem: line for path in parts.glob('*.json') if (line := _whole_line(path)) is not None}
    missing = [index for index in range(options['count']) if _key(index) not in made]
    with progress_bar(total=len(missing), unit='image', disable=not progress) as bar:
        for _ in _made(options, parts, missing, workers, imports):
            bar.update()
    keys = [_key(index) for index in range(options['count'])]
    for side in SIDES if options.get('networks') else SIDES[:1]:
        if _packed(folder / f'{side}.lmdb') != keys:
            (folder / FACTS).unlink(missing_ok=True)  # its presence marks a finished set
            _pack(parts, side, keys, folder / f'{side}.lmdb')
    lines = [made[key] if key in made else read_text(parts / f'{key}.json') for key in keys]
    write_whole(folder / FACTS, ''.join(f'{line}\n' for line in lines).encode())
    return len(missing)


def read_facts(folder: Path) -> list[dict[str, Any]]:
    """Read ``key`` and the facts of each :class:`Pair` of a set.

    Raises:
        OptionsError: the folder is not a finished set.
    """
    path = Path(folder) / FACTS
    try:
        return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
    except (OSError, ValueError) as error:
        raise OptionsError(
            f'{folder} is not a finished adversarial set ({error}); make one with: rsr adversarial-set -opt FILE'
        ) from error


def _whole_line(path: Path) -> str | None:
    """The facts of a pair as they were written; None if the file is damaged."""
    try:
        line = read_text(path)
        facts = untrusted_json(line)
    except (OSError, ValueError):
        return None
    return line if isinstance(facts, dict) and facts.get('key') == path.stem else None


def _claim(folder: Path, options: Mapping[str, Any]) -> None:
    """Mark the folder with these options; refuse one marked with others."""
    mine = hashlib.sha256(fingerprint(options).encode()).hexdigest()
    claim = folder / 'fingerprint.txt'
    if folder.exists() and not folder.is_dir():
        raise OptionsError(f'{folder} is a file; give a folder')
    if claim.is_file():
        if claim.read_text(encoding='utf-8').strip() != mine:
            raise OptionsError(
                f'{folder} holds pairs of other options, weights or photos, or of another device; give another folder, '
                'or delete it'
            )
    elif folder.is_dir() and any(not entry.name.startswith('.') for entry in folder.iterdir()):
        raise OptionsError(f'{folder} is not empty and not an adversarial set; give another folder')
    else:
        for photo in options['photos']:
            read_photo(photo)  # early: removing a broken photo later changes the fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(claim, f'{mine}\n'.encode())
    (folder / _PARTS).mkdir(exist_ok=True)


def _made(
    options: Mapping[str, Any], parts: Path, indices: Sequence[int], workers: int, imports: Sequence[str]
) -> Iterator[None]:
    """Generate pairs, in worker processes if there are any; yields once per pair."""
    if not indices:
        return
    if not workers:
        yield from _made_here(options, parts, indices)
        return
    # Spawned, since a fork of a process with OpenMP threads can hang.
    context = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(
        workers, context, _start_worker, (dict(options), sys.path, list(imports))
    ) as pool:
        jobs = [pool.submit(_make, parts, index) for index in indices]
        try:
            for job in concurrent.futures.as_completed(jobs):
                job.result()
                yield
        except concurrent.futures.process.BrokenProcessPool as error:
            raise WorkerError(
                'a worker process ended early, perhaps out of memory; run the same command again with fewer --workers, '
                'it continues where it stopped'
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _made_here(options: Mapping[str, Any], parts: Path, indices: Sequence[int]) -> Iterator[None]:
    """Generate pairs in this process, with one thread."""
    global _images
    threads = torch.get_num_threads(), cv2.getNumThreads()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    _start_worker(options, sys.path, ())
    try:
        for index in indices:
            _make(parts, index)
            yield
    finally:
        _images = None
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn


def _start_worker(options: Mapping[str, Any], path: Sequence[str], imports: Sequence[str]) -> None:
    global _images
    sys.path[:] = path
    for name in imports:
        importlib.import_module(name)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    _images = AdversarialImages(**options)


def _make(parts: Path, index: int) -> None:
    """Write the images and the facts of a pair."""
    assert _images is not None, '_start_worker comes first'
    pair = _images[index]
    key = _key(index)
    for side in SIDES if pair.attacked is not None else SIDES[:1]:
        bgr = cv2.cvtColor(getattr(pair, side), cv2.COLOR_RGB2BGR)
        _, code = cv2.imencode('.png', bgr, [cv2.IMWRITE_PNG_COMPRESSION, _COMPRESSION])
        write_whole(parts / f'{key}.{side}.png', code.tobytes())
    write_whole(parts / f'{key}.json', json.dumps({'key': key, **pair.facts}).encode())


def _key(index: int) -> str:
    return f'{index:08d}'


def _packed(target: Path) -> list[str]:
    """The keys in an LMDB data set; none if it does not exist."""
    meta_info = target / 'meta_info.txt'
    return (
        [line.split('.')[0] for line in meta_info.read_text(encoding='utf-8').splitlines()]
        if meta_info.is_file()
        else []
    )


def _pack(parts: Path, side: str, keys: Sequence[str], target: Path) -> None:
    """Write an LMDB data set with the meta information that BasicSR reads.

    Raises:
        WorkerError: LMDB cannot write it, as on a full disk; the pairs are kept.
    """
    aside = target.with_name(f'packing_{target.name}')
    shutil.rmtree(aside, ignore_errors=True)
    codes = [(parts / f'{key}.{side}.png').read_bytes() for key in keys]
    # With room for the pages of the tree; LMDB's file is sparse where the file system allows.
    try:
        maker = LmdbMaker(str(aside), map_size=4 * sum(map(len, codes)) + 2**24, compress_level=_COMPRESSION)
        for key, code in zip(keys, codes):
            height, width = (int.from_bytes(code[start : start + 4], 'big') for start in (20, 16))
            maker.put(code, key, (height, width, 3))
        maker.close()
    except lmdb.Error as error:
        raise WorkerError(
            f'{target} cannot be written ({in_one_line(error)}); make room, and run the same command again'
        ) from None
    shutil.rmtree(target, ignore_errors=True)
    os.replace(aside, target)
