"""The run of a benchmark: which cells are missing, who measures them, and what every process has found in the end."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import distributed as dist

from rsr_basicsr.benchmark.images import BenchmarkImage
from rsr_basicsr.benchmark.matrix import Cell, Matrix
from rsr_basicsr.benchmark.measure import Bench
from rsr_basicsr.benchmark.record import Record, Recorder, read_records
from rsr_basicsr.utils.errors import OptionsError
from rsr_basicsr.utils.files import write_whole
from rsr_basicsr.utils.progress import progress_bar

OPTIONS = 'options.json'  # what was measured, for those who read the results
_PATIENCE = datetime.timedelta(days=30)  # of a process for the others: a cell may take an hour


def run_benchmark(
    options: Mapping[str, Any], images: Sequence[BenchmarkImage], folder: Path, progress: bool = True
) -> list[Record]:
    """Measure what is missing of a matrix, and return the records of all its cells, in their order.

    Every process of a launcher calls this; the cells are shared among them, and the first one returns all records. The
    result of a cell does not depend on which process measures it.

    Args:
        options, images: as :func:`rsr_basicsr.benchmark.options.check_benchmark` returns them.
        folder: where the records are kept, and looked for.
        progress: show a bar on stderr.

    Raises:
        OptionsError: the folder cannot be made.
    """
    rank, world = _place()
    device = _device(options)
    if device.type == 'cpu':
        torch.set_num_threads(options['threads'])
        cv2.setNumThreads(1)
    try:
        recorder = Recorder(folder, rank)
    except OSError as error:
        raise OptionsError(f'-o {folder}: {error.strerror}; name another folder') from error
    with contextlib.closing(recorder):
        if is_first():
            keep_options(folder, options)  # at the start: what is left of a killed run can be read, too
        matrix = Matrix(options, list(images), device)
        missing = _missing(
            matrix.cells,
            _of_all({record.key: bool(record.shown) for record in read_records(folder) if not record.error}),
        )
        bench = Bench(matrix, recorder)
        for cell in _with_bar(missing[rank::world], matrix.cells, world, progress and rank == 0):
            recorder.append(bench.measure(cell))
        return _gathered(matrix, folder, recorder)


@contextlib.contextmanager
def launched(launcher: str) -> Iterator[None]:
    """Within the block the processes of a launcher know of each other."""
    if launcher == 'none':
        if os.environ.get('WORLD_SIZE', '1') != '1':
            raise OptionsError(
                f'WORLD_SIZE is {os.environ["WORLD_SIZE"]}, but the processes would not know of each '
                'other; add --launcher pytorch'
            )
        yield
        return
    if 'RANK' not in os.environ:
        raise OptionsError(
            '--launcher pytorch: RANK is not set; start with: torchrun --nproc_per_node=N -m '
            'rsr_basicsr.cli benchmark -opt FILE --launcher pytorch'
        )
    dist.init_process_group('gloo', timeout=_PATIENCE)  # what is sent are records, not gradients
    try:
        yield
        # A launcher ends all processes when one has trouble leaving, and the first one writes the report last. Should
        # it fail, it says why: the others have nothing to add.
        with contextlib.nullcontext() if is_first() else contextlib.suppress(RuntimeError):
            dist.barrier()
    finally:
        dist.destroy_process_group()


def is_first() -> bool:
    """Whether this process is the one that reports."""
    return _place()[0] == 0


def _place():
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _device(options):
    if options['num_gpu'] == 0 or not torch.cuda.is_available():
        return torch.device('cpu')
    device = torch.device('cuda', int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False  # a cell gives one result
    return device


def _missing(cells, done) -> list[Cell]:
    """What is still to be measured, in an order that gives every process a like share of each kind.

    By the digest, which is as good as by lot, but the same everywhere.

    Args:
        cells: of the matrix.
        done: of each process the keys of what it has, and whether there are images of it.
    """
    there = {key for keys in done for key in keys}
    drawn = {key for keys in done for key, has_images in keys.items() if has_images}
    return sorted(
        {cell.key: cell for cell in cells if cell.key not in (drawn if cell.shown else there)}.values(),
        key=lambda cell: cell.key,
    )


def _with_bar(mine, cells, world, shown):
    """The cells of this process in the order of the matrix, with the time that is left."""
    place = {cell.key: index for index, cell in enumerate(cells)}
    mine = sorted(mine, key=lambda cell: place[cell.key])
    total = sum(cell.cost for cell in mine)
    with progress_bar(
        total=100,
        disable=not (shown and mine),
        bar_format='{desc} {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]{postfix}',
    ) as bar:
        for number, cell in enumerate(mine):
            bar.set_description(
                f'cell {number + 1} of {len(mine)}' + (f' (of {world} processes)' if world > 1 else ''), refresh=False
            )
            bar.set_postfix_str(
                f'{cell.network}, {cell.defense}, {cell.attack}'
                + (f' {cell.eps:g}' if cell.eps else '')
                + f', {cell.image.name}',
                refresh=sys.stderr.isatty(),
            )
            yield cell
            bar.update(min(100 * cell.cost / total, 100 - bar.n))


def _of_all(value) -> list[Any]:
    """What each process has."""
    if not dist.is_initialized():
        return [value]
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def _gathered(matrix: Matrix, folder: Path, recorder: Recorder) -> list[Record]:
    """The records of all cells, with the names and facts of now; processes elsewhere send theirs to the first."""
    if dist.is_initialized():
        dist.barrier()  # who is done first must not read before the others have written
    records = {record.key: record for record in read_records(folder)}
    if dist.is_initialized():
        _fetch(records, folder, recorder)
    named = []
    for cell in matrix.cells:
        now = {
            'network': cell.network,
            'defense': cell.defense,
            'attack': cell.attack,
            'eps': cell.eps,
            'dataset': cell.image.dataset,
            'image': cell.image.name,
            'facts': matrix.facts[cell.network],
            'attack_options': matrix.options['attacks'].get(cell.attack, {}),
        }
        lost = Record(key=cell.key, **now, error='no process has measured it; give the same command again')
        named.append(Record(**{**vars(records.get(cell.key, lost)), **now}))
    return named


def _fetch(records, folder, recorder):
    """Bring home what machines have that do not share the folder."""
    known = _of_all(sorted(key for key, record in records.items() if not record.error))
    mine = (
        [
            {'record': record, 'files': {path: (folder / path).read_bytes() for path in record.shown.values()}}
            for key, record in records.items()
            if key not in known[0]
        ]
        if dist.get_rank()
        else []
    )
    for sent in _of_all(mine):
        for parcel in sent if dist.get_rank() == 0 else ():
            record = parcel['record']
            if record.key not in records or records[record.key].error and not record.error:
                for path, content in parcel['files'].items():
                    (folder / path).write_bytes(content)
                records[record.key] = record
                recorder.append(record)


def keep_options(folder: Path, options: Mapping[str, Any]) -> None:
    """Write beside the records what they were made with."""
    write_whole(folder / OPTIONS, json.dumps(dict(options), indent=1).encode())
