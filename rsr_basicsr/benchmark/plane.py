"""Results at equal sharpness: every network, blended with bicubic upscaling, at the clean distance of a reference."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from rsr_basicsr.benchmark.names import CLEAN, NO_DEFENSE, STABILITY, WORST_CASE
from rsr_basicsr.benchmark.plane_options import BLEND, is_interpolation
from rsr_basicsr.benchmark.summary import MetricEstimate, Results, Subject, estimate

_TOLERANCE = 0.01  # share of the level by which the distance of a blend may differ to count as reaching it
NOT_REACHED = 'not reached'
#: All measured blends of the network are sharper than the level
NO_BLEND = 'no blend measured'


class CurvePoint(NamedTuple):
    """A measured blend of a network.

    Attributes:
        alpha: share of the network: 0 is bicubic upscaling, 1 the network itself.
        clean: the measure for clean images, averaged over the images of the curve.
    """

    alpha: float
    subject: Subject
    clean: float


@dataclass(frozen=True)
class LevelResult:
    """A network at a level of sharpness, under the worst case of one eps.

    Attributes:
        level: clean distance to the original at which it is stated.
        alpha: its share in the blend at the level, interpolated; None if there is none.
        problem: why there is none: :data:`NOT_REACHED` or :data:`NO_BLEND`; empty otherwise.
        values: metric name -> image -> value.
    """

    network: str
    eps: float
    level: float
    alpha: float | None = None
    problem: str = ''
    values: Mapping[str, Mapping[str, float]] | None = None

    def estimate(self, metric: str) -> MetricEstimate | None:
        """The mean of a metric with its interval; None if it was not measured."""
        return of_images((self.values or {}).get(metric, {}))

    def difference(self, metric: str, other: Mapping[str, float]) -> MetricEstimate | None:
        """Paired difference of a metric to another subject's values, over the common images; None without any."""
        mine = (self.values or {}).get(metric, {})
        return of_images({image: value - other[image] for image, value in mine.items() if image in other})


class Plane:
    """Results of a benchmark by sharpness, the clean distance to the original, and robustness.

    Args:
        results: results with a block ``plane`` in their options.

    Attributes:
        measure: name of the metric of the sharpness.
        reference: name of the network that sets the level.
        perceptual: name of the metric of the perceptual distance to the clean output; None without.
        consistency: name of the metric of the consistency with the input; None without.
        subjects: data set -> the subjects measured on it.
    """

    def __init__(self, results: Results) -> None:
        self.results, self.options = results, results.options['plane']
        self.subjects = {dataset: results.subjects(dataset) for dataset in results.datasets}
        self._known: dict[tuple[str, Subject, float, str], dict[str, float]] = {}
        self.measure: str = self.options['measure']
        self.reference: str = self.options['reference']
        self.perceptual = self._first('calculate_perceptual_stability')
        self.consistency = self._first('calculate_lr_consistency')

    @classmethod
    def of(cls, results: Results) -> Plane | None:
        """The plane of the results; None if the run had none."""
        plane = results.options.get('plane')
        return cls(results) if plane and plane['measure'] in results.metrics else None

    @property
    def metrics(self) -> list[str]:
        """What is compared at equal sharpness: distance to the original, stability, and what else was measured."""
        return [self.measure, STABILITY, *filter(None, (self.perceptual, self.consistency))]

    @property
    def datasets(self) -> list[str]:
        """The data sets with a ground truth on which the reference was measured."""
        return [dataset for dataset in self.results.datasets if self._clean(dataset, self.own(self.reference))]

    def level(self, dataset: str) -> float:
        """The clean distance of the reference, at which all networks are compared."""
        return fmean(self._clean(dataset, self.own(self.reference)).values())

    def tells_sharpness(self, dataset: str) -> bool:
        """Whether the measure rates the reference as closer to the original than bicubic upscaling, where known."""
        clean = [point.clean for point in self.curve(dataset, self.reference) if point.alpha == 0]
        if dataset == self.options.get('dataset'):
            clean += filter(None, [self.options.get('bicubic')])
        return all(bicubic > self.level(dataset) for bicubic in clean)

    def own(self, network: str) -> Subject:
        """The network without a defence."""
        return Subject(network, NO_DEFENSE)

    def networks(self, dataset: str) -> list[str]:
        """The networks that were measured without a defence, the reference first; plain interpolation is none."""
        found = [
            subject.network
            for subject in self.subjects[dataset]
            if subject.defense == NO_DEFENSE and not self._is_interpolation(subject.network)
        ]
        return sorted(found, key=lambda name: name != self.reference)

    def bicubic(self, dataset: str) -> Subject | None:
        """Bicubic upscaling, if it was measured."""
        return next((s for s in self.subjects[dataset] if self._alpha(s, s.network) == 0), None)

    def points(self, dataset: str) -> list[Subject]:
        """What is compared with the blends of the reference: other networks and defences, but no blends."""
        return [
            subject
            for subject in self.subjects[dataset]
            if subject != self.own(self.reference)
            and not self.is_blend(subject)
            and not self._is_interpolation(subject.network)
            and self._clean(dataset, subject)
        ]

    def is_blend(self, subject: Subject) -> bool:
        """Whether the defence of a subject is a blend with bicubic upscaling."""
        return self._defense(subject).get('type') == BLEND

    def curve(self, dataset: str, network: str) -> list[CurvePoint]:
        """The measured blends of a network, in ascending order of alpha, over the images that all of them have.

        Blends with less than half of the images, as in an unfinished run, are left out.
        """
        found: dict[float, tuple[Subject, dict[str, float]]] = {}
        for subject in self.subjects[dataset]:
            alpha, clean = self._alpha(subject, network), self._clean(dataset, subject)
            if alpha is not None and clean:
                found.setdefault(alpha, (subject, clean))
        most = max((len(clean) for _, clean in found.values()), default=0)
        found = {alpha: (subject, clean) for alpha, (subject, clean) in found.items() if len(clean) >= most / 2}
        common = set.intersection(*(set(clean) for _, clean in found.values())) if found else set()
        return [
            CurvePoint(alpha, subject, fmean(clean[image] for image in sorted(common)))
            for alpha, (subject, clean) in sorted(found.items())
            if common
        ]

    def at_level(self, dataset: str, network: str, eps: float, level: float | None = None) -> LevelResult:
        """A network at a clean distance to the original, interpolated linearly between its measured blends.

        Args:
            dataset: name of the data set.
            network: name of the network.
            eps: budget of the attacks in 1/255; 0 for clean images.
            level: the clean distance, by default that of the reference.
        """
        curve = self.curve(dataset, network)
        wanted = self.level(dataset) if level is None else level
        if level is None and network == self.reference:
            weights = [(point, 1.0) for point in curve if point.subject == self.own(network)]
        else:
            weights = _weights(curve, wanted)
        if not weights:
            blurry = all(point.clean > wanted for point in curve)
            return LevelResult(network, eps, wanted, problem=NOT_REACHED if blurry else NO_BLEND)
        values = {metric: self._interpolated(dataset, weights, eps, metric) for metric in self.metrics}
        alpha = sum(weight * point.alpha for point, weight in weights)
        return LevelResult(network, eps, wanted, alpha, values=values)

    def values(self, dataset: str, subject: Subject, eps: float, metric: str) -> dict[str, float]:
        """A metric of a subject per image under the worst case, or of clean images at eps 0."""
        key = dataset, subject, eps, metric
        if key not in self._known:
            found = self.results.values(dataset, subject, WORST_CASE if eps else CLEAN, eps, metric)
            self._known[key] = {image: fmean(values) for image, values in found.items()}
        return self._known[key]

    def against_blends(self, dataset: str, subject: Subject, eps: float) -> LevelResult:
        """The blend of the reference with bicubic upscaling that is as sharp as a subject: the line to beat."""
        return self.at_level(dataset, self.reference, eps, fmean(self._clean(dataset, subject).values()))

    def _interpolated(
        self, dataset: str, weights: Sequence[tuple[CurvePoint, float]], eps: float, metric: str
    ) -> dict[str, float]:
        measured = [self.values(dataset, point.subject, eps, metric) for point, _ in weights]
        common = sorted(set.intersection(*map(set, measured)))
        return {
            image: sum(weight * values[image] for (_, weight), values in zip(weights, measured)) for image in common
        }

    def _clean(self, dataset: str, subject: Subject) -> dict[str, float]:
        return self.values(dataset, subject, 0, self.measure)

    def _alpha(self, subject: Subject, network: str) -> float | None:
        """Share of the network in a subject, if that is one of its blends; bicubic upscaling is a blend of any."""
        block = self._network(subject.network)
        if subject.defense == NO_DEFENSE and is_interpolation(block) and block.get('mode', 'bicubic') == 'bicubic':
            return 0.0
        if subject.network != network or self._is_interpolation(network):
            return None
        if subject.defense == NO_DEFENSE:
            return 1.0
        return float(self._defense(subject).get('alpha', 0.5)) if self.is_blend(subject) else None

    def _network(self, name: str) -> Mapping[str, Any]:
        return self.results.options.get('networks', {}).get(name) or {}

    def _defense(self, subject: Subject) -> Mapping[str, Any]:
        return self.results.options.get('defenses', {}).get(subject.defense) or {}

    def _is_interpolation(self, name: str) -> bool:
        return is_interpolation(self._network(name))

    def _first(self, kind: str) -> str | None:
        return next((name for name, metric in self.results.metrics.items() if metric['type'] == kind), None)


def _weights(curve: Sequence[CurvePoint], level: float) -> list[tuple[CurvePoint, float]]:
    """Points of a curve and their weights, whose weighted mean has the level; empty if the curve does not reach it.

    From bicubic upscaling on: behind its minimum a curve rises again, by oversharpening.
    """
    for before, after in itertools.pairwise(curve):
        if before.clean >= level >= after.clean and before.clean > after.clean:
            share = (before.clean - level) / (before.clean - after.clean)
            return [(point, weight) for point, weight in ((before, 1 - share), (after, share)) if weight]
    nearest = min(curve, key=lambda point: abs(point.clean - level), default=None)
    if nearest is not None and abs(nearest.clean - level) <= _TOLERANCE * abs(level):
        return [(nearest, 1.0)]
    return []


def of_images(values: Mapping[str, float]) -> MetricEstimate | None:
    """The mean over images, from image -> value, with its interval; None without any."""
    return estimate([[value] for value in values.values()]) if values else None
