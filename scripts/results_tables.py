"""Print runs of rsr benchmark as the tables of docs/results.md: worst cases of each eps, and against blends as sharp.

    python scripts/results_tables.py results/benchmark results/attacks

For each data set of each run: a table of the networks as they are; one with the attacks of the largest eps one by one;
and, where the run has a block plane, one that sets each network beside the blend of the reference with bicubic
interpolation that is as sharp, with paired differences, reference minus network.
"""

from __future__ import annotations

import rsr_basicsr  # noqa: F401  # isort: skip  (it makes ``import basicsr`` possible on new torchvision)

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rsr_basicsr.benchmark.names import CLEAN, STABILITY, WORST_CASE
from rsr_basicsr.benchmark.plane import Plane
from rsr_basicsr.benchmark.record import read_records
from rsr_basicsr.benchmark.report.tables import gain_of, signed, written
from rsr_basicsr.benchmark.run import OPTIONS_FILE
from rsr_basicsr.benchmark.summary import MetricEstimate, Results, Subject
from rsr_basicsr.utils.markdown import markdown_table

Lines = list[list[str]]


def main() -> int:
    """Print the tables, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('folders', nargs='+', type=Path, metavar='FOLDER', help='of rsr benchmark -o')
    for folder in parser.parse_args().folders:
        results = results_of(folder)
        plane = Plane.of(results)
        for dataset in results.datasets:
            count = len({record.image for record in results.records if record.dataset == dataset})
            print(f'\n{folder.name}: {dataset}, {count} images, as they are\n')
            print(markdown_table(as_they_are(results, dataset)))
            print(f'\nattack by attack, eps {results.strengths[-1]:g}\n')
            print(markdown_table(by_attack(results, dataset, results.strengths[-1])))
            if plane and dataset in plane.datasets:
                print(f'\nbeside the blend of {plane.reference} that is as sharp\n')
                print(markdown_table(beside_blends(plane, dataset)), flush=True)
    return 0


def results_of(folder: Path) -> Results:
    """The results of a run of rsr benchmark."""
    return Results(read_records(folder), json.loads((folder / OPTIONS_FILE).read_text(encoding='utf-8')))


def as_they_are(results: Results, dataset: str) -> Lines:
    """All metrics of clean images, and under the worst attack of each eps by that metric."""
    names = [name for name in results.metrics if name != STABILITY]
    head = ['network', *names]
    head += [f'{name} eps {eps:g}' for eps in reversed(results.strengths) for name in [*names, STABILITY]]
    lines = [head]
    for subject in results.subjects(dataset):
        clean = results.row(dataset, subject, CLEAN, 0)
        cells = [subject.label, *(shown(results, name, clean.estimates.get(name)) for name in names)]
        for eps in reversed(results.strengths):
            row = results.row(dataset, subject, WORST_CASE, eps)
            cells += [shown(results, name, row.estimates.get(name), eps) for name in [*names, STABILITY]]
        lines.append(cells)
    return lines


def by_attack(results: Results, dataset: str, eps: float) -> Lines:
    """Stability and the first other metric under each attack, and what the detector flags."""
    first = next(name for name in results.metrics if name != STABILITY)
    subjects = results.subjects(dataset)
    lines = [['attack', *(f'{subject.label}: {name}' for subject in subjects for name in (STABILITY, first))]]
    for attack in results.attacks:
        cells = [attack]
        for subject in subjects:
            row = results.row(dataset, subject, attack, eps)
            flagged = '' if row.flagged is None else f' ({row.flagged:.0%} flagged)'
            cells.append(shown(results, STABILITY, row.estimates.get(STABILITY)) + flagged)
            cells.append(shown(results, first, row.estimates.get(first)))
        lines.append(cells)
    return lines


def beside_blends(plane: Plane, dataset: str) -> Lines:
    """Each network, at each eps the blend of the reference that is as sharp, and the paired difference."""
    metrics = [name for name in plane.metrics if name != plane.consistency]
    lines = [['network', 'clean', 'alpha', *(f'{n} eps {e:g}' for e in plane.results.strengths[::-1] for n in metrics)]]
    return [*lines, *([each.label, *beside_blend(plane, dataset, each, metrics)] for each in plane.points(dataset))]


def beside_blend(plane: Plane, dataset: str, subject: Subject, metrics: Sequence[str]) -> Iterator[str]:
    """The cells of :func:`beside_blends` of a network behind a defence."""
    sharpness = plane.against_blends(dataset, subject, plane.results.strengths[-1])
    yield f'{sharpness.level:.3f}'
    yield sharpness.problem or f'{sharpness.alpha or 0:.2f}'
    for eps in reversed(plane.results.strengths):
        blend = plane.against_blends(dataset, subject, eps)
        for name in metrics:
            own = plane.values(dataset, subject, eps, name)
            block, difference = plane.results.metrics[name], blend.difference(name, own)
            if difference is None:
                yield ''
                continue
            interval = f'[{signed(block, difference.low)}, {signed(block, difference.high)}]'
            found = shown(plane.results, name, blend.estimate(name), eps)
            yield f'{found}: {signed(block, difference.mean)} {interval}'


def shown(results: Results, metric: str, found: MetricEstimate | None, eps: float = 0) -> str:
    """A mean as the reports write it, stability with its gain; a dash where nothing was measured."""
    if found is None:
        return '-'
    gain = f' {gain_of(found.mean, eps)}' if metric == STABILITY and eps else ''
    return written(results.metrics[metric], found.mean) + gain


if __name__ == '__main__':
    sys.exit(main())
