"""The results as files for programs and as tables for people: CSV, JSON, Markdown, the terminal."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rsr_basicsr.benchmark.names import CLEAN, STABILITY
from rsr_basicsr.benchmark.summary import WORST_CASE, Estimate, Results, Row

COLUMNS = (
    'dataset',
    'network',
    'defense',
    'attack',
    'eps',
    'metric',
    'mean',
    'low',
    'high',
    'worst',
    'spread',
    'seed_spread',
    'images',
    'failed',
)
NOTHING = '-'
LEGEND = (
    'Stability: PSNR of the output under the worst attack of each image against the output for the clean '
    'image, in dB, [95 % interval]; more is better. Flagged: images that the detector takes for attacked, '
    'clean ones and those of each eps.'
)
_DIGITS = 4
_DECIBELS = ('calculate_psnr', 'calculate_psnr_pt', 'calculate_stability')
_OTHER = ('calculate_psnr', 'calculate_ssim')  # whose worst case the table shows, too


def unit(metric: Mapping[str, Any]) -> str:
    """The unit of a metric, by its options; empty for one without."""
    return 'dB' if metric['type'] in _DECIBELS else ''


def written(metric: Mapping[str, Any], value: float) -> str:
    """A value of a metric, by its options, without its unit."""
    return f'{value:.2f}' if unit(metric) else f'{value:.3f}'


def as_csv(rows: Sequence[Row]) -> str:
    """A line for each metric of each row; the detector's share of flagged images and its area under the ROC too."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(COLUMNS)
    for row in rows:
        names = [row.dataset, *row.subject, row.attack, f'{row.eps:g}']
        for metric, found in row.estimates.items():
            numbers = [found.mean, found.low, found.high, found.worst, found.spread, found.seed_spread]
            writer.writerow([*names, metric, *(f'{_rounded(n):.{_DIGITS}f}' for n in numbers), found.count, row.failed])
        for metric, number in (('detector_flagged', row.flagged), ('detector_auc', row.auc)):
            if number is not None:
                writer.writerow([*names, metric, f'{number:.{_DIGITS}f}', *[''] * 5, row.images, row.failed])
        if not row.images:
            writer.writerow([*names, *[''] * 7, 0, row.failed])
    return text.getvalue()


def as_json(
    results: Results, rows: Sequence[Row], summary: Sequence[str], warnings: Sequence[str], protocol: Mapping[str, Any]
) -> str:
    """Everything: the figures, every image, the sentences, and how it was measured."""
    images = [
        {
            key: value
            for key, value in asdict(record).items()
            if key not in ('shown', 'seconds', 'facts', 'attack_options', 'environment')
        }
        for record in results.records
    ]
    return json.dumps(
        {
            'summary': list(summary),
            'warnings': list(warnings),
            'protocol': protocol,
            'networks': {record.network: record.facts for record in results.records},
            'environments': [dict(pairs) for pairs in sorted({tuple(r.environment.items()) for r in results.records})],
            'rows': [{**asdict(row), 'subject': row.subject._asdict()} for row in rows],
            'images': images,
        },
        indent=1,
    )


def main_table(results: Results, dataset: str) -> list[list[str]]:
    """The table to look at first: the names of the columns, then a line for each network behind each defence."""
    subjects = results.subjects(dataset)
    clean = {subject: results.row(dataset, subject, CLEAN, 0.0) for subject in subjects}
    worst = {
        (subject, eps): results.row(dataset, subject, WORST_CASE, eps)
        for subject in subjects
        for eps in results.strengths
    }
    metrics = [name for name in results.metrics if any(name in row.estimates for row in clean.values())]
    last = results.strengths[-1:]
    others = [name for name in metrics if results.metrics[name]['type'] in _OTHER][:1]
    detects = any(row.flagged is not None for row in clean.values())
    head = [
        'network',
        *(f'clean {name}' for name in metrics),
        *(f'stability eps {eps:g}' for eps in results.strengths),
        *(f'{name} eps {eps:g}' for eps in last for name in others),
        *(['flagged'] if detects else []),
    ]
    lines = [head]
    for subject in subjects:
        attacked = [worst[subject, eps] for eps in results.strengths]
        lines.append(
            [
                subject.label,
                *(_number(clean[subject].estimates.get(name)) for name in metrics),
                *(_interval(row.estimates.get(STABILITY)) for row in attacked),
                *(_number(row.estimates.get(name)) for row in attacked[-1:] for name in others),
                *([_flagged([clean[subject], *attacked])] if detects else []),
            ]
        )
    return lines


def as_text(results: Results) -> str:
    """The main tables for a terminal."""
    blocks = []
    for dataset in results.datasets:
        lines = main_table(results, dataset)
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        shown = ['  '.join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]
        rule = '-' * max(map(len, shown))
        blocks.append('\n'.join([dataset, shown[0].rstrip(), rule, *shown[1:]]))
    return '\n\n'.join([*blocks, textwrap.fill(LEGEND, 100)])


def as_markdown(
    results: Results, title: str, summary: Sequence[str], warnings: Sequence[str], protocol: Mapping[str, str]
) -> str:
    """The report without its images."""
    parts = [f'# {escaped(title)}', '', *(f'- {escaped(sentence)}' for sentence in summary)]
    if warnings:
        parts += ['', '**Warnings**', '', *(f'- {escaped(sentence)}' for sentence in warnings)]
    for dataset in results.datasets:
        parts += ['', f'## {escaped(dataset)}', '', markdown_table(main_table(results, dataset))]
    parts += ['', LEGEND, '', '## How it was measured', '']
    parts += [f'- {escaped(name)}: {escaped(text)}' for name, text in protocol.items()]
    return '\n'.join(parts) + '\n'


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, the first of them the names of the columns, as a table of Markdown."""
    head, *body = [[escaped(cell) for cell in line] for line in lines]
    rule = ['---', *['---:'] * (len(head) - 1)]
    return '\n'.join(f'| {" | ".join(line)} |' for line in [head, rule, *body])


def _number(found: Estimate | None) -> str:
    return NOTHING if found is None else f'{found.mean:.2f}'


def _interval(found: Estimate | None) -> str:
    return NOTHING if found is None else f'{found.mean:.1f} [{found.low:.1f}, {found.high:.1f}]'


def _flagged(rows: Sequence[Row]) -> str:
    """How many images the detector takes for attacked, clean and at each eps."""
    shares = [f'{round(row.flagged * row.images)}/{row.images}' for row in rows if row.flagged is not None]
    return ', '.join(shares) or NOTHING


def _rounded(number: float) -> float:
    return round(number, _DIGITS) + 0.0  # no minus zero


def escaped(text: str) -> str:
    """Text that Markdown, and the HTML inside it, leave as it is."""
    table: dict[str, str] = {
        '\\': '\\\\',
        '|': '\\|',
        '*': '\\*',
        '_': '\\_',
        '`': '\\`',
        '[': '\\[',
        '#': '\\#',
        '<': '&lt;',
        '>': '&gt;',
        '&': '&amp;',
        '\n': ' ',
    }
    return str(text).translate(str.maketrans(table))
