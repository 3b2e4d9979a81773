"""The verdict at equal sharpness, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rsr_basicsr.benchmark.names import STABILITY
from rsr_basicsr.benchmark.plane import NOT_REACHED, Plane, of_images
from rsr_basicsr.benchmark.report.equal_sharpness import BlendRow, LevelRow, blend_rows, level_rows, title_of
from rsr_basicsr.benchmark.report.tables import signed, written
from rsr_basicsr.benchmark.summary import MetricEstimate, Results
from rsr_basicsr.metrics.stability_metric import rms_gain

COMPARABLE = 5  # images; intervals over fewer are narrow by chance


def plane_verdict(results: Results, dataset: str) -> list[str]:
    """What a data set says at equal sharpness at the largest eps; empty without a plane."""
    plane = Plane.of(results)
    if plane is None or dataset not in plane.datasets or not results.strengths:
        return []
    levels = level_rows(plane, dataset)
    others = [row for row in levels if row.network != plane.reference]
    return [
        *_at_level(plane, dataset, others),
        *_gains(plane, dataset, levels),
        *_blurrier(plane, others),
        *_against_blends(plane, blend_rows(plane, dataset)),
    ]


def insignificant(plane: Plane, dataset: str) -> list[str]:
    """The networks whose distance under attack does not differ significantly from that of the reference."""
    rows = level_rows(plane, dataset)
    eps = max(plane.results.strengths, default=0)
    differences = {row.network: row.differences[eps] for row in rows}
    return [network for network, found in differences.items() if found is not None and found.low <= 0 <= found.high]


def _at_level(plane: Plane, dataset: str, rows: Sequence[LevelRow]) -> Iterator[str]:
    eps = plane.results.strengths[-1]
    reference = plane.at_level(dataset, plane.reference, eps).estimate(plane.measure)
    options = plane.results.metrics[plane.measure]
    measure = title_of(plane, plane.measure)
    for row in rows:
        found, difference = row.results[eps].estimate(plane.measure), row.differences[eps]
        if found is None or reference is None or difference is None:
            continue
        yield (
            f'{dataset}: attacked at {eps:g}/255, {row.network} at the sharpness of {plane.reference} '
            f'({_alpha(row)}) has {measure} {written(options, found.mean)} to the original, '
            f'{plane.reference} {written(options, reference.mean)}: {_judged(plane, difference, plane.reference)}.'
        )


def _judged(plane: Plane, difference: MetricEstimate, other: str) -> str:
    """Whether a difference in the distance to the original is an advantage."""
    options = plane.results.metrics[plane.measure]
    numbers = f'{signed(options, difference.mean)} [{signed(options, difference.low)}, '
    numbers += f'{signed(options, difference.high)}]'
    if difference.count < COMPARABLE:
        return f'{signed(options, difference.mean)}, on too few images to compare'
    if difference.mean >= 0:
        return f'{numbers}, no better than {other}'
    return f'{numbers}, {"not significant" if difference.high >= 0 else "closer to the original"}'


def _gains(plane: Plane, dataset: str, rows: Sequence[LevelRow]) -> Iterator[str]:
    """How often each network amplifies the attack at the sharpness of the reference."""
    eps = plane.results.strengths[-1]
    found = {row.network: row.results[eps].estimate(STABILITY) for row in rows}
    bicubic = plane.bicubic(dataset)
    if bicubic and found:
        found['bicubic upscaling'] = of_images(plane.values(dataset, bicubic, eps, STABILITY))
    times = {name: f'{rms_gain(each.mean, eps):.1f} times ({each.mean:.1f} dB)' for name, each in found.items() if each}
    if times:
        first, *others = times
        yield (
            f'At this sharpness, {first} amplifies the attack {times[first]}'
            + ''.join(f', {name} {times[name]}' for name in others)
            + '.'
        )


def _blurrier(plane: Plane, rows: Sequence[LevelRow]) -> Iterator[str]:
    names = [row.network for row in rows if row.at_level.problem == NOT_REACHED]
    if names:
        yield f'No blend reaches the sharpness of {plane.reference}: {", ".join(names)}.'


def _against_blends(plane: Plane, rows: Sequence[BlendRow]) -> Iterator[str]:
    """Subjects as they are that are no better than a blend of the reference with bicubic upscaling, or less stable."""
    options = plane.results.metrics[plane.measure]
    beaten, unstable = [], []
    for row in rows:
        difference = row.difference(plane.measure)
        own, blend = row.estimate(plane.measure), row.blend.estimate(plane.measure)
        stability = row.difference(STABILITY)
        if not (difference and own and blend and difference.count >= COMPARABLE):
            continue
        if difference.mean < 0:
            if stability and stability.high < 0:
                unstable.append(f'{row.subject.label} ({stability.mean:+.1f} dB)')
        else:
            beaten.append(
                f'{row.subject.label} ({written(options, own.mean)} under attack, the blend '
                f'{written(options, blend.mean)})'
            )
    if beaten:
        yield f'No better than blending {plane.reference} with bicubic to the same sharpness: {", ".join(beaten)}.'
    if unstable:
        yield f'Closer to the original under attack than such a blend, but less stable: {", ".join(unstable)}.'


def _alpha(row: LevelRow) -> str:
    alpha = row.at_level.alpha
    return 'as it is' if alpha == 1 else f'blend {alpha:.2f}'
