"""Run a benchmark: find the missing cells, share them among processes, and gather the records."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

OPTIONS_FILE = 'options.json'  # the options of the run, beside its records
_TIMEOUT = datetime.timedelta(days=30)  # of a process that waits for others: a cell may take an hour


def run_benchmark(
    options: Mapping[str, Any], images: Sequence[BenchmarkImage], folder: Path, progress: bool = True
) -> list[Record]:
    """Measure the missing cells of a matrix, and return the records of all cells in their order.

    Every process of a launcher calls this; the cells are shared among them, and the first process returns all
    records. The result of a cell does not depend on the process that measures it.

    Args:
        options, images: as returned by :func:`rsr_basicsr.benchmark.options.check_benchmark`.
        folder: folder of the records; cells that are already there are not measured again.
        progress: show a progress bar on stderr.

    Raises:
        OptionsError: the folder cannot be created.
    """
    rank, world = _rank_and_world_size()
    device = prepared_device(options)
    try:
        recorder = Recorder(folder, rank)
    except OSError as error:
        raise OptionsError(f'-o {folder}: {error.strerror}; name another folder') from error
    with contextlib.closing(recorder):
        if is_first():
            keep_options(folder, options)  # at the start, so that a killed run can be merged too
        matrix = Matrix(options, list(images), device)
        missing = _missing(
            matrix.cells,
            _all_gathered({record.key: bool(record.gallery) for record in read_records(folder) if not record.error}),
        )
        bench = Bench(matrix, recorder)
        for cell in _with_bar(missing[rank::world], matrix.cells, world, progress and rank == 0):
            recorder.append(bench.measure(cell))
        return _gathered(matrix, folder, recorder)


@contextlib.contextmanager
def launched(launcher: str) -> Iterator[None]:
    """Initialise the process group of a launcher within the block."""
    if launcher == 'none':
        if os.environ.get('WORLD_SIZE', '1') != '1':
            raise OptionsError(
                f'WORLD_SIZE is {os.environ["WORLD_SIZE"]}, but the processes would not share the work; '
                'add --launcher pytorch'
            )
        yield
        return
    if 'RANK' not in os.environ:
        raise OptionsError(
            '--launcher pytorch: RANK is not set; start with: torchrun --nproc_per_node=N -m '
            'rsr_basicsr.cli benchmark -opt FILE --launcher pytorch'
        )
    dist.init_process_group('gloo', timeout=_TIMEOUT)  # gloo: records are sent, not gradients
    try:
        yield
        # The launcher kills all processes when one exits with an error, and the first process writes the report last.
        # If the first one fails, it reports the reason; the others ignore the broken barrier.
        with contextlib.nullcontext() if is_first() else contextlib.suppress(RuntimeError):
            dist.barrier()
    finally:
        dist.destroy_process_group()


def is_first() -> bool:
    """Whether this process writes the report."""
    return _rank_and_world_size()[0] == 0


def _rank_and_world_size() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def prepared_device(options: Mapping[str, Any]) -> torch.device:
    """The device of this process for the networks of a benchmark, with torch set up for repeatable results."""
    if options['num_gpu'] == 0 or not torch.cuda.is_available():
        torch.set_num_threads(options['threads'])
        cv2.setNumThreads(1)
        return torch.device('cpu')
    device = torch.device('cuda', int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False  # for repeatable results
    return device


def _missing(cells: Iterable[Cell], done: Iterable[Mapping[str, bool]]) -> list[Cell]:
    """The cells that still have to be measured.

    Ordered by digest: effectively random, so that every process gets a similar mix, but identical on every rank.

    Args:
        cells: cells of the matrix.
        done: for each process: key of a measured cell -> whether it has images for the gallery.
    """
    measured = {key for keys in done for key in keys}
    with_images = {key for keys in done for key, has_images in keys.items() if has_images}
    return sorted(
        {cell.key: cell for cell in cells if cell.key not in (with_images if cell.in_gallery else measured)}.values(),
        key=lambda cell: cell.key,
    )


def _with_bar(mine: Iterable[Cell], cells: Iterable[Cell], world: int, progress: bool) -> Iterator[Cell]:
    """The cells of this process in the order of the matrix, with a progress bar."""
    place = {cell.key: index for index, cell in enumerate(cells)}
    mine = sorted(mine, key=lambda cell: place[cell.key])
    total = sum(cell.cost for cell in mine)
    with progress_bar(
        total=100,
        disable=not (progress and mine),
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


def _all_gathered(value: Any) -> list[Any]:
    """The values of all processes, by rank."""
    if not dist.is_initialized():
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def _gathered(matrix: Matrix, folder: Path, recorder: Recorder) -> list[Record]:
    """The records of all cells under their current names; processes on other machines send theirs to the first."""
    if dist.is_initialized():
        dist.barrier()  # do not read before the other processes have written
    records = {record.key: record for record in read_records(folder)}
    if dist.is_initialized():
        _fetch(records, folder, recorder)
    named = []
    for cell in matrix.cells:
        current = {
            'network': cell.network,
            'defense': cell.defense,
            'attack': cell.attack,
            'eps': cell.eps,
            'dataset': cell.image.dataset,
            'image': cell.image.name,
            'facts': matrix.facts[cell.network],
            'attack_options': matrix.options['attacks'].get(cell.attack, {}),
        }
        lost = Record(key=cell.key, **current, error='no process has measured it; run the same command again')
        named.append(Record(**{**vars(records.get(cell.key, lost)), **current}))
    return named


def _fetch(records: dict[str, Record], folder: Path, recorder: Recorder) -> None:
    """Copy records and gallery images from machines that do not share the folder to the first process."""
    known = _all_gathered(sorted(key for key, record in records.items() if not record.error))
    mine = (
        [
            {'record': record, 'files': {path: (folder / path).read_bytes() for path in record.gallery.values()}}
            for key, record in records.items()
            if key not in known[0]
        ]
        if dist.get_rank()
        else []
    )
    for sent in _all_gathered(mine):
        for parcel in sent if dist.get_rank() == 0 else ():
            record = parcel['record']
            if record.key not in records or (records[record.key].error and not record.error):
                for path, content in parcel['files'].items():
                    (folder / path).write_bytes(content)
                records[record.key] = record
                recorder.append(record)


def keep_options(folder: Path, options: Mapping[str, Any]) -> None:
    """Write the options of a run beside its records."""
    write_whole(folder / OPTIONS_FILE, json.dumps(dict(options), indent=1).encode())
