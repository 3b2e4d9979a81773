"""What a report draws: charts as SVG, which need matplotlib, and images of noise and of spectra."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from xml.etree import ElementTree

import cv2
import numpy as np
import torch

from rsr_basicsr.benchmark.names import CLEAN, STABILITY
from rsr_basicsr.benchmark.record import Record
from rsr_basicsr.benchmark.summary import WORST_CASE, Row, Subject
from rsr_basicsr.metrics.detection import roc_auc, roc_curve
from rsr_basicsr.ops.frequency import log_spectrum

# Okabe and Ito's colours, which the colour-blind tell apart, without those that get lost on white or on black.
COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#8c8c8c')
LARGEST_CHANGE = 32  # factor between two magnitudes that is drawn as pure white (or its inverse, as black)
MID_GREY = 128
MARKERS = 'osD^vPX<>'  # as many as have no factor in common with the colours: 63 subjects before a pair returns
_INK = '#010203'  # stands for the colour of the page's text, which matplotlib has no word for
_MANY = 100  # clean images: with fewer, a logarithmic axis of false alarms would be mostly empty
_LEGEND_WIDTH = 48  # characters of the legend's line
_LONGEST = 110  # characters of a label; the whole of it is in the title of its line
_SIZE = 4.2, 2.8  # inches, without the legend: small, so that the text can be read on a phone
_STYLE = {
    'figure.constrained_layout.use': True,
    'font.size': 9,
    'legend.fontsize': 8,
    'legend.frameon': False,
    'svg.fonttype': 'none',
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'axes.axisbelow': True,
    'grid.color': '#8c8c8c',
    'grid.alpha': 0.25,
    'grid.linewidth': 0.6,
    'lines.linewidth': 1.6,
    'lines.markersize': 5,
    'figure.facecolor': 'none',
    'axes.facecolor': 'none',
    **dict.fromkeys(['text.color', 'axes.labelcolor', 'axes.edgecolor', 'xtick.color', 'ytick.color'], _INK),
}


def available() -> bool:
    """Whether there is a matplotlib that can draw them: 3.7 or later, which knows legends outside the axes."""
    try:
        import matplotlib.figure
    except ImportError:
        return False
    return matplotlib.__version_info__[:2] >= (3, 7)


def robustness(rows: Sequence[Row], noise: Sequence[str] = ()) -> str | None:
    """Stability under the worst case against eps, with intervals, and under random noise as a dotted line.

    Args:
        rows: of one data set.
        noise: names of the attacks that are random noise; the first that a subject has is drawn.

    Returns:
        An ``svg`` element, or None where nothing was measured.
    """
    curves = {subject: _curve(rows, subject, [WORST_CASE]) for subject in _subjects(rows)}
    strengths = sorted({row.eps for curve in curves.values() for row in curve})
    if not strengths:
        return None
    with _Chart('robustness', rows[0].dataset) as chart:
        for number, (subject, curve) in enumerate(curves.items()):
            if curve:
                # Many bands, one over the other, would hide each other.
                alpha = 0.15 if len(curves) <= len(COLOURS) else 0.06
                _draw_curve(chart, number, subject, curve, _curve(rows, subject, noise), alpha)
        axes = chart.axes
        axes.set_xscale('log', base=2)  # budgets double; so do their steps on paper
        axes.set(xlim=(strengths[0] / 1.12, strengths[-1] * 1.12), xlabel='eps (1/255)', ylabel='stability (dB)')
        axes.set_xticks(strengths, [f'{eps:g}' for eps in strengths])
        axes.set_xticks([], minor=True)
        if any(_curve(rows, subject, noise) for subject in curves):
            chart.legend.append((axes.plot([], [], ':', color='#8c8c8c')[0], 'dotted: random noise'))
        return chart.svg()


def trade_off(rows: Sequence[Row], metric: str, unit: str = '') -> str | None:
    """A metric of the clean images against stability under the worst case of the largest eps, with intervals.

    Args:
        rows: of one data set.
        metric: one that is measured on clean images.
        unit: of it.

    Returns:
        An ``svg`` element, or None where no subject has both.
    """
    largest = max((row.eps for row in rows if row.attack == WORST_CASE), default=None)
    points = {}
    for subject in _subjects(rows):
        found = {row.attack: row.estimates for row in rows if row.subject == subject and row.eps in (0, largest)}
        x, y = found.get(CLEAN, {}).get(metric), found.get(WORST_CASE, {}).get(STABILITY)
        points[subject] = (x, y) if x and y else None
    if not any(points.values()):
        return None
    with _Chart('trade-off', rows[0].dataset) as chart:
        for number, (subject, point) in enumerate(points.items()):
            if point:
                _draw_point(chart, number, subject, *point)
        label = _printable(f'{_shortened(metric)}, clean images' + (f' ({unit})' if unit else ''))
        chart.axes.set_xlabel(textwrap.fill(label, _LEGEND_WIDTH), parse_math=False)
        chart.axes.set_ylabel(f'stability at eps {largest:g}/255 (dB)')
        chart.axes.margins(0.12)
        return chart.svg()


def detector(clean: Iterable[Record], attacked: Mapping[float, Iterable[Record]]) -> str | None:
    """The detector's ROC, a curve an eps.

    Args:
        clean: records of the clean images of one subject.
        attacked: eps in 1/255 -> records of the images attacked with it.

    Returns:
        An ``svg`` element, or None where there are no scores.
    """
    clean = list(clean)
    alarms = _scores(clean)
    curves = {eps: _scores(records) for eps, records in attacked.items() if _scores(records)}
    if not alarms or not curves:
        return None
    first = 0.5 / len(alarms) if len(alarms) >= _MANY else 0
    with _Chart('detector', clean[0].dataset, clean[0].network, clean[0].defense) as chart:
        chance = np.geomspace(first, 1) if first else np.array([0, 1])
        chart.legend.append((chart.axes.plot(chance, chance, '--', color='#8c8c8c', lw=1)[0], 'chance'))
        for number, eps in enumerate(sorted(curves)):
            false, found = roc_curve(alarms, curves[eps])
            (line,) = chart.axes.step(
                np.maximum(false, first), found, where='post', color=COLOURS[number % len(COLOURS)]
            )
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
    """Difference of two images around mid grey.

    Args:
        clean, attacked: (h, w, 3) uint8.
        factor: what a difference of one level is multiplied by.

    Returns:
        (h, w, 3) uint8, clipped: ``128 + factor * (attacked - clean)``.
    """
    return cv2.addWeighted(attacked, factor, clean, -factor, MID_GREY)


def noise_factor(eps: float) -> float:
    """The factor at which a difference of ``eps`` (1/255) reaches from mid grey to white."""
    return 127 / eps


def spectrum(bgr: np.ndarray) -> np.ndarray:
    """Natural logarithm of the DCT magnitudes of an (h, w, 3) uint8 image, (h, w) float32."""
    return log_spectrum(torch.from_numpy(bgr / 255).permute(2, 0, 1)[None])[0].float().numpy()


def coloured(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Draw an (h, w) array in viridis, dark at ``low`` and yellow at ``high``, as (h, w, 3) BGR uint8."""
    return cv2.applyColorMap(_levels(values, low, high), cv2.COLORMAP_VIRIDIS)


def change(clean: np.ndarray, attacked: np.ndarray) -> np.ndarray:
    """Draw the difference of two spectra, (h, w): mid grey where there is none, white where the second has more."""
    limit = np.log(LARGEST_CHANGE)
    return _levels(attacked - clean, -limit, limit)


def _levels(values, low, high):
    span = max(high - low, 1e-6)  # a flat image has no span
    return np.clip(np.rint((values - low) * (255 / span)), 0, 255).astype(np.uint8)


def _subjects(rows) -> list[Subject]:
    return list(dict.fromkeys(row.subject for row in rows))


def _curve(rows, subject, attacks) -> list[Row]:
    """The rows of a subject with a stability under the first of the attacks that it has, by eps."""
    for attack in attacks:
        found = [row for row in rows if row.subject == subject and row.attack == attack and STABILITY in row.estimates]
        if found:
            return sorted(found, key=lambda row: row.eps)
    return []


def _scores(records):
    return [record.score for record in records if record.score is not None]


def _draw_curve(chart, number, subject, curve, noise, alpha):
    colour = COLOURS[number % len(COLOURS)]
    eps, found = [row.eps for row in curve], [row.estimates[STABILITY] for row in curve]
    chart.axes.fill_between(eps, [e.low for e in found], [e.high for e in found], color=colour, alpha=alpha, lw=0)
    chart.axes.plot(
        [row.eps for row in noise], [row.estimates[STABILITY].mean for row in noise], ':', color=colour, lw=1.3
    )
    (line,) = chart.axes.plot(eps, [e.mean for e in found], color=colour, marker=MARKERS[number % len(MARKERS)])
    chart.add(line, subject.label)


def _draw_point(chart, number, subject, x, y):
    colour = COLOURS[number % len(COLOURS)]
    chart.axes.plot([x.low, x.high], [y.mean] * 2, color=colour, lw=1, alpha=0.45)
    chart.axes.plot([x.mean] * 2, [y.low, y.high], color=colour, lw=1, alpha=0.45)
    (point,) = chart.axes.plot(
        x.mean, y.mean, color=colour, marker=MARKERS[number % len(MARKERS)], markersize=8, linestyle='none'
    )
    chart.add(point, subject.label)


class _Chart:
    """A figure with one pair of axes and a legend below, and matplotlib's settings for as long as it is drawn.

    Args:
        names: what tells it from the others of a page; goes into the ids, so that no two charts share one.
    """

    def __init__(self, *names: str):
        import matplotlib
        from matplotlib.figure import Figure  # not pyplot, which would choose a backend for the whole process

        self._settings, self._matplotlib = matplotlib.rc_context(), matplotlib
        self._salt, self._figure_type = repr(names), Figure
        self.legend: list[tuple] = []
        self._titles: dict[str, str] = {}

    def __enter__(self) -> _Chart:
        self._settings.__enter__()
        self._matplotlib.rcdefaults()  # whatever the user has made of them
        self._matplotlib.rcParams.update({**_STYLE, 'svg.hashsalt': self._salt})
        self.figure = self._figure_type(figsize=_SIZE)
        self.axes = self.figure.add_subplot()
        return self

    def __exit__(self, *error) -> None:
        self._settings.__exit__(*error)

    def add(self, line, label: str) -> None:
        """Name a line, in the legend and for whoever points at it."""
        line.set_gid(f'series {len(self._titles)}')
        self._titles[line.get_gid()] = label
        self.legend.append((line, label))

    def svg(self) -> str:
        """The finished chart as an ``svg`` element."""
        self._draw_legend()
        written = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'Glyph')  # it is the reader's browser that needs the font
            self.figure.savefig(written, format='svg', metadata={'Date': None})
        return _inline(written.getvalue(), self._titles)

    def _draw_legend(self):
        labels = [textwrap.fill(_shortened(_printable(label)), _LEGEND_WIDTH) for _, label in self.legend]
        columns = 2 if max(map(len, labels)) <= _LEGEND_WIDTH // 2 - 3 else 1
        lines = sum(label.count('\n') + 1 for label in labels)
        self.figure.set_figheight(_SIZE[1] + 0.17 * -(-lines // columns))
        # Named by numbers first: matplotlib drops what begins with an underscore, and reads formulas between dollars.
        legend = self.figure.legend(
            [handle for handle, _ in self.legend],
            list(map(str, range(len(labels)))),
            loc='outside lower center',
            ncols=columns,
        )
        for text, label in zip(legend.get_texts(), labels):
            text.set_parse_math(False)
            text.set_text(label)


def _shortened(label):
    """The label, without its middle where it is too long."""
    half = _LONGEST // 2
    return label if len(label) <= _LONGEST else f'{label[:half]} … {label[-half:]}'


def _printable(label):
    """A label without what XML has no place for, as a file's name may hold it."""
    return ''.join(letter if letter.isprintable() else ' ' for letter in label)


def _inline(svg: bytes, titles: Mapping[str, str]) -> str:
    """A file of matplotlib's as an element of an HTML page.

    HTML knows SVG without its namespaces; an id must be one in the whole page; and matplotlib's style sheet would
    apply to the whole page, too.
    """
    root = ElementTree.fromstring(svg)
    root.remove(next(child for child in root if child.tag.endswith('metadata')))
    text = svg.decode()
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag.endswith('}style')]:
            parent.remove(child)
        parent.tag = parent.tag.split('}')[-1]
        attributes = {key.split('}')[-1]: value for key, value in parent.attrib.items()}
        identity = attributes.get('id')
        if identity is not None and f'#{identity}"' not in text and f'#{identity})' not in text:
            del attributes['id']
        if 'style' in attributes:
            attributes['style'] = attributes['style'].replace(_INK, 'currentColor')
        parent.attrib.clear()
        parent.attrib.update(attributes)
        if identity in titles:
            parent.set('class', 'series')
            title = ElementTree.Element('title')
            title.text = _printable(titles[identity])
            parent.insert(0, title)
    for name in ('width', 'height', 'version'):
        root.attrib.pop(name, None)
    root.set('style', 'stroke-linejoin: round; stroke-linecap: butt')
    return ElementTree.tostring(root, encoding='unicode')
