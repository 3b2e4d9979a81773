"""The result in words: a table for a terminal, sentences, and JSON for programs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from statistics import fmean
from typing import Any

from rsr_basicsr.benchmark.summary import MetricEstimate
from rsr_basicsr.stability.result import CropAttack, GainRow, StabilityResult

_LEGEND = (
    'Gain: RMS change of the output under the attack over its eps, geometric mean over the crops, [95 % interval]. '
    'Levels: RMS change of the output, of 255. Stability: PSNR between the outputs for the attacked and the clean '
    'image. Random: gain under random noise of the same eps.'
)
_WIDTH = 100  # characters of a line
_FEW = 5  # images; intervals over fewer say little about others
_NO_STRONGER = 1.05  # ratio of the gains under attack and under random noise
_STRONGER = 'rsr benchmark -opt options/benchmark/adaptive.yml has attacks that do'


def as_text(result: StabilityResult) -> str:
    """The table for a terminal, with its legend."""
    lines = [['network', 'eps', 'gain', 'levels', 'stability (dB)', 'random'], *map(_cells, result.rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    padded = ['  '.join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]
    return '\n'.join([padded[0], '-' * len(padded[0]), *padded[1:], '', textwrap.fill(_LEGEND, _WIDTH)])


def _cells(row: GainRow) -> list[str]:
    low, high = row.interval
    return [
        row.network,
        str(row.eps),
        f'{times(row.gain)} [{times(low)}, {times(high)}]',
        f'{row.gain * row.eps:.1f}',
        decibels(row.stability),
        times(row.noise_gain),
    ]


def summary(result: StabilityResult) -> list[str]:
    """The answer in two sentences, at the largest eps."""
    eps = result.strengths[-1]
    row, baseline = result.row(eps), result.row(eps, baseline=True)
    verb = f'amplifies noise {times(row.gain)} times' if row.gain >= 1 else f'damps noise to {times(row.gain)} of it'
    return [
        f'Attacked at {eps}/255, {result.network} {verb} ({baseline.network}: {times(baseline.gain)}): its output '
        f'moves by {row.gain * eps:.0f} levels RMS; stability {decibels(row.stability, "dB")}.',
        f'Random noise of the same size: {times(row.noise_gain)} times, {row.noise_gain * eps:.0f} levels.',
    ]


def doubts(result: StabilityResult) -> list[str]:
    """Reasons to doubt the figures, one sentence per item."""
    return list(_doubts(result))


def _doubts(result: StabilityResult) -> Iterator[str]:
    images = result.settings['images']
    if images < _FEW:
        yield (
            f'Only {images} image{"s" * (images != 1)}: the intervals are over crops of '
            f'{"them" if images != 1 else "it"}, and say little about other images.'
        )
    for eps in result.strengths:
        row = result.row(eps)
        if row.gain < _NO_STRONGER * row.noise_gain:
            yield (
                f'At {eps}/255 the attack is hardly stronger than random noise: the gradient of {result.network} may '
                'be hidden. Square, an attack without gradients, tells: see docs/attacks.md.'
            )
    if result.facts['random']:
        yield f'The network draws at random, and this attack does not average over that; {_STRONGER}.'
    if result.facts['detector']:
        yield f'The network has a detector, and this attack does not try to evade it; {_STRONGER}.'


def as_json(result: StabilityResult) -> str:
    """JSON with the figures per network and per crop, the settings and the versions."""
    return json.dumps(
        {
            'network': result.network,
            'facts': dict(result.facts),
            'summary': summary(result),
            'doubts': doubts(result),
            'settings': dict(result.settings),
            'versions': dict(result.versions),
            'rows': [_row(row) for row in result.rows],
            'crops': [
                {
                    'image': one.crop.image.name,
                    'left': one.crop.left,
                    'top': one.crop.top,
                    'width': one.crop.lq.shape[-1],
                    'height': one.crop.lq.shape[-2],
                    'notes': list(one.crop.image.notes),
                    'attacks': [{'eps': eps, 'gain': one.gain(eps), **_of(each)} for eps, each in one.attacks.items()],
                }
                for one in result.crops
            ],
            'failed': list(result.failed),
        },
        indent=1,
    )


def _row(row: GainRow) -> dict[str, Any]:
    return {
        'network': row.network,
        'is_baseline': row.is_baseline,
        'eps': row.eps,
        'gain': row.gain,
        'gain_interval': row.interval,
        'levels': row.gain * row.eps,
        'noise_gain': row.noise_gain,
        'stability': row.stability.mean,
        'stability_interval': [row.stability.low, row.stability.high],
        'noise_stability': row.noise.mean,
        'noise_stability_interval': [row.noise.low, row.noise.high],
    }


def _of(attack: CropAttack) -> dict[str, Any]:
    return {'stability': fmean(attack.stability), 'noise_stability': fmean(attack.noise), 'gate': attack.gate}


def times(gain: float) -> str:
    """A gain with two digits that count: ``12``, ``5.5``, ``0.91``."""
    return f'{gain:.{0 if gain >= 9.95 else 1 if gain >= 0.995 else 2}f}'


def decibels(found: MetricEstimate, unit: str = '') -> str:
    """A stability with its interval."""
    return f'{found.mean:.1f}{f" {unit}" if unit else ""} [{found.low:.1f}, {found.high:.1f}]'
