"""The page of a benchmark: its tables, charts and images in one self-contained HTML file."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from rsr_basicsr.benchmark.gate import gate_result
from rsr_basicsr.benchmark.names import CLEAN, STABILITY, WORST_CASE
from rsr_basicsr.benchmark.report import charts
from rsr_basicsr.benchmark.report.columns import (
    Column,
    better_end,
    metric_column,
    number_column,
    percentage,
    table,
    text_column,
    with_best,
)
from rsr_basicsr.benchmark.report.gallery import NO_VALUE, gallery
from rsr_basicsr.benchmark.report.plane_section import equal_sharpness_section
from rsr_basicsr.benchmark.report.tables import unit, written
from rsr_basicsr.benchmark.summary import ResultRow, Results, Subject
from rsr_basicsr.leaderboard.external import described, external_of
from rsr_basicsr.metrics.inputs import needs
from rsr_basicsr.utils.files import without_folders, write_whole

FOLDED_ROWS = 24  # longer tables are folded


def write_report(
    path: str | os.PathLike[str],
    results: Results,
    folder: Path,
    *,
    title: str,
    summary: Sequence[str],
    warnings: Sequence[str],
    protocol: Mapping[str, str],
    versions: Mapping[str, str],
) -> Path:
    """Write the page atomically to ``path`` and create its folder.

    Args:
        path: file to write.
        results: results of the run.
        folder: folder of the run, with the images of the gallery; missing ones are left out.
        title: heading of the page.
        summary: the verdict, one sentence per item.
        warnings: reasons to doubt the results, one sentence per item.
        protocol: description of the measurement, label -> text.
        versions: software and device, name -> version.

    Returns:
        The path written.

    Raises:
        OSError: the file cannot be written; an existing one is unchanged.
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
    # File names need not be valid text; invalid characters become question marks.
    write_whole(path, page.encode('utf-8', errors='replace'))
    return path


def render(results: Results, folder: Path, **words: Any) -> str:
    """The page as HTML; arguments as for :func:`write_report`."""
    rows = results.rows()
    return (
        page_templates()
        .get_template('report.html')
        .render(
            **words,
            strengths=results.strengths,
            plane=equal_sharpness_section(results),
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
                    f'{r.eps:g}' if r.eps else NO_VALUE,
                    without_folders(r.error),
                )
                for r in results.records
                if r.error
            ],
            networks=[_network(name, facts) for name, facts in {r.network: r.facts for r in results.records}.items()],
        )
    )


def _dataset(results: Results, name: str, rows: Sequence[ResultRow]) -> dict[str, Any]:
    """Tables and charts of a data set."""
    images = len({record.image for record in results.records if record.dataset == name})
    measured = [
        metric for metric in results.metrics if any(metric in row.estimates for row in rows if row.attack == CLEAN)
    ]
    return {
        'name': name,
        'images': images,
        'overview': _overview(results, rows, measured),
        'detectors': _detectors(results, rows),
        'attacks': _attacks(results, [row for row in rows if row.attack != CLEAN]),
        'charts': [
            {**chart, 'svg': Markup(chart['svg'])} for chart in _charts(results, name, rows, measured) if chart['svg']
        ]
        if charts.available()
        else [],
    }


def _overview(results: Results, rows: Sequence[ResultRow], measured: Sequence[str]) -> dict[str, Any]:
    """One row per subject: stability under attack, then metrics on clean images."""
    subjects = list(dict.fromkeys(row.subject for row in rows))
    found = {(row.subject, row.attack, row.eps): row for row in rows}
    strengths = sorted({row.eps for row in rows if row.attack == WORST_CASE})

    def rows_of(attack: str, eps: float) -> list[ResultRow | None]:
        return [found.get((subject, attack, eps)) for subject in subjects]

    columns = [
        metric_column(
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
            metric_column(
                results, truth, rows_of(WORST_CASE, strengths[-1]), group=f'worst case, eps {strengths[-1]:g}'
            )
        )
    columns += [metric_column(results, metric, rows_of(CLEAN, 0.0), group='clean images') for metric in measured]
    return table([text_column('network and defence', [s.label for s in subjects]), *map(with_best, columns)])


def _detectors(results: Results, rows: Sequence[ResultRow]) -> dict[str, Any] | None:
    """One row per subject with a detector: the images it flags, and what its gate costs; None without any."""
    rows = [row for row in rows if row.flagged is not None]
    subjects = list(dict.fromkeys(row.subject for row in rows))
    found = {(row.subject, row.attack, row.eps): row for row in rows}
    strengths = sorted({row.eps for row in rows if row.attack == WORST_CASE})
    if not subjects:
        return None
    flagged = [
        ('false alarms', 'lower', CLEAN, 0.0),
        *((f'eps {eps:g}', 'higher', WORST_CASE, eps) for eps in strengths),
    ]
    columns = [
        number_column(
            name,
            [row.flagged if row else None for row in (found.get((s, attack, eps)) for s in subjects)],
            percentage,
            better=better,
            group='flagged images',
        )
        for name, better, attack, eps in flagged
    ]
    columns += _gate_columns(results, subjects, rows[0].dataset, strengths) if strengths else []
    return table([text_column('network and defence', [s.label for s in subjects]), *map(with_best, columns)])


def _gate_columns(
    results: Results, subjects: Sequence[Subject], dataset: str, strengths: Sequence[float]
) -> list[Column]:
    """What the gates cost the attacker, in dB of stability."""
    gates = {eps: [gate_result(results, dataset, subject, eps) for subject in subjects] for eps in strengths}
    found = {
        'triggered on clean images': [gate and gate.triggered for gate in gates[strengths[-1]]],
        **{f'undetected, eps {eps:g}': [gate and gate.undetected for gate in gates[eps]] for eps in strengths},
    }
    show = functools.partial(written, results.metrics[STABILITY])
    return [
        number_column(name, [e.mean if e else None for e in of], show, group='stability of the gate', unit='dB')
        for name, of in found.items()
    ]


def _needs_original(options: Mapping[str, Any]) -> bool:
    try:
        return 'img2' in needs(options)
    except KeyError:  # a metric of another run that is not registered in this process
        return False


def _attacks(results: Results, rows: Sequence[ResultRow]) -> dict[str, Any]:
    """One row per subject, attack and eps."""
    chosen = [
        ', '.join(f'{name} ({count} of {sum(row.chosen.values())})' for name, count in row.chosen.items())
        for row in rows
    ]
    others = [metric for metric in results.metrics if metric != STABILITY]
    failed = [None if row.attack == WORST_CASE else row.failed for row in rows] if any(r.failed for r in rows) else []
    return table(
        [
            text_column('network and defence', [row.subject.label for row in rows]),
            text_column('attack', [row.attack for row in rows], chosen),
            number_column('eps', [row.eps for row in rows], '{:g}'.format),
            metric_column(results, STABILITY, rows, intervals=True),
            *(
                metric_column(results, STABILITY, rows, name, figure=figure, better='')
                for name, figure in (('worst', 'worst'), ('spread', 'spread'), ('seed spread', 'seed_spread'))
            ),
            *(metric_column(results, metric, rows) for metric in others),
            number_column('images', [row.images for row in rows], '{:d}'.format),
            number_column('failed', failed or [None] * len(rows), '{:d}'.format),
            number_column('flagged', [row.flagged for row in rows], percentage),
            number_column('AUC', [row.auc for row in rows], '{:.3f}'.format),
        ]
    )


def _uncounted(results: Results) -> list[str]:
    """The attacks that do not count for the worst case."""
    counted = {
        name
        for dataset in results.datasets
        for subject in results.subjects(dataset)
        for eps in results.strengths
        for name in results.counted(dataset, subject, eps)
    }
    return [name for name in results.attacks if name not in counted]


def _network(name: str, facts: Mapping[str, Any]) -> list[str]:
    """A row of the table of networks."""
    parameters, card = facts.get('parameters'), facts.get('card') or {}
    known = [
        facts.get('type'),
        None if parameters is None else f'{parameters:,}{_of_detector(facts)}',
        facts.get('weights'),
        facts.get('sha256'),
        '; '.join(f'{key}: {value}' for key, value in {**card, **_external(card)}.items()),
    ]
    return [name, *(each or NO_VALUE for each in known)]


def _charts(
    results: Results, dataset: str, rows: Sequence[ResultRow], measured: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Charts of a data set with the data of their captions."""
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
            'better': better_end(results, metric),
        }
    for subject in results.subjects(dataset):
        clean = results.images(dataset, subject, CLEAN, 0.0).values()
        attacked = {eps: results.images(dataset, subject, WORST_CASE, eps).values() for eps in results.strengths}
        yield {'kind': 'detector', 'svg': charts.detector(clean, attacked), 'subject': subject}


def _external(card: Mapping[str, Any]) -> dict[str, str]:
    return {'external': ', '.join(map(described, external_of(card)))} if 'external' in card else {}


def _of_detector(facts: Mapping[str, Any]) -> str:
    number = facts.get('detector_parameters') or 0
    return f' + {number:,} of the detector' if number else ''


@functools.cache
def page_templates(*folders: str) -> jinja2.Environment:
    """The templates of these folders of the package, and those of the report: its style and macros."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader('rsr_basicsr', folder) for folder in (*folders, 'benchmark/report/templates')]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(largest_change=charts.LARGEST_CHANGE, long=FOLDED_ROWS)
    return environment
