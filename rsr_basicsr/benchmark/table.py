"""Means over the pictures, and the plain-text table of them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Iterable, Optional

from rsr_basicsr.benchmark.record import Result

LEGEND = ('PSNR to HR: output vs original. Stability: attacked vs clean output. '
          'Detector: pictures called attacked.')
COLUMNS = (('PSNR to HR', 'dB'), ('stability', 'dB'), ('detector', ''))  # name and unit of what cells() returns
NOTHING = '-'
_NETWORKS_SIDE_BY_SIDE = 2  # more would not fit into a terminal of 100 columns


@dataclass(frozen=True)
class Score:
    """One network at one eps.

    Attributes:
        psnr: dB, mean over the pictures.
        stability: dB, mean over the pictures; None on clean pictures.
        flagged: number of pictures that the detector called attacked; None without a detector.
        judged: number of pictures that the detector decided on.
    """

    psnr: float
    stability: Optional[float]
    flagged: Optional[int]
    judged: int


@dataclass(frozen=True)
class Row:
    """All networks at one eps (1/255, 0 is clean); None stands for a network that was not measured at this eps."""

    eps: float
    scores: dict[str, Optional[Score]]


def summarize(results: Iterable[Result]) -> list[Row]:
    """Average over the pictures: a row per eps, ascending; in each row every network, in the order first met."""
    results = list(results)
    networks = dict.fromkeys(r.network for r in results)
    return [Row(eps, {n: _score([r for r in results if (r.network, r.eps) == (n, eps)]) for n in networks})
            for eps in sorted({r.eps for r in results})]


def format_table(rows: list[Row]) -> str:
    """Lay the rows out as text, two networks side by side, without a newline at the end."""
    networks = list(rows[0].scores) if rows else []
    blocks = [_block(rows, networks[i:i + _NETWORKS_SIDE_BY_SIDE])
              for i in range(0, len(networks), _NETWORKS_SIDE_BY_SIDE)]
    return '\n\n'.join(blocks + [LEGEND])


def eps_name(eps: float) -> str:
    """How the reader meets an eps: 'clean' for 0, else the number in 1/255."""
    return f'{eps:g}' if eps else 'clean'


def decibels(value: Optional[float]) -> str:
    """A number of the table, without its unit."""
    return NOTHING if value is None else f'{value:.2f}'


def cells(score: Optional[Score]) -> tuple[str, str, str]:
    """The words of one network in one row, in the order of COLUMNS."""
    if score is None:
        return NOTHING, NOTHING, NOTHING
    return decibels(score.psnr), decibels(score.stability), _decision(score)


def _decision(score):
    if score.flagged is None:
        return NOTHING
    if score.judged == 1:
        return 'flagged' if score.flagged else 'not flagged'
    return f'flagged {score.flagged} of {score.judged} pictures'


def _score(results):
    if not results:
        return None
    stabilities = [r.stability for r in results if r.stability is not None]
    decisions = [bool(r.detected) for r in results if r.detected is not None]
    return Score(psnr=fmean(r.psnr for r in results),
                 stability=fmean(stabilities) if stabilities else None,
                 flagged=sum(decisions) if decisions else None,
                 judged=len(decisions))


def _block(rows, networks):
    groups = [_aligned([['eps', '/255'] + [eps_name(row.eps) for row in rows]], labels=False)]
    for network in networks:
        body = zip(*(cells(row.scores[network]) for row in rows))
        lines = _aligned([[*head, *column] for head, column in zip(COLUMNS, body)])
        groups.append([network] + lines)
    groups[0].insert(0, '')
    widths = [max(map(len, group)) for group in groups]
    lines = [' | '.join(text.ljust(width) for text, width in zip(line, widths)) for line in zip(*groups)]
    lines.insert(3, '-+-'.join('-' * width for width in widths))
    return '\n'.join(line.rstrip() for line in lines)


def _aligned(columns, labels=True):
    """Join columns of text into lines: numbers to the right; the last column, if it holds words, to the left."""
    widths = [max(map(len, column)) for column in columns]
    last = len(columns) - 1
    return ['  '.join(text.ljust(width) if labels and i == last else text.rjust(width)
                      for i, (text, width) in enumerate(zip(line, widths)))
            for line in zip(*columns)]
