"""The section of the page about robustness at equal sharpness: tables and charts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from rsr_basicsr.benchmark.names import STABILITY
from rsr_basicsr.benchmark.plane import LevelResult, Plane
from rsr_basicsr.benchmark.report import charts
from rsr_basicsr.benchmark.report.columns import (
    Column,
    TableCell,
    better_end,
    noted,
    number_column,
    table,
    text_column,
    with_best,
)
from rsr_basicsr.benchmark.report.equal_sharpness import (
    BlendRow,
    about,
    blend_rows,
    headings,
    level_rows,
    no_rows,
    title_of,
)
from rsr_basicsr.benchmark.report.plane_charts import sharpness
from rsr_basicsr.benchmark.report.tables import signed, unit, written
from rsr_basicsr.benchmark.summary import MetricEstimate, Results

_AS_IT_IS = 'as it is'


def equal_sharpness_section(results: Results) -> dict[str, Any] | None:
    """The data of the section for the template; None without a plane."""
    plane = Plane.of(results)
    if plane is None:
        return None
    return {
        'about': about(plane),
        'reference': plane.reference,
        'parts': [
            {
                'name': dataset,
                'eps': max(results.strengths, default=0),
                'levels': level_tables(plane, dataset),
                'blends': blend_table(plane, dataset),
                'reason': no_rows(plane, dataset),
                'charts': list(_charts(plane, dataset)) if charts.available() else [],
            }
            for dataset in plane.datasets
        ],
    }


def _charts(plane: Plane, dataset: str) -> Iterator[dict[str, Any]]:
    """One chart per metric, with its caption."""
    for metric, name in headings(plane).items():
        drawn = sharpness(plane, dataset, metric, name)
        if drawn:
            better = better_end(plane.results, metric)
            yield {
                'svg': Markup(drawn),
                'caption': f'{name[0].upper()}{name[1:]} under the worst attack over sharpness; {better} is better. '
                f'Thick line: {plane.reference} and its blends with bicubic upscaling, the line to beat; thin lines: '
                'other networks and their blends; dashed: the sharpness at which networks are compared.',
            }


def level_tables(plane: Plane, dataset: str) -> list[dict[str, Any]]:
    """The tables of the page with the networks at the level of the reference, one per eps, the largest first."""
    return [
        _level_table(plane, dataset, eps) for eps in reversed(plane.results.strengths) if level_rows(plane, dataset)
    ]


def _level_table(plane: Plane, dataset: str, eps: float) -> dict[str, Any]:
    rows = level_rows(plane, dataset)
    measure = title_of(plane, plane.measure)
    group = f'equal sharpness, attacked at eps {eps:g}'
    results = [row.results[eps] for row in rows]
    columns = [text_column('network', [row.network for row in rows])]
    # Stability first: a phone shows no more.
    for metric, name in sorted(headings(plane).items(), key=lambda heading: heading[0] != STABILITY):
        found = [result.estimate(metric) for result in results]
        columns.append(with_best(_estimates(plane, metric, found, eps, name, group)))
        if metric == plane.measure:
            differences = [row.differences[eps] for row in rows]
            columns.append(_differences(plane, metric, differences, 'difference', group))
    columns.append(Column('alpha', [_alpha(row.at_level) for row in rows], group))
    clean = [row.clean for row in rows]
    columns.append(_estimates(plane, plane.measure, clean, 0, f'clean {measure}', _AS_IT_IS))
    return {**table(columns), 'eps': eps}


def blend_table(plane: Plane, dataset: str) -> dict[str, Any] | None:
    """The table of the page with networks and defences against the blends of the reference."""
    rows = blend_rows(plane, dataset)
    if not rows:
        return None
    eps = plane.results.strengths[-1]
    measure = title_of(plane, plane.measure)
    columns = [
        text_column('network and defence', [row.subject.label for row in rows]),
        number_column(f'clean {measure}', [row.blend.level for row in rows], _show(plane, plane.measure)),
    ]
    for metric, name in headings(plane).items():
        own, blends = [row.estimate(metric) for row in rows], [row.blend.estimate(metric) for row in rows]
        columns += [
            _estimates(plane, metric, own, eps, _AS_IT_IS, name),
            _estimates(plane, metric, blends, eps, 'blend', name)._replace(
                cells=[_blend_cell(plane, metric, row, eps) for row in rows]
            ),
            _differences(plane, metric, [row.difference(metric) for row in rows], 'difference', name),
        ]
    return table(columns)


def _estimates(
    plane: Plane, metric: str, found: Sequence[MetricEstimate | None], eps: float, name: str, group: str
) -> Column:
    options: Mapping[str, Any] = plane.results.metrics[metric]
    return number_column(
        name,
        [None if e is None else e.mean for e in found],
        _show(plane, metric),
        ['' if e is None else noted(options, e, eps) for e in found],
        group=group,
        unit=unit(options),
        better=better_end(plane.results, metric),
    )


def _differences(plane: Plane, metric: str, found: Sequence[MetricEstimate | None], name: str, group: str) -> Column:
    options = plane.results.metrics[metric]
    notes = [f'[{signed(options, e.low)}, {signed(options, e.high)}]' if e and e.count > 1 else '' for e in found]
    means = [None if e is None else e.mean for e in found]
    return number_column(name, means, functools.partial(signed, options), notes, group=group, unit=unit(options))


def _alpha(result: LevelResult) -> TableCell:
    return TableCell(result.problem) if result.alpha is None else TableCell(f'{result.alpha:.2f}', result.alpha)


def _blend_cell(plane: Plane, metric: str, row: BlendRow, eps: float) -> TableCell:
    found = row.blend.estimate(metric)
    if found is None:
        return TableCell(row.blend.problem) if row.blend.problem else TableCell()
    options = plane.results.metrics[metric]
    return TableCell(written(options, found.mean), found.mean, noted(options, found, eps))


def _show(plane: Plane, metric: str) -> Callable[[float], str]:
    return functools.partial(written, plane.results.metrics[metric])
