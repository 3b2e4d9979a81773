"""From records to figures: means over images with intervals, and the worst case over all attacks per image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from rsr_basicsr.benchmark.names import CLEAN, NO_DEFENSE, STABILITY, WORST_CASE
from rsr_basicsr.benchmark.record import Record
from rsr_basicsr.metrics.detection import roc_auc
from rsr_basicsr.metrics.inputs import is_higher_better

_RESAMPLES = 2000
_CONFIDENCE = 95  # per cent


@dataclass(frozen=True)
class MetricEstimate:
    """A metric over the images of a data set; the value of an image is its mean over the mask seeds.

    Attributes:
        mean: mean over the images.
        low, high: 95 % interval of the mean, by bootstrap over the images; both equal the mean for a single image.
        worst: worst value over images and mask seeds.
        spread: standard deviation over the images; 0 for a single image.
        seed_spread: standard deviation over the mask seeds, averaged over the images; None if one seed was measured.
        count: number of images.
    """

    mean: float
    low: float
    high: float
    worst: float
    spread: float
    seed_spread: float | None
    count: int


class Subject(NamedTuple):
    """A network behind a defence."""

    network: str
    defense: str

    @property
    def label(self) -> str:
        """Name in tables and sentences."""
        return self.network if self.defense == 'none' else f'{self.network} + {self.defense}'


@dataclass(frozen=True)
class ResultRow:
    """One subject under one attack of one eps on one data set.

    Attributes:
        estimates: metric name -> estimate; metrics that failed on all images are missing.
        images, failed: number of images that were measured, and that failed.
        flagged: share of the images that the detector flags; None without a detector.
        auc: area under the ROC curve of the detector, attacked against clean images; None without a detector and for
            clean images.
        chosen: for a worst case: attack -> number of images on which it was the worst for stability.
    """

    dataset: str
    subject: Subject
    attack: str
    eps: float
    estimates: dict[str, MetricEstimate]
    images: int
    failed: int = 0
    flagged: float | None = None
    auc: float | None = None
    chosen: dict[str, int] = field(default_factory=dict)


class Results:
    """The records of a benchmark, grouped by data set, subject, attack and eps.

    Args:
        records: records of one run, or of several merged runs.
        options: options of the run, or of the merged runs.
    """

    def __init__(self, records: Iterable[Record], options: Mapping[str, Any]) -> None:
        self.options, self.records = options, list(records)
        self.metrics: dict[str, Mapping[str, Any]] = dict(options['metrics'])
        self._groups: dict[tuple[str, Subject, str, float], dict[str, Record]] = defaultdict(dict)
        for record in self.records:
            group = record.dataset, Subject(record.network, record.defense), record.attack, record.eps
            self._groups[group][record.image] = record
        self.datasets = self._in_order('datasets', (record.dataset for record in self.records))
        self.attacks = [name for name in self._in_order('attacks', (r.attack for r in self.records)) if name != CLEAN]
        self.strengths = sorted({record.eps for record in self.records if record.eps})
        self._chosen: dict[tuple[str, Subject, float], dict[str, Record]] = {}

    def subjects(self, dataset: str) -> list[Subject]:
        """The subjects measured on a data set, in the order of the options."""
        places = [
            self._in_order(key, (getattr(r, name) for r in self.records))
            for key, name in (('networks', 'network'), ('defenses', 'defense'))
        ]
        found = {subject for data, subject, *_ in self._groups if data == dataset}
        return sorted(found, key=lambda subject: tuple(place.index(name) for place, name in zip(places, subject)))

    def images(self, dataset: str, subject: Subject, attack: str, eps: float) -> dict[str, Record]:
        """The successful records of a group: image name -> record, sorted by name.

        ``attack`` may be the worst case: the record of the attack with the lowest stability per image.
        """
        if attack == WORST_CASE:
            return self._worst_attacks(dataset, subject, eps)
        found = self._groups.get((dataset, subject, attack, eps), {})
        return {name: found[name] for name in sorted(found) if not found[name].error}

    def measured(self, dataset: str, subject: Subject, attack: str, eps: float) -> int:
        """Number of images in a group, measured or failed."""
        return len(self._groups.get((dataset, subject, attack, eps), {}))

    def values(self, dataset: str, subject: Subject, attack: str, eps: float, metric: str) -> dict[str, list[float]]:
        """A metric per image: image name -> one value per mask seed.

        ``attack`` may be the worst case: the values of the attack that is the worst by this metric per image.
        """
        attacks = self.counted(dataset, subject, eps) if attack == WORST_CASE else [attack]
        worst = min if is_higher_better(self.metrics[metric]) else max
        found: dict[str, list[float]] = {}
        for name in attacks:
            for image, record in self.images(dataset, subject, name, eps).items():
                numbers = [value for value in record.values.get(metric, ()) if value is not None]
                if numbers:
                    found[image] = worst(found.get(image, numbers), numbers, key=fmean)
        return {image: found[image] for image in sorted(found)}

    def counted(self, dataset: str, subject: Subject, eps: float) -> list[str]:
        """The attacks of that eps that count for the worst case.

        They stay inside the L-inf ball and end in 8-bit images. Others are measured and shown, but belong to another
        threat model.
        """
        return [
            name
            for name in self.attacks
            if self._groups.get((dataset, subject, name, eps))
            and _counts(next(iter(self._groups[dataset, subject, name, eps].values())).attack_options)
        ]

    def row(self, dataset: str, subject: Subject, attack: str, eps: float) -> ResultRow:
        """The results of a group; ``attack`` may be the worst case."""
        records = self.images(dataset, subject, attack, eps)
        estimates = {}
        for metric in self.metrics:
            values = self.values(dataset, subject, attack, eps, metric)
            if values:
                estimates[metric] = estimate(list(values.values()), is_higher_better(self.metrics[metric]))
        failed = (
            []
            if attack == WORST_CASE
            else [r for r in self._groups.get((dataset, subject, attack, eps), {}).values() if r.error]
        )
        scores = [record.score for record in records.values() if record.score is not None]
        clean = [r.score for r in self.images(dataset, subject, CLEAN, 0).values() if r.score is not None]
        chosen: dict[str, int] = {}
        for record in records.values() if attack == WORST_CASE else ():
            chosen[record.attack] = chosen.get(record.attack, 0) + 1
        return ResultRow(
            dataset,
            subject,
            attack,
            eps,
            estimates,
            len(records),
            len(failed),
            fmean(score > 0 for score in scores) if scores else None,
            roc_auc(clean, scores) if eps and scores and clean else None,
            chosen,
        )

    def rows(self) -> list[ResultRow]:
        """Rows of all groups and worst cases, per data set and subject, clean first."""
        found = []
        for dataset in self.datasets:
            for subject in self.subjects(dataset):
                found.append(self.row(dataset, subject, CLEAN, 0.0))
                for eps in self.strengths:
                    measured = [name for name in self.attacks if (dataset, subject, name, eps) in self._groups]
                    found += [self.row(dataset, subject, name, eps) for name in measured]
                    if measured:
                        found.append(self.row(dataset, subject, WORST_CASE, eps))
        return found

    def difference(
        self, dataset: str, subject: Subject, other: Subject, attack: str, eps: float, metric: str
    ) -> MetricEstimate | None:
        """Paired difference ``subject - other`` over their common images; None if there is none."""
        mine, others = (self.values(dataset, one, attack, eps, metric) for one in (subject, other))
        pairs = [[fmean(mine[name]) - fmean(others[name])] for name in mine if name in others]
        return estimate(pairs) if pairs else None

    def _worst_attacks(self, dataset: str, subject: Subject, eps: float) -> dict[str, Record]:
        key = dataset, subject, eps
        if key not in self._chosen:
            found: dict[str, tuple[float, Record]] = {}
            for name in self.counted(dataset, subject, eps):
                records = self.images(dataset, subject, name, eps)
                for image, numbers in self.values(dataset, subject, name, eps, STABILITY).items():
                    if image not in found or fmean(numbers) < found[image][0]:
                        found[image] = fmean(numbers), records[image]
            self._chosen[key] = {name: found[name][1] for name in sorted(found)}
        return self._chosen[key]

    def _in_order(self, section: str, names: Iterable[str]) -> list[str]:
        """The unique names in the order of the options, unknown ones last."""
        found = dict.fromkeys(names)
        return [
            *(name for name in self.options.get(section, ()) if name in found),
            *(name for name in found if name not in self.options.get(section, ())),
        ]


def is_interpolation(results: Results, subject: Subject) -> bool:
    """Whether a subject is plain interpolation, which is a reference and no network to compare."""
    return subject.defense == NO_DEFENSE and any(
        record.network == subject.network and record.facts.get('type') == 'Interpolation' for record in results.records
    )


def estimate(values: Sequence[Sequence[float]], higher_is_better: bool = True) -> MetricEstimate:
    """Estimate a metric over images.

    Args:
        values: one sequence per image, with one value per mask seed.
        higher_is_better: whether the lowest value is the worst.
    """
    means = np.array([fmean(numbers) for numbers in values])
    low, high = bootstrap(means)
    every = [number for numbers in values for number in numbers]
    return MetricEstimate(
        mean=float(means.mean()),
        low=low,
        high=high,
        worst=min(every) if higher_is_better else max(every),
        spread=float(means.std(ddof=1)) if len(means) > 1 else 0.0,
        seed_spread=fmean(float(np.std(numbers)) for numbers in values) if max(map(len, values)) > 1 else None,
        count=len(means),
    )


def bootstrap(values: np.ndarray, statistic: Callable[..., Any] = np.mean) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a statistic; deterministic.

    Args:
        values: shape (N,).
        statistic: function of an array and ``axis``, the mean by default.
    """
    indices = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
    tail = (100 - _CONFIDENCE) / 2
    low, high = np.percentile(statistic(values[indices], axis=1), [tail, 100 - tail])
    return float(low), float(high)


def _counts(options: Mapping[str, Any]) -> bool:
    """Whether an attack with these options stays in the L-inf ball and ends in an 8-bit image."""
    inner = [*options.get('attacks', ()), *([options['attack']] if options.get('attack') else [])]
    return options.get('norm', 'Linf') == 'Linf' and options.get('quantize') != 'none' and all(map(_counts, inner))
