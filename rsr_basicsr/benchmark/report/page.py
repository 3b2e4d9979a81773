"""The page of a benchmark: its figures, charts and images in one HTML file that needs nothing else."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from rsr_basicsr.benchmark.names import CLEAN, STABILITY
from rsr_basicsr.benchmark.report import charts
from rsr_basicsr.benchmark.report.gallery import NOTHING, gallery
from rsr_basicsr.benchmark.report.tables import unit, written
from rsr_basicsr.benchmark.summary import WORST_CASE, Results, Row, Subject
from rsr_basicsr.metrics.inputs import is_higher_better, needs
from rsr_basicsr.utils.files import write_whole

LONG = 24  # rows of a table; a longer one is folded


def write_report(
    path: str | os.PathLike,
    results: Results,
    folder: Path,
    *,
    title: str,
    summary: Sequence[str],
    warnings: Sequence[str],
    protocol: Mapping[str, str],
    versions: Mapping[str, str],
) -> Path:
    """Write the page to ``path``, making its folder; a reader never finds half a page there.

    Args:
        path: the file to write.
        results: what was measured.
        folder: of the run, below which the images of the gallery lie; one that is missing is left out.
        title: heading of the page.
        summary: the verdict, one sentence an item.
        warnings: what a reader must know before the figures are believed, one sentence an item.
        protocol: how it was measured, label -> text.
        versions: of what it was measured with, name -> version.

    Returns:
        The path written.

    Raises:
        OSError: the file cannot be written; one that was there before is untouched.
    """
    path = Path(path)
    page = render(
        results,
        Path(folder),
        title=title,
        summary=list(summary),
        warnings=list(warnings),
        protocol=dict(protocol),
        versions=dict(versions),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name of a file need not be text; what is none becomes a question mark.
    write_whole(path, page.encode('utf-8', errors='replace'))
    return path


def render(results: Results, folder: Path, **words: Any) -> str:
    """The page as text; arguments as for :func:`write_report`."""
    rows = results.rows()
    return (
        _environment()
        .get_template('report.html')
        .render(
            **words,
            strengths=results.strengths,
            drawn=charts.available(),
            datasets=[
                _dataset(results, name, [row for row in rows if row.dataset == name]) for name in results.datasets
            ],
            uncounted=_uncounted(results),
            images=list(gallery(results, folder)),
            failures=[
                (
                    r.image,
                    r.dataset,
                    Subject(r.network, r.defense).label,
                    r.attack,
                    f'{r.eps:g}' if r.eps else NOTHING,
                    r.error,
                )
                for r in results.records
                if r.error
            ],
            networks=[_network(name, facts) for name, facts in {r.network: r.facts for r in results.records}.items()],
        )
    )


# tables


class Cell(NamedTuple):
    """What stands in a table, with the value it is sorted by, None where there is nothing, and what stands below."""

    text: str = NOTHING
    value: float | str | None = None
    note: str = ''
    best: bool = False


class Column(NamedTuple):
    """A column with its heading; ``better`` is ``higher``, ``lower`` or empty."""

    name: str
    cells: list[Cell]
    group: str = ''
    unit: str = ''
    better: str = ''
    text: bool = False  # sorts by letters
    first: bool = False  # of its group


def _table(columns: Sequence[Column]) -> dict[str, Any]:
    """For the template, without the columns in which there is nothing; the first one names the rows."""
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


def _words(name: str, words: Sequence[str], notes: Sequence[str] | None = None) -> Column:
    return Column(
        name,
        [Cell(word or NOTHING, word or None, note) for word, note in zip(words, notes or itertools.repeat(''))],
        text=True,
    )


def _numbers(
    name: str,
    values: Sequence[float | None],
    show: Callable[[float], str],
    notes: Sequence[str] | None = None,
    **heading: str,
) -> Column:
    return Column(
        name,
        [
            Cell() if value is None else Cell(show(value), value, note)
            for value, note in zip(values, notes or itertools.repeat(''))
        ],
        **heading,
    )


def _metric(
    results: Results,
    metric: str,
    rows: Sequence[Row | None],
    name: str = '',
    intervals: bool = False,
    figure: str = 'mean',
    **heading: str,
) -> Column:
    """A column of a figure of a metric's estimate."""
    options = results.metrics[metric]
    show = functools.partial(written, options)
    found = [row.estimates.get(metric) if row else None for row in rows]
    notes = [f'[{show(e.low)}, {show(e.high)}]' if intervals and e and e.count > 1 else '' for e in found]
    return _numbers(
        name or metric,
        [e and getattr(e, figure) for e in found],
        show,
        notes,
        unit=unit(options),
        **{'better': _better(results, metric), **heading},
    )


def _with_best(column: Column) -> Column:
    """The column with its best cells marked, if there is something to choose."""
    values = [cell.value for cell in column.cells if cell.value is not None]
    if not column.better or len({cell.text for cell in column.cells if cell.value is not None}) < 2:
        return column
    best = next(cell.text for cell in column.cells if cell.value == (max if column.better == 'higher' else min)(values))
    return column._replace(cells=[cell._replace(best=cell.text == best) for cell in column.cells])


def _better(results, metric) -> str:
    return 'higher' if is_higher_better(results.metrics[metric]) else 'lower'


def _share(value: float) -> str:
    return f'{100 * value:.3g} %'


def _dataset(results, name, rows) -> dict[str, Any]:
    """All that is said of a data set outside the gallery."""
    images = len({record.image for record in results.records if record.dataset == name})
    measured = [
        metric for metric in results.metrics if any(metric in row.estimates for row in rows if row.attack == CLEAN)
    ]
    return {
        'name': name,
        'images': images,
        'overview': _overview(results, rows, measured),
        'attacks': _attacks(results, [row for row in rows if row.attack != CLEAN]),
        'charts': [
            {**chart, 'svg': Markup(chart['svg'])} for chart in _charts(results, name, rows, measured) if chart['svg']
        ]
        if charts.available()
        else [],
    }


def _overview(results, rows, measured) -> dict[str, Any]:
    """A row a subject: what it costs, what it withstands, what its detector sees."""
    subjects = list(dict.fromkeys(row.subject for row in rows))
    found = {(row.subject, row.attack, row.eps): row for row in rows}
    strengths = sorted({row.eps for row in rows if row.attack == WORST_CASE})

    def rows_of(attack, eps):
        return [found.get((subject, attack, eps)) for subject in subjects]

    columns = [_metric(results, metric, rows_of(CLEAN, 0.0), group='clean images') for metric in measured]
    columns += [
        _metric(
            results,
            STABILITY,
            rows_of(WORST_CASE, eps),
            f'eps {eps:g}',
            intervals=True,
            group='stability under the worst case',
        )
        for eps in strengths
    ]
    truth = next((metric for metric in measured if _needs_original(results.metrics[metric])), None)
    if truth and strengths:
        columns.append(
            _metric(results, truth, rows_of(WORST_CASE, strengths[-1]), group=f'worst case, eps {strengths[-1]:g}')
        )
    flagged = [
        ('false alarms', 'lower', rows_of(CLEAN, 0.0)),
        *((f'eps {eps:g}', 'higher', rows_of(WORST_CASE, eps)) for eps in strengths),
    ]
    columns += [
        _numbers(
            name, [row.flagged if row else None for row in of], _share, better=better, group='flagged by the detector'
        )
        for name, better, of in flagged
    ]
    return _table([_words('network and defence', [s.label for s in subjects]), *map(_with_best, columns)])


def _needs_original(options) -> bool:
    try:
        return 'img2' in needs(options)
    except KeyError:  # a metric of a run elsewhere that nothing has registered here
        return False


def _attacks(results, rows) -> dict[str, Any]:
    """A row an attack of an eps on a subject."""
    chosen = [
        ', '.join(f'{name} ({count} of {sum(row.chosen.values())})' for name, count in row.chosen.items())
        for row in rows
    ]
    others = [metric for metric in results.metrics if metric != STABILITY]
    failed = [None if row.attack == WORST_CASE else row.failed for row in rows] if any(r.failed for r in rows) else []
    return _table(
        [
            _words('network and defence', [row.subject.label for row in rows]),
            _words('attack', [row.attack for row in rows], chosen),
            _numbers('eps', [row.eps for row in rows], '{:g}'.format),
            _metric(results, STABILITY, rows, intervals=True),
            *(
                _metric(results, STABILITY, rows, name, figure=figure, better='')
                for name, figure in (('worst', 'worst'), ('spread', 'spread'), ('seed spread', 'seed_spread'))
            ),
            *(_metric(results, metric, rows) for metric in others),
            _numbers('images', [row.images for row in rows], '{:d}'.format),
            _numbers('failed', failed or [None] * len(rows), '{:d}'.format),
            _numbers('flagged', [row.flagged for row in rows], _share),
            _numbers('AUC', [row.auc for row in rows], '{:.3f}'.format),
        ]
    )


def _uncounted(results) -> list[str]:
    """The attacks that are no part of the worst case."""
    counted = {
        name
        for dataset in results.datasets
        for subject in results.subjects(dataset)
        for eps in results.strengths
        for name in results.counted(dataset, subject, eps)
    }
    return [name for name in results.attacks if name not in counted]


def _network(name, facts) -> Sequence[str]:
    """What is known of a network, beside its results."""
    parameters, card = facts.get('parameters'), facts.get('card') or {}
    known = [
        facts.get('type'),
        None if parameters is None else f'{parameters:,}',
        facts.get('weights'),
        facts.get('sha256'),
        '; '.join(f'{key}: {value}' for key, value in card.items()),
    ]
    return [name, *(each or NOTHING for each in known)]


# charts


def _charts(results, dataset, rows, measured) -> Iterator[dict[str, Any]]:
    """Each with what its caption speaks of."""
    noise = list(dict.fromkeys(r.attack for r in results.records if r.attack_options.get('type') == 'RandomNoise'))
    under_attack = [row for row in rows if row.attack == WORST_CASE and STABILITY in row.estimates]
    strongest = [row for row in under_attack if row.eps == max(r.eps for r in under_attack)]
    strongest.sort(key=lambda row: row.estimates[STABILITY].mean)
    yield {'kind': 'robustness', 'svg': charts.robustness(rows, noise), 'rows': strongest}
    metric = 'psnr' if 'psnr' in measured else next(iter(measured), None)
    if metric:
        drawn = charts.trade_off(rows, metric, unit(results.metrics[metric]))
        yield {
            'kind': 'trade-off',
            'svg': drawn,
            'rows': strongest,
            'metric': metric,
            'better': _better(results, metric),
        }
    for subject in results.subjects(dataset):
        clean = results.images(dataset, subject, CLEAN, 0.0).values()
        attacked = {eps: results.images(dataset, subject, WORST_CASE, eps).values() for eps in results.strengths}
        yield {'kind': 'detector', 'svg': charts.detector(clean, attacked), 'subject': subject}


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('rsr_basicsr', 'benchmark/report/templates'),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(largest_change=charts.LARGEST_CHANGE, long=LONG)
    return environment
