"""Charts of robustness over sharpness, which need matplotlib."""

from __future__ import annotations

import textwrap
from typing import Any

from rsr_basicsr.benchmark.plane import Plane, of_images
from rsr_basicsr.benchmark.report.charts import MARKERS, colour_of
from rsr_basicsr.benchmark.report.equal_sharpness import title_of
from rsr_basicsr.benchmark.report.figure import LEGEND_WIDTH, Chart, printable
from rsr_basicsr.benchmark.report.tables import unit
from rsr_basicsr.benchmark.summary import Subject

_GREY = '#8c8c8c'


def sharpness(plane: Plane, dataset: str, metric: str, name: str) -> str | None:
    """Plot a metric under the worst case of the largest eps over the clean distance to the original.

    The reference and its blends are a thick line, the blends of other networks thin ones, and defences points.

    Args:
        plane: the results.
        dataset: name of the data set.
        metric: the metric of the vertical axis.
        name: label of the vertical axis.

    Returns:
        An ``svg`` element, or None if nothing was measured.
    """
    eps = max(plane.results.strengths, default=0)
    networks = plane.networks(dataset)
    curves = {network: _curve(plane, dataset, network, eps, metric) for network in networks}
    others = [subject for subject in plane.points(dataset) if subject != plane.own(subject.network)]
    points = {subject: found for subject in others if (found := _point(plane, dataset, subject, eps, metric))}
    curves = {network: curve for network, curve in curves.items() if curve}
    if not eps or not curves:
        return None
    with Chart('sharpness', dataset, metric) as chart:
        for number, (network, curve) in enumerate(curves.items()):
            _draw(chart, number, curve, network, thick=network == plane.reference)
        for number, (subject, point) in enumerate(points.items(), start=len(curves)):
            _draw(chart, number, [point], subject.label, thick=False)
        line = chart.axes.axvline(plane.level(dataset), color=_GREY, ls='--', lw=1)
        chart.legend.append((line, f'sharpness of {plane.reference}'))
        options = plane.results.metrics
        label = f'{title_of(plane, plane.measure)} to the original, clean images (sharper: left)'
        chart.axes.set_xlabel(textwrap.fill(printable(label), LEGEND_WIDTH), parse_math=False)
        label = f'{name}, eps {eps:g}/255' + (f' ({unit(options[metric])})' if unit(options[metric]) else '')
        chart.axes.set_ylabel(textwrap.fill(printable(label), LEGEND_WIDTH // 2), parse_math=False)
        chart.axes.margins(0.08)
        return chart.svg()


def _curve(plane: Plane, dataset: str, network: str, eps: float, metric: str) -> list[tuple[float, float]]:
    """Points of the blends of a network, in ascending order of alpha; bicubic upscaling is shown once."""
    found = [
        (point.clean, of_images(plane.values(dataset, point.subject, eps, metric)))
        for point in plane.curve(dataset, network)
        if point.alpha or network == plane.reference
    ]
    return [(clean, estimate.mean) for clean, estimate in found if estimate]


def _point(plane: Plane, dataset: str, subject: Subject, eps: float, metric: str) -> tuple[float, float] | None:
    clean, attacked = (of_images(plane.values(dataset, subject, *at)) for at in ((0.0, plane.measure), (eps, metric)))
    return (clean.mean, attacked.mean) if clean and attacked else None


def _draw(chart: Any, number: int, curve: list[tuple[float, float]], label: str, *, thick: bool) -> None:
    (line,) = chart.axes.plot(
        *zip(*curve),
        color=colour_of(number),
        marker=MARKERS[number % len(MARKERS)],
        lw=2.4 if thick else 0.9,
        markersize=6 if thick else 5,
    )
    chart.add(line, label, [f'clean {clean:.3g}, attacked {attacked:.3g}' for clean, attacked in curve])
