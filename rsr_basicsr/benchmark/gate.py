"""A gate judged by what it costs the attacker: attacks that stay undetected, and the price of triggering it."""

from __future__ import annotations

from statistics import fmean
from typing import NamedTuple

from rsr_basicsr.benchmark.names import CLEAN, STABILITY
from rsr_basicsr.benchmark.summary import MetricEstimate, Results, Subject, estimate


class GateResult(NamedTuple):
    """A gate under attacks of one eps.

    Args:
        undetected: stability under the worst attack that the detector does not flag, over the images that have one;
            None if every attack was flagged.
        images: number of images with an attack that stays undetected.
        measured: number of attacked images.
        triggered: stability of the clean outputs against masking, without any attack: masked against unmasked. None
            where it was not measured.
    """

    undetected: MetricEstimate | None
    images: int
    measured: int
    triggered: MetricEstimate | None


def gate_result(results: Results, dataset: str, subject: Subject, eps: float) -> GateResult | None:
    """What a gate costs the attacker; None for a network without a detector.

    An attack that is not flagged reaches the unmasked network. An attack whose only aim is to be flagged moves the
    output by the distance between both paths: a gate helps only where that is less than what undetected attacks reach.
    """
    worst: dict[str, float] = {}
    measured: set[str] = set()
    for attack in results.counted(dataset, subject, eps):
        stability = results.values(dataset, subject, attack, eps, STABILITY)
        for image, record in results.images(dataset, subject, attack, eps).items():
            if record.score is None or image not in stability:
                continue
            measured.add(image)
            if record.score <= 0:
                worst[image] = min(worst.get(image, float('inf')), fmean(stability[image]))
    if not measured:
        return None
    clean = results.images(dataset, subject, CLEAN, 0.0).values()
    triggered = [[record.gate_stability] for record in clean if record.gate_stability is not None]
    return GateResult(
        estimate([[value] for value in worst.values()]) if worst else None,
        len(worst),
        len(measured),
        estimate(triggered) if triggered else None,
    )
