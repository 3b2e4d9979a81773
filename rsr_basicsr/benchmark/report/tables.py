"""The results as CSV and JSON for programs, and as Markdown and text tables for people."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rsr_basicsr.benchmark.names import CLEAN, STABILITY, WORST_CASE
from rsr_basicsr.benchmark.summary import ResultRow, Results
from rsr_basicsr.metrics.stability_metric import rms_gain
from rsr_basicsr.utils.files import without_folders
from rsr_basicsr.utils.markdown import EMPTY, escaped, markdown_table

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
LEGEND = (
    'Stability: PSNR between the outputs for the attacked and the clean image, under the worst attack per image, in '
    'dB, [95 % interval]; higher is better. ×: its gain, the root mean square change of the output relative to eps: '
    'how often the attack is amplified. Flagged: number of images that the detector flags as attacked, first of the '
    'clean images, then of the attacked images at each eps.'
)
_DIGITS = 4
_DECIBELS = ('calculate_psnr', 'calculate_psnr_pt', 'calculate_stability', 'calculate_lr_consistency')
_TITLES = {
    'lpips': 'LPIPS',
    'lpips_squeeze': 'LPIPS (SqueezeNet)',
    'haarpsi': 'HaarPSI distance',
    'mdsi': 'MDSI',
    'gmsd': 'GMSD',
    'vif': 'VIF distance',
}
_REFERENCE_METRICS = ('calculate_psnr', 'calculate_ssim')  # the main table shows the worst case of the first one too


def unit(metric: Mapping[str, Any]) -> str:
    """The unit of a metric with these options; empty if it has none."""
    return 'dB' if metric['type'] in _DECIBELS else ''


def written(metric: Mapping[str, Any], value: float) -> str:
    """Format a value of a metric with these options, without its unit."""
    return f'{value:.2f}' if unit(metric) else f'{value:.3f}'


def signed(metric: Mapping[str, Any], value: float) -> str:
    """As :func:`written`, with the sign of a difference."""
    return f'{"+" if value >= 0 else "-"}{written(metric, abs(value))}'


def metric_title(name: str, metric: Mapping[str, Any]) -> str:
    """What sentences call a metric: its perceptual measure, or its name in the options."""
    measure = {'calculate_lpips': 'lpips'}.get(metric['type'], metric.get('measure'))
    return _TITLES.get(measure, name) if isinstance(measure, str) else name


def gain_of(stability: float, eps: float) -> str:
    """The gain of a stability as text: how often an attack of that eps is amplified."""
    return f'×{rms_gain(stability, eps):.2f}'


def as_csv(rows: Sequence[ResultRow]) -> str:
    """CSV with one line per row and metric, including the share of flagged images and the AUC of the detector."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(COLUMNS)
    for row in rows:
        names = [row.dataset, *row.subject, row.attack, f'{row.eps:g}']
        for metric, found in row.estimates.items():
            numbers = [found.mean, found.low, found.high, found.worst, found.spread, found.seed_spread]
            texts = ['' if n is None else f'{_rounded(n):.{_DIGITS}f}' for n in numbers]
            writer.writerow([*names, metric, *texts, found.count, row.failed])
        for metric, number in (('detector_flagged', row.flagged), ('detector_auc', row.auc)):
            if number is not None:
                writer.writerow([*names, metric, f'{number:.{_DIGITS}f}', *[''] * 5, row.images, row.failed])
        if not row.images:
            writer.writerow([*names, *[''] * 7, 0, row.failed])
    return text.getvalue()


def as_json(
    results: Results,
    rows: Sequence[ResultRow],
    summary: Sequence[str],
    warnings: Sequence[str],
    protocol: Mapping[str, Any],
    equal_sharpness: Sequence[Mapping[str, Any]] = (),
) -> str:
    """JSON with the results at equal sharpness, the rows, the images, the verdict, the warnings and the protocol."""
    images = [
        {
            key: without_folders(value) if key == 'error' else value
            for key, value in asdict(record).items()
            if key not in ('gallery', 'seconds', 'started', 'facts', 'attack_options', 'environment')
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
            'equal_sharpness': list(equal_sharpness),
            'rows': [{**asdict(row), 'subject': row.subject._asdict()} for row in rows],
            'images': images,
        },
        indent=1,
    )


def main_table(results: Results, dataset: str) -> list[list[str]]:
    """The main table of a data set: column names, then one line per network and defence."""
    subjects = results.subjects(dataset)
    clean = {subject: results.row(dataset, subject, CLEAN, 0.0) for subject in subjects}
    worst = {
        (subject, eps): results.row(dataset, subject, WORST_CASE, eps)
        for subject in subjects
        for eps in results.strengths
    }
    metrics = [name for name in results.metrics if any(name in row.estimates for row in clean.values())]
    last = results.strengths[-1:]
    others = [name for name in metrics if results.metrics[name]['type'] in _REFERENCE_METRICS][:1]
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
                *(_number(results, name, clean[subject]) for name in metrics),
                *(_stability(row) for row in attacked),
                *(_number(results, name, row) for row in attacked[-1:] for name in others),
                *([_flagged([clean[subject], *attacked])] if detects else []),
            ]
        )
    return lines


def as_text(results: Results, first: Mapping[str, Sequence[Sequence[str]]] | None = None) -> str:
    """The main tables for a terminal, after other tables: title -> lines, the first with the column names."""
    blocks = [text_table(title, lines) for title, lines in (first or {}).items()]
    blocks += [text_table(dataset, main_table(results, dataset)) for dataset in results.datasets]
    return '\n\n'.join([*blocks, textwrap.fill(LEGEND, 100)])


def text_table(title: str, lines: Sequence[Sequence[str]]) -> str:
    """A table for a terminal; the first line holds the column names."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    padded = ['  '.join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]
    return '\n'.join([title, padded[0].rstrip(), '-' * max(map(len, padded)), *padded[1:]])


def as_markdown(
    results: Results,
    title: str,
    summary: Sequence[str],
    warnings: Sequence[str],
    protocol: Mapping[str, str],
    first: Sequence[str] = (),
) -> str:
    """The report as Markdown, without charts and images; ``first`` holds the lines before the tables."""
    parts = [f'# {escaped(title)}', '', *(f'- {escaped(sentence)}' for sentence in summary)]
    if warnings:
        parts += ['', '**Warnings**', '', *(f'- {escaped(sentence)}' for sentence in warnings)]
    parts += first
    for dataset in results.datasets:
        parts += ['', f'## {escaped(dataset)}', '', markdown_table(main_table(results, dataset))]
    parts += ['', LEGEND, '', '## How it was measured', '']
    parts += [f'- {escaped(name)}: {escaped(text)}' for name, text in protocol.items()]
    return '\n'.join(parts) + '\n'


def _number(results: Results, metric: str, row: ResultRow) -> str:
    found = row.estimates.get(metric)
    return EMPTY if found is None else written(results.metrics[metric], found.mean)


def _stability(row: ResultRow) -> str:
    found = row.estimates.get(STABILITY)
    if found is None:
        return EMPTY
    return f'{found.mean:.1f} [{found.low:.1f}, {found.high:.1f}] {gain_of(found.mean, row.eps)}'


def _flagged(rows: Sequence[ResultRow]) -> str:
    """Number of flagged images, clean and at each eps."""
    shares = [f'{round(row.flagged * row.images)}/{row.images}' for row in rows if row.flagged is not None]
    return ', '.join(shares) or EMPTY


def _rounded(number: float) -> float:
    return round(number, _DIGITS) + 0.0  # no minus zero
