"""Tables of the page: columns of cells that the template renders and that the reader can sort."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rsr_basicsr.benchmark.report.gallery import NO_VALUE
from rsr_basicsr.benchmark.report.tables import gain_of, unit, written
from rsr_basicsr.benchmark.summary import MetricEstimate, ResultRow, Results
from rsr_basicsr.metrics.inputs import is_higher_better


class TableCell(NamedTuple):
    """Text of a cell, the value that sorts it (None if empty), and a note below the text."""

    text: str = NO_VALUE
    value: float | str | None = None
    note: str = ''
    best: bool = False


class Column(NamedTuple):
    """A column and its heading; ``better`` is ``higher``, ``lower`` or empty."""

    name: str
    cells: list[TableCell]
    group: str = ''
    unit: str = ''
    better: str = ''
    text: bool = False  # sorted alphabetically
    first: bool = False  # first column of its group


def table(columns: Sequence[Column]) -> dict[str, Any]:
    """The columns for the template, without empty ones; the first one names the rows."""
    kept = [
        column
        for number, column in enumerate(columns)
        if not number or any(cell.value is not None for cell in column.cells)
    ]
    kept = [
        column._replace(first=bool(column.group) and column.group != before.group)
        for before, column in zip([kept[0], *kept], kept)
    ]
    groups = [(group, len(list(members))) for group, members in itertools.groupby(kept, lambda column: column.group)]
    rows = list(zip(*(column.cells for column in kept)))
    return {'columns': kept, 'groups': groups, 'rows': rows}


def text_column(name: str, texts: Sequence[str], notes: Sequence[str] | None = None) -> Column:
    """A column of texts with a note below each."""
    return Column(
        name,
        [TableCell(text or NO_VALUE, text or None, note) for text, note in zip(texts, notes or itertools.repeat(''))],
        text=True,
    )


def number_column(
    name: str,
    values: Sequence[float | None],
    show: Callable[[float], str],
    notes: Sequence[str] | None = None,
    *,
    group: str = '',
    unit: str = '',
    better: str = '',
) -> Column:
    """A column of numbers, formatted by ``show``, with a note below each."""
    return Column(
        name,
        [
            TableCell() if value is None else TableCell(show(value), value, note)
            for value, note in zip(values, notes or itertools.repeat(''))
        ],
        group,
        unit,
        better,
    )


def metric_column(
    results: Results,
    metric: str,
    rows: Sequence[ResultRow | None],
    name: str = '',
    intervals: bool = False,
    figure: str = 'mean',
    group: str = '',
    better: str | None = None,
) -> Column:
    """A column with one attribute of a metric's estimates, ``figure``; ``better`` is the metric's by default."""
    options = results.metrics[metric]
    show = functools.partial(written, options)
    found = [row.estimates.get(metric) if row else None for row in rows]
    notes = [noted(options, e, row.eps if row else 0) if intervals and e else '' for e, row in zip(found, rows)]
    return number_column(
        name or metric,
        [None if e is None else getattr(e, figure) for e in found],
        show,
        notes,
        group=group,
        unit=unit(options),
        better=better_end(results, metric) if better is None else better,
    )


def noted(options: Mapping[str, Any], found: MetricEstimate, eps: float) -> str:
    """The interval of a metric's estimate, and the gain of a stability under an attack of that eps."""
    interval = f'[{written(options, found.low)}, {written(options, found.high)}]' if found.count > 1 else ''
    gain = gain_of(found.mean, eps) if options['type'] == 'calculate_stability' and eps else ''
    return ' '.join(filter(None, (interval, gain)))


def with_best(column: Column) -> Column:
    """The column with its best cells marked, unless all cells are equal."""
    values: list[Any] = [cell.value for cell in column.cells if cell.value is not None]
    if not column.better or len({cell.text for cell in column.cells if cell.value is not None}) < 2:
        return column
    best = next(cell.text for cell in column.cells if cell.value == (max if column.better == 'higher' else min)(values))
    return column._replace(cells=[cell._replace(best=cell.text == best) for cell in column.cells])


def better_end(results: Results, metric: str) -> str:
    """Whether ``higher`` or ``lower`` values of a metric are better."""
    return 'higher' if is_higher_better(results.metrics[metric]) else 'lower'


def percentage(value: float) -> str:
    """Format a share in per cent."""
    return f'{100 * value:.3g} %'
