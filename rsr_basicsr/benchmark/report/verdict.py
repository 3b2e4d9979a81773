"""The verdict of a benchmark: its results at the largest eps in a few sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rsr_basicsr.benchmark.gate import gate_result
from rsr_basicsr.benchmark.names import CLEAN, NO_DEFENSE, STABILITY, WORST_CASE
from rsr_basicsr.benchmark.plane import Plane
from rsr_basicsr.benchmark.report.plane_verdict import COMPARABLE, plane_verdict
from rsr_basicsr.benchmark.summary import MetricEstimate, ResultRow, Results, Subject, is_interpolation
from rsr_basicsr.metrics.stability_metric import rms_gain


def verdict(results: Results) -> list[str]:
    """The results of the largest eps per data set, one sentence per item; first those at equal sharpness."""
    return [sentence for dataset in results.datasets for sentence in _of_dataset(results, dataset)]


def _of_dataset(results: Results, dataset: str) -> Iterator[str]:
    eps = max(results.strengths, default=None)
    plane = Plane.of(results)
    # Blends are points of a network's curve, and no defences.
    subjects = [subject for subject in results.subjects(dataset) if plane is None or not plane.is_blend(subject)]
    if eps is None or not subjects:
        return
    yield from plane_verdict(results, dataset)
    rows = {subject: results.row(dataset, subject, WORST_CASE, eps) for subject in subjects}
    measured = [subject for subject in subjects if STABILITY in rows[subject].estimates]
    networks = [subject for subject in measured if not is_interpolation(results, subject)]
    if not networks:
        return
    undefended = [subject for subject in networks if subject.defense == NO_DEFENSE]
    undefended.sort(key=lambda subject: plane is not None and subject.network != plane.reference)
    baseline = next(iter(undefended), networks[0])
    differences = _differences(results, dataset, eps, baseline, networks)
    best = max(differences, key=lambda subject: differences[subject].mean, default=None)
    if best is not None and differences[best].low <= 0:
        best = None
    noise = _noise(results, dataset, baseline, eps)
    stability = rows[baseline].estimates[STABILITY]
    yield (
        f'{dataset}{", each at its own sharpness" if plane else ""}: attacked at {eps:g}/255, the output of '
        f'{baseline.label} keeps {stability.mean:.1f} dB to its clean output'
        + (f', that of {best.label} {rows[best].estimates[STABILITY].mean:.1f} dB.' if best else '.')
    )
    if best is not None:
        more = differences[best]
        yield (
            f'{best.label} is the most stable, by {more.mean:.1f} dB [{more.low:.1f}, {more.high:.1f}]; '
            f'{_clean_cost(results, dataset, best, baseline)}.'
        )
    yield (
        f'The attack changes the output of {baseline.label} {rms_gain(stability.mean, eps):.1f} times as much as the '
        f'input{f"; random noise of the same size leaves {noise.mean:.1f} dB" if noise else ""}.'
    )
    if len(differences) < len(networks) - 1:
        yield f'Too few images to compare networks; at least {COMPARABLE} are needed.'
    yield from _others(baseline, best, differences)
    for subject in measured:
        if is_interpolation(results, subject):
            yield f'Reference: {subject.label} (interpolation) keeps {rows[subject].estimates[STABILITY].mean:.1f} dB.'
    yield from _detectors(results, dataset, rows, measured)


def _differences(
    results: Results, dataset: str, eps: float, baseline: Subject, networks: Sequence[Subject]
) -> dict[Subject, MetricEstimate]:
    """How much more stable each subject is than the baseline, on enough common images to compare."""
    found = {
        subject: results.difference(dataset, subject, baseline, WORST_CASE, eps, STABILITY)
        for subject in networks
        if subject != baseline
    }
    return {subject: more for subject, more in found.items() if more is not None and more.count >= COMPARABLE}


def _others(baseline: Subject, best: Subject | None, differences: Mapping[Subject, MetricEstimate]) -> Iterator[str]:
    """Which other subjects are more stable than the baseline, and which are not."""
    rest = {subject: more for subject, more in differences.items() if subject != best}
    for sentence, found in (
        (f'Also more stable than {baseline.label}', [s for s, more in rest.items() if more.low > 0]),
        (f'Not significantly more stable than {baseline.label}', [s for s, more in rest.items() if more.low <= 0]),
    ):
        if found:
            yield f'{sentence}: {", ".join(f"{s.label} ({rest[s].mean:+.1f} dB)" for s in found)}.'


def _clean_cost(results: Results, dataset: str, subject: Subject, baseline: Subject) -> str:
    """The difference to the baseline on clean images."""
    name = next((name for name, metric in results.metrics.items() if metric['type'] == 'calculate_psnr'), None)
    found = None if name is None else results.difference(dataset, subject, baseline, CLEAN, 0.0, name)
    if found is None:
        return 'the cost on clean images is unknown without PSNR against originals'
    if found.low <= 0 <= found.high:
        return f'no significant difference in PSNR on clean images ({found.mean:+.2f} dB)'
    return (
        f'on clean images its PSNR is {abs(found.mean):.2f} dB {"higher" if found.mean > 0 else "lower"} '
        f'[{found.low:+.2f}, {found.high:+.2f}]'
    )


def _detectors(
    results: Results, dataset: str, rows: Mapping[Subject, ResultRow], measured: Sequence[Subject]
) -> Iterator[str]:
    for subject in measured:
        clean = results.row(dataset, subject, CLEAN, 0.0)
        if clean.flagged is not None and rows[subject].flagged is not None:
            yield (
                f'The detector of {subject.label} flags {_share(clean.flagged, clean.images)} clean images and '
                f'{_share(rows[subject].flagged, rows[subject].images)} images of the worst attack.'
            )
            yield from _gate(results, dataset, subject, rows[subject])


def _gate(results: Results, dataset: str, subject: Subject, row: ResultRow) -> Iterator[str]:
    """Whether the gate costs the attacker more than it costs the defender."""
    gate = gate_result(results, dataset, subject, row.eps)
    if gate is None:
        return
    reached = (
        f'attacks that stay undetected leave {gate.undetected.mean:.1f} dB on {gate.images} of {gate.measured} images'
        if gate.undetected
        else f'every attack was detected on all of {gate.measured} images'
    )
    if gate.triggered is None:
        yield f'Of {subject.label}, {reached}.'
        return
    yield (
        f'Triggering the gate of {subject.label} on clean images alone leaves {gate.triggered.mean:.1f} dB of '
        f'stability; {reached}.'
    )


def _noise(results: Results, dataset: str, subject: Subject, eps: float) -> MetricEstimate | None:
    """Stability under the first random noise attack."""
    found = [
        results.row(dataset, subject, name, eps).estimates.get(STABILITY)
        for name in results.attacks
        if any(
            r.attack_options.get('type') == 'RandomNoise' for r in results.images(dataset, subject, name, eps).values()
        )
    ]
    return next(iter(found), None)


def _share(share: float | None, count: int) -> str:
    return f'{round((share or 0) * count)} of {count}'
