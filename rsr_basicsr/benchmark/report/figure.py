"""A matplotlib figure as an SVG element of the page."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

_INK = '#010203'  # placeholder for the text colour of the page, which matplotlib cannot express
LEGEND_WIDTH = 48  # characters per line of the legend
_LONGEST = 110  # characters of a label; the title of its line has the full label
_SIZE = 4.2, 2.8  # inches, without the legend: small, so that the text is readable on a phone
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


class Chart:
    """A figure with one pair of axes and a legend below; sets matplotlib's settings within the block.

    Args:
        names: unique names of the chart on the page; they salt its ids, so that no two charts share one.
    """

    def __init__(self, *names: str) -> None:
        import matplotlib
        from matplotlib.figure import Figure  # not pyplot, which would choose a backend for the whole process

        self._settings: Any = matplotlib.rc_context()
        self._matplotlib: Any = matplotlib
        self._salt, self._figure_type = repr(names), Figure
        self.legend: list[tuple[Any, str]] = []
        self._titles: dict[str, list[str]] = {}

    def __enter__(self) -> Chart:
        self._settings.__enter__()
        self._matplotlib.rcdefaults()  # independent of the user's settings
        self._matplotlib.rcParams.update({**_STYLE, 'svg.hashsalt': self._salt})
        self.figure = self._figure_type(figsize=_SIZE)
        self.axes = self.figure.add_subplot()
        return self

    def __exit__(self, *error: Any) -> None:
        self._settings.__exit__(*error)

    def add(self, line: Any, label: str, values: Sequence[str] = ()) -> None:
        """Label a line in the legend and in its tooltip, and its markers, in order, with their values."""
        line.set_gid(f'series {len(self._titles)}')
        self._titles[line.get_gid()] = [label, *(f'{label}, {value}' for value in values)]
        self.legend.append((line, label))

    def svg(self) -> str:
        """The finished chart as an ``svg`` element."""
        self._draw_legend()
        written = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'Glyph')  # the reader's browser needs the font, not this process
            self.figure.savefig(written, format='svg', metadata={'Date': None})
        return _inline(written.getvalue(), self._titles)

    def _draw_legend(self) -> None:
        labels = [textwrap.fill(shortened(printable(label)), LEGEND_WIDTH) for _, label in self.legend]
        columns = 2 if max(map(len, labels)) <= LEGEND_WIDTH // 2 - 3 else 1
        lines = sum(label.count('\n') + 1 for label in labels)
        self.figure.set_figheight(_SIZE[1] + 0.17 * -(-lines // columns))
        # Numbers first: matplotlib drops labels that begin with an underscore and parses formulas between dollars.
        legend = self.figure.legend(
            [handle for handle, _ in self.legend],
            list(map(str, range(len(labels)))),
            loc='outside lower center',
            ncols=columns,
        )
        for text, label in zip(legend.get_texts(), labels):
            text.set_parse_math(False)
            text.set_text(label)


def shortened(label: str) -> str:
    """The label, with its middle cut out if it is too long."""
    half = _LONGEST // 2
    return label if len(label) <= _LONGEST else f'{label[:half]} … {label[-half:]}'


def printable(label: str) -> str:
    """The label without characters that XML cannot hold, which file names may contain."""
    return ''.join(letter if letter.isprintable() else ' ' for letter in label)


def _inline(svg: bytes, titles: Mapping[str, Sequence[str]]) -> str:
    """Turn an SVG file of matplotlib into an element of an HTML page.

    Removes namespaces, which HTML does not need, unused ids, which must be unique in the page, and matplotlib's style
    sheet, which would apply to the whole page.
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
        if identity is not None and identity in titles:
            parent.set('class', 'series')
            whole, *values = titles[identity]
            markers = [child for child in parent.iter() if child.tag.split('}')[-1] == 'use']
            for element, words in [(parent, whole), *zip(markers, values)]:
                title = ElementTree.Element('title')
                title.text = printable(words)
                element.insert(0, title)
    for name in ('width', 'height', 'version'):
        root.attrib.pop(name, None)
    root.set('style', 'stroke-linejoin: round; stroke-linecap: butt')
    return ElementTree.tostring(root, encoding='unicode')
