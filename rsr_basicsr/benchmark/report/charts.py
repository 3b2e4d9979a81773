"""Charts of a report as SVG, which need matplotlib, and images of noise and spectra."""

from __future__ import annotations

import colorsys
import textwrap
from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np
import torch

from rsr_basicsr.benchmark.names import CLEAN, STABILITY, WORST_CASE
from rsr_basicsr.benchmark.record import Record
from rsr_basicsr.benchmark.report.figure import LEGEND_WIDTH, Chart, printable, shortened
from rsr_basicsr.benchmark.summary import MetricEstimate, ResultRow, Subject
from rsr_basicsr.metrics.detection import roc_auc, roc_curve
from rsr_basicsr.ops.frequency import log_spectrum

# Okabe and Ito's colour-blind safe colours, without those that are hard to see on white or black.
COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#8c8c8c')
_GOLDEN = 0.618034  # of the colour circle: further hues lie far from those before
LARGEST_CHANGE = 32  # ratio of two magnitudes drawn as pure white; its inverse is black
MID_GREY = 128
MARKERS = 'osD^vPX<>'
_MANY = 100  # clean images, from which on the axis of false alarms is logarithmic; with fewer it would be mostly empty


def available() -> bool:
    """Whether matplotlib 3.7 or later is installed, which supports legends outside the axes."""
    try:
        import matplotlib.figure
    except ImportError:
        return False
    return matplotlib.__version_info__[:2] >= (3, 7)


def colour_of(number: int) -> str:
    """The colour of a series, which no other series of a chart has: a distinct one for each number."""
    if number < len(COLOURS):
        return COLOURS[number]
    further = number - len(COLOURS)
    hue, lightness = (0.03 + further * _GOLDEN) % 1, (0.42, 0.62, 0.52)[further % 3]
    return '#' + ''.join(f'{round(255 * part):02x}' for part in colorsys.hls_to_rgb(hue, lightness, 0.5))


def robustness(rows: Sequence[ResultRow], noise: Sequence[str] = ()) -> str | None:
    """Plot stability under the worst case over eps, with intervals, and under random noise as a dotted line.

    Args:
        rows: rows of one data set.
        noise: names of the random noise attacks; the first that a subject has is drawn.

    Returns:
        An ``svg`` element, or None if nothing was measured.
    """
    curves = {subject: _curve(rows, subject, [WORST_CASE]) for subject in _subjects(rows)}
    strengths = sorted({row.eps for curve in curves.values() for row in curve})
    if not strengths:
        return None
    with Chart('robustness', rows[0].dataset) as chart:
        for number, (subject, curve) in enumerate(curves.items()):
            if curve:
                # Many overlapping bands would hide each other.
                alpha = 0.15 if len(curves) <= len(COLOURS) else 0.06
                _draw_curve(chart, number, subject, curve, _curve(rows, subject, noise), alpha)
        axes = chart.axes
        axes.set_xscale('log', base=2)  # eps usually doubles
        axes.set(xlim=(strengths[0] / 1.12, strengths[-1] * 1.12), xlabel='eps (1/255)', ylabel='stability (dB)')
        axes.set_xticks(strengths, [f'{eps:g}' for eps in strengths])
        axes.set_xticks([], minor=True)
        if any(_curve(rows, subject, noise) for subject in curves):
            chart.legend.append((axes.plot([], [], ':', color='#8c8c8c')[0], 'dotted: random noise'))
        return chart.svg()


def trade_off(rows: Sequence[ResultRow], metric: str, unit: str = '') -> str | None:
    """Plot stability under the worst case of the largest eps over a metric of the clean images, with intervals.

    Args:
        rows: rows of one data set.
        metric: name of a metric that is measured on clean images.
        unit: unit of the metric.

    Returns:
        An ``svg`` element, or None if no subject has both.
    """
    largest = max((row.eps for row in rows if row.attack == WORST_CASE), default=None)
    points: dict[Subject, tuple[MetricEstimate, MetricEstimate] | None] = {}
    for subject in _subjects(rows):
        found = {row.attack: row.estimates for row in rows if row.subject == subject and row.eps in (0, largest)}
        x, y = found.get(CLEAN, {}).get(metric), found.get(WORST_CASE, {}).get(STABILITY)
        points[subject] = (x, y) if x and y else None
    if not any(points.values()):
        return None
    with Chart('trade-off', rows[0].dataset) as chart:
        for number, (subject, point) in enumerate(points.items()):
            if point:
                _draw_point(chart, number, subject, *point)
        label = printable(f'{shortened(metric)}, clean images' + (f' ({unit})' if unit else ''))
        chart.axes.set_xlabel(textwrap.fill(label, LEGEND_WIDTH), parse_math=False)
        chart.axes.set_ylabel(f'stability at eps {largest:g}/255 (dB)')
        chart.axes.margins(0.12)
        return chart.svg()


def detector(clean: Iterable[Record], attacked: Mapping[float, Iterable[Record]]) -> str | None:
    """Plot the ROC curve of a detector per eps.

    Args:
        clean: records of the clean images of one subject.
        attacked: eps in 1/255 -> records of the attacked images.

    Returns:
        An ``svg`` element, or None if there are no scores.
    """
    clean = list(clean)
    alarms = _scores(clean)
    curves = {eps: _scores(records) for eps, records in attacked.items() if _scores(records)}
    if not alarms or not curves:
        return None
    first = 0.5 / len(alarms) if len(alarms) >= _MANY else 0
    with Chart('detector', clean[0].dataset, clean[0].network, clean[0].defense) as chart:
        chance = np.geomspace(first, 1) if first else np.array([0, 1])
        chart.legend.append((chart.axes.plot(chance, chance, '--', color='#8c8c8c', lw=1)[0], 'chance'))
        for number, eps in enumerate(sorted(curves)):
            false, found = roc_curve(alarms, curves[eps])
            (line,) = chart.axes.step(np.maximum(false, first), found, where='post', color=colour_of(number))
            chart.add(line, f'eps {eps:g}/255: AUC {roc_auc(alarms, curves[eps]):.3f}')
        chart.axes.set(
            xscale='log' if first else 'linear',
            xlim=(first or -0.02, 1.02),
            ylim=(-0.02, 1.02),
            xlabel=f'false alarms among {len(alarms)} clean images',
            ylabel='attacked images flagged',
        )
        chart.axes.xaxis.set_major_formatter('{x:g}')
        return chart.svg()


def amplified_noise(clean: np.ndarray, attacked: np.ndarray, factor: float) -> np.ndarray:
    """Amplified difference of two images around mid grey.

    Args:
        clean, attacked: (h, w, 3) uint8.
        factor: factor of the difference.

    Returns:
        (h, w, 3) uint8, clipped: ``128 + factor * (attacked - clean)``.
    """
    return cv2.addWeighted(attacked, factor, clean, -factor, MID_GREY)


def noise_factor(eps: float) -> float:
    """The factor that maps a difference of ``eps`` (1/255) from mid grey to white."""
    return 127 / eps


def spectrum(bgr: np.ndarray) -> np.ndarray:
    """Natural logarithm of the DCT magnitudes of an (h, w, 3) uint8 image, (h, w) float32."""
    return log_spectrum(torch.from_numpy(bgr / 255).permute(2, 0, 1)[None])[0].float().numpy()


def coloured(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map an (h, w) array to viridis, dark at ``low`` and yellow at ``high``; returns (h, w, 3) BGR uint8."""
    return cv2.applyColorMap(_levels(values, low, high), cv2.COLORMAP_VIRIDIS)


def change(clean: np.ndarray, attacked: np.ndarray) -> np.ndarray:
    """Map the difference of two log spectra, (h, w), to grey levels: brighter where the second is larger."""
    limit = float(np.log(LARGEST_CHANGE))
    return _levels(attacked - clean, -limit, limit)


def _levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    span = max(high - low, 1e-6)  # a flat image has no span
    return np.clip(np.rint((values - low) * (255 / span)), 0, 255).astype(np.uint8)


def _subjects(rows: Sequence[ResultRow]) -> list[Subject]:
    return list(dict.fromkeys(row.subject for row in rows))


def _curve(rows: Sequence[ResultRow], subject: Subject, attacks: Sequence[str]) -> list[ResultRow]:
    """Rows of a subject, by eps, for the first of the attacks under which its stability was measured."""
    for attack in attacks:
        found = [row for row in rows if row.subject == subject and row.attack == attack and STABILITY in row.estimates]
        if found:
            return sorted(found, key=lambda row: row.eps)
    return []


def _scores(records: Iterable[Record]) -> list[float]:
    return [record.score for record in records if record.score is not None]


def _draw_curve(
    chart: Chart,
    number: int,
    subject: Subject,
    curve: Sequence[ResultRow],
    noise: Sequence[ResultRow],
    alpha: float,
) -> None:
    colour = colour_of(number)
    eps, found = [row.eps for row in curve], [row.estimates[STABILITY] for row in curve]
    chart.axes.fill_between(eps, [e.low for e in found], [e.high for e in found], color=colour, alpha=alpha, lw=0)
    chart.axes.plot(
        [row.eps for row in noise], [row.estimates[STABILITY].mean for row in noise], ':', color=colour, lw=1.3
    )
    (line,) = chart.axes.plot(eps, [e.mean for e in found], color=colour, marker=MARKERS[number % len(MARKERS)])
    chart.add(line, subject.label, [f'eps {row.eps:g}/255: {_decibels(e)}' for row, e in zip(curve, found)])


def _draw_point(chart: Chart, number: int, subject: Subject, x: MetricEstimate, y: MetricEstimate) -> None:
    colour = colour_of(number)
    chart.axes.plot([x.low, x.high], [y.mean] * 2, color=colour, lw=1, alpha=0.45)
    chart.axes.plot([x.mean] * 2, [y.low, y.high], color=colour, lw=1, alpha=0.45)
    (point,) = chart.axes.plot(
        x.mean, y.mean, color=colour, marker=MARKERS[number % len(MARKERS)], markersize=8, linestyle='none'
    )
    digits = 3 if abs(x.mean) < 2 else 2
    clean = f'{x.mean:.{digits}f} [{x.low:.{digits}f}, {x.high:.{digits}f}]'
    chart.add(point, subject.label, [f'clean {clean}, stability {_decibels(y)}'])


def _decibels(found: MetricEstimate) -> str:
    return f'{found.mean:.2f} dB [{found.low:.2f}, {found.high:.2f}]'
