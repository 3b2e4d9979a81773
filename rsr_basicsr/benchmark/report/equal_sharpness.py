"""Tables of the report at equal sharpness: networks at the level of the reference, and defences against its blends."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rsr_basicsr.benchmark.names import STABILITY
from rsr_basicsr.benchmark.plane import LevelResult, Plane, of_images
from rsr_basicsr.benchmark.report.tables import gain_of, metric_title, signed, written
from rsr_basicsr.benchmark.summary import MetricEstimate, Results, Subject
from rsr_basicsr.utils.markdown import EMPTY, escaped, markdown_table


@dataclass(frozen=True)
class LevelRow:
    """A network at the level of the reference.

    Attributes:
        clean: the measure for clean images of the network as it is.
        results: eps -> the network at the level.
        differences: eps -> paired difference of the measure under attack to the reference; None of the reference.
    """

    network: str
    clean: MetricEstimate
    results: dict[float, LevelResult]
    differences: dict[float, MetricEstimate | None]

    @property
    def at_level(self) -> LevelResult:
        """The alpha and the reason without one are those of every eps."""
        return next(iter(self.results.values()))


@dataclass(frozen=True)
class BlendRow:
    """A network or defence as it is, and the blend of the reference that is as sharp, at the largest eps.

    Attributes:
        values: metric name -> image -> value of the subject.
        blend: the blend of the reference.
    """

    subject: Subject
    values: dict[str, dict[str, float]]
    blend: LevelResult

    def estimate(self, metric: str) -> MetricEstimate | None:
        """The mean of a metric of the subject."""
        return of_images(self.values.get(metric, {}))

    def difference(self, metric: str) -> MetricEstimate | None:
        """Paired difference to the blend of the reference; below 0 if the subject has the lower value."""
        blend = (self.blend.values or {}).get(metric, {})
        pairs = self.values.get(metric, {}).items()
        return of_images({image: value - blend[image] for image, value in pairs if image in blend})


def level_rows(plane: Plane, dataset: str) -> list[LevelRow]:
    """Every network at the level of the reference; none if the measure does not tell sharpness."""
    strengths = plane.results.strengths
    if not strengths or not plane.tells_sharpness(dataset):
        return []
    rows = []
    reference = {eps: plane.at_level(dataset, plane.reference, eps) for eps in strengths}
    for network in plane.networks(dataset):
        clean = of_images(plane.values(dataset, plane.own(network), 0, plane.measure))
        if clean is None:
            continue
        found = {eps: plane.at_level(dataset, network, eps) for eps in strengths}
        differences = {
            eps: None
            if network == plane.reference
            else result.difference(plane.measure, (reference[eps].values or {}).get(plane.measure, {}))
            for eps, result in found.items()
        }
        rows.append(LevelRow(network, clean, found, differences))
    return rows


def blend_rows(plane: Plane, dataset: str) -> list[BlendRow]:
    """Every other network and defence against the blends of the reference; none if only one blend was measured."""
    eps = max(plane.results.strengths, default=0)
    if not eps or not plane.tells_sharpness(dataset) or len(plane.curve(dataset, plane.reference)) < 2:
        return []
    return [
        BlendRow(
            subject,
            {metric: plane.values(dataset, subject, eps, metric) for metric in plane.metrics},
            plane.against_blends(dataset, subject, eps),
        )
        for subject in plane.points(dataset)
    ]


def about(plane: Plane) -> str:
    """What the figures at equal sharpness are, in a few sentences."""
    measure = title_of(plane, plane.measure)
    named = f'{measure} (metric {plane.measure})' if measure != plane.measure else measure
    blind = [dataset for dataset in plane.results.datasets if dataset not in plane.datasets]
    matched = plane.options.get('dataset')
    return (
        'The blurrier a network, the more stable it looks. So each network is blended with bicubic upscaling, '
        'bicubic + alpha (network - bicubic), until its distance to the original on clean images is that of '
        f'{plane.reference}. Distance: {named}. Between the measured blends, figures are interpolated linearly.'
        + (f' Blends were matched on {matched}.' if plane.options.get('matched') and len(plane.datasets) > 1 else '')
        + (f' No ground truth, so no comparison at equal sharpness: {", ".join(blind)}.' if blind else '')
    )


def level_lines(plane: Plane, dataset: str) -> list[list[str]]:
    """The table for text and Markdown: column names, then one line per network and eps, the largest eps first."""
    rows = level_rows(plane, dataset)
    if not rows:
        return []
    names = headings(plane)
    measure = title_of(plane, plane.measure)
    head = ['network', f'clean {measure}', 'alpha', 'eps', *names.values()]
    head.insert(5, 'difference')
    lines = [head]
    for eps in reversed(plane.results.strengths):
        for row in rows:
            result = row.results[eps]
            cells = [_written(plane, metric, result.estimate(metric), eps) for metric in names]
            cells.insert(1, _written(plane, plane.measure, row.differences[eps], 0, sign='+'))
            alpha = result.problem or f'{result.alpha:.2f}'
            lines.append([row.network, _written(plane, plane.measure, row.clean, 0, False), alpha, f'{eps:g}', *cells])
    return lines


def blend_lines(plane: Plane, dataset: str) -> list[list[str]]:
    """Networks and defences against the blends of the reference: column names, then one line each."""
    rows = blend_rows(plane, dataset)
    if not rows:
        return []
    names, eps = headings(plane), plane.results.strengths[-1]
    head = ['network', f'clean {title_of(plane, plane.measure)}']
    lines = [[*head, *(part for name in names.values() for part in (name, 'blend', 'difference'))]]
    for row in rows:
        line = [row.subject.label, written(plane.results.metrics[plane.measure], row.blend.level)]
        for metric in names:
            blend = row.blend.problem or _written(plane, metric, row.blend.estimate(metric), eps, False)
            line += [_written(plane, metric, row.estimate(metric), eps, False), blend]
            line.append(_written(plane, metric, row.difference(metric), 0, sign='+'))
        lines.append(line)
    return lines


def text_tables(results: Results) -> dict[str, list[list[str]]]:
    """The tables for a terminal: title -> lines, the first with the column names."""
    plane = Plane.of(results)
    if plane is None:
        return {}
    found = {dataset: level_lines(plane, dataset) for dataset in plane.datasets}
    return {
        f'{dataset} at the sharpness of {plane.reference}': lines for dataset, lines in found.items() if len(lines) > 1
    }


def markdown_section(results: Results) -> list[str]:
    """The lines of the section in the Markdown report; none without a plane."""
    plane = Plane.of(results)
    if plane is None:
        return []
    parts = ['', '## Robustness at equal sharpness', '', escaped(about(plane))]
    for dataset in plane.datasets:
        lines = level_lines(plane, dataset)
        head = f'{dataset}, at the sharpness of {plane.reference}:' if lines else no_rows(plane, dataset)
        parts += ['', escaped(head), *(['', markdown_table(lines)] if lines else [])]
        lines = blend_lines(plane, dataset)
        if lines:
            head = f'{dataset}, as they are against blends of {plane.reference} that are as sharp, at the largest eps:'
            parts += ['', escaped(head), '', markdown_table(lines)]
    return parts


def as_entries(plane: Plane) -> Iterator[dict[str, Any]]:
    """The figures for JSON: one entry per data set, network and eps."""
    for dataset in plane.datasets:
        for row in level_rows(plane, dataset):
            for eps, result in row.results.items():
                difference = row.differences[eps]
                found = {metric: result.estimate(metric) for metric in plane.metrics}
                yield {
                    'dataset': dataset,
                    'network': row.network,
                    'eps': eps,
                    'level': result.level,
                    'alpha': result.alpha,
                    'problem': result.problem,
                    'estimates': {metric: asdict(each) for metric, each in found.items() if each},
                    'difference': difference and asdict(difference),
                }


def of_results(results: Results) -> list[dict[str, Any]]:
    """The figures of all data sets for JSON; empty without a plane."""
    plane = Plane.of(results)
    return list(as_entries(plane)) if plane else []


def title_of(plane: Plane, metric: str) -> str:
    """What sentences and headings call a metric."""
    return metric_title(metric, plane.results.metrics[metric])


def headings(plane: Plane) -> dict[str, str]:
    """Metric -> heading of its column, in the order in which they are shown."""
    measure = title_of(plane, plane.measure)
    names = {plane.measure: f'{measure} to original', STABILITY: 'stability'}
    if plane.perceptual:
        names[plane.perceptual] = f'{title_of(plane, plane.perceptual)} to clean output'
    if plane.consistency:
        names[plane.consistency] = 'consistency with the input'
    return names


def _show(plane: Plane, metric: str) -> Callable[[float], str]:
    return functools.partial(written, plane.results.metrics[metric])


def _written(
    plane: Plane, metric: str, found: MetricEstimate | None, eps: float, intervals: bool = True, sign: str = ''
) -> str:
    """A figure for a text table, with its interval, and the gain of a stability."""
    if found is None:
        return EMPTY
    options = plane.results.metrics[metric]
    show = functools.partial(signed if sign else written, options)
    interval = f' [{show(found.low)}, {show(found.high)}]' if intervals and found.count > 1 else ''
    gain = f' {gain_of(found.mean, eps)}' if metric == STABILITY and eps else ''
    return f'{show(found.mean)}{interval}{gain}'


def no_rows(plane: Plane, dataset: str) -> str:
    """Why nothing is compared on a data set; empty if something is."""
    measure = title_of(plane, plane.measure)
    if not plane.results.strengths:
        return 'Nothing was attacked.'
    if not plane.tells_sharpness(dataset):
        return (
            f'By {measure}, {plane.reference} is no closer to the original than bicubic upscaling: this measure does '
            'not tell sharpness, so nothing is compared at equal sharpness. Use LPIPS.'
        )
    return ''
