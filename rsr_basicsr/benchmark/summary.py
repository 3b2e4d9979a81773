"""From records to figures: means over images with intervals, and for each image the worst of all attacks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from rsr_basicsr.benchmark.names import CLEAN, STABILITY, WORST_CASE
from rsr_basicsr.benchmark.record import Record
from rsr_basicsr.metrics.detection import roc_auc
from rsr_basicsr.metrics.inputs import is_higher_better

_RESAMPLES = 2000
_CONFIDENCE = 95  # per cent


@dataclass(frozen=True)
class Estimate:
    """A metric over the images of a data set.

    Attributes:
        mean: over the images, each the mean over the mask seeds.
        low, high: 95 % interval of the mean, by bootstrap over the images; equal to it for one image.
        worst: of all images and mask seeds.
        spread: standard deviation over the images; 0 for one.
        seed_spread: standard deviation over the mask seeds, the mean over the images.
        count: number of images.
    """

    mean: float
    low: float
    high: float
    worst: float
    spread: float
    seed_spread: float
    count: int


class Subject(NamedTuple):
    """What is put to the test: a network behind a defence."""

    network: str
    defense: str

    @property
    def label(self) -> str:
        return self.network if self.defense == 'none' else f'{self.network} + {self.defense}'


@dataclass(frozen=True)
class Row:
    """One subject under one attack of one eps on one data set.

    Attributes:
        estimates: by metric; those that could not be taken are missing.
        images, failed: how many were measured, and how many not.
        flagged: share of the images that the detector took for attacked; None without one.
        auc: of the detector's scores, against those of the clean images; None without one, and of clean images.
        chosen: of a worst case, how often which attack was the worst for stability.
    """

    dataset: str
    subject: Subject
    attack: str
    eps: float
    estimates: dict[str, Estimate]
    images: int
    failed: int = 0
    flagged: float | None = None
    auc: float | None = None
    chosen: dict[str, int] = field(default_factory=dict)


class Results:
    """The records of a benchmark, in groups.

    Args:
        records: of one run or of several.
        options: of the run; of several, of the first, with all names in their order.
    """

    def __init__(self, records: Iterable[Record], options: Mapping[str, Any]):
        self.options, self.records = options, list(records)
        self.metrics: dict[str, Mapping[str, Any]] = dict(options['metrics'])
        self._groups: dict[tuple, dict[str, Record]] = defaultdict(dict)
        for record in self.records:
            group = record.dataset, Subject(record.network, record.defense), record.attack, record.eps
            self._groups[group][record.image] = record
        self.datasets = self._in_order('datasets', (record.dataset for record in self.records))
        self.attacks = [name for name in self._in_order('attacks', (r.attack for r in self.records)) if name != CLEAN]
        self.strengths = sorted({record.eps for record in self.records if record.eps})
        self._chosen: dict[tuple, dict[str, Record]] = {}

    def subjects(self, dataset: str) -> list[Subject]:
        """The subjects measured on a data set, networks and defences in the order of the options."""
        places = [
            self._in_order(key, (getattr(r, name) for r in self.records))
            for key, name in (('networks', 'network'), ('defenses', 'defense'))
        ]
        found = {subject for data, subject, *_ in self._groups if data == dataset}
        return sorted(found, key=lambda subject: tuple(place.index(name) for place, name in zip(places, subject)))

    def images(self, dataset: str, subject: Subject, attack: str, eps: float) -> dict[str, Record]:
        """The records of a group without those that failed, by image, in the order of their names.

        ``attack`` may be the worst case: for each image the record of the attack with the least stability.
        """
        if attack == WORST_CASE:
            return self._worst_attacks(dataset, subject, eps)
        found = self._groups.get((dataset, subject, attack, eps), {})
        return {name: found[name] for name in sorted(found) if not found[name].error}

    def measured(self, dataset: str, subject: Subject, attack: str, eps: float) -> int:
        """How many images of a group were measured, or failed."""
        return len(self._groups.get((dataset, subject, attack, eps), {}))

    def values(self, dataset: str, subject: Subject, attack: str, eps: float, metric: str) -> dict[str, list[float]]:
        """A metric image by image, a number for each mask seed.

        Of the worst case, of each image those of the attack that is the worst by this metric.
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
        """The attacks of that strength that count for the worst case.

        Those inside an L-inf ball that end in images which can be stored: others are measured and shown, but are no
        part of the same threat.
        """
        return [
            name
            for name in self.attacks
            if self._groups.get((dataset, subject, name, eps))
            and _counts(next(iter(self._groups[dataset, subject, name, eps].values())).attack_options)
        ]

    def row(self, dataset: str, subject: Subject, attack: str, eps: float) -> Row:
        """The figures of a group; ``attack`` may be the worst case."""
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
        return Row(
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

    def rows(self) -> list[Row]:
        """Every group and every worst case, data set by data set, clean first."""
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
    ) -> Estimate | None:
        """What ``subject`` has more of than ``other``, image by image; None where no image has both."""
        mine, others = (self.values(dataset, one, attack, eps, metric) for one in (subject, other))
        pairs = [[fmean(mine[name]) - fmean(others[name])] for name in mine if name in others]
        return estimate(pairs) if pairs else None

    def _worst_attacks(self, dataset, subject, eps):
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

    def _in_order(self, section, names):
        """The names that there are, in the order of the options, others behind."""
        there = dict.fromkeys(names)
        return [
            *(name for name in self.options.get(section, ()) if name in there),
            *(name for name in there if name not in self.options.get(section, ())),
        ]


def estimate(values: Sequence[Sequence[float]], higher_is_better: bool = True) -> Estimate:
    """The figures of a metric.

    Args:
        values: of each image a number for each mask seed.
        higher_is_better: which end is the worst one.
    """
    means = np.array([fmean(numbers) for numbers in values])
    low, high = bootstrap(means)
    every = [number for numbers in values for number in numbers]
    return Estimate(
        mean=float(means.mean()),
        low=low,
        high=high,
        worst=min(every) if higher_is_better else max(every),
        spread=float(means.std(ddof=1)) if len(means) > 1 else 0.0,
        seed_spread=fmean(float(np.std(numbers)) for numbers in values),
        count=len(means),
    )


def bootstrap(values: np.ndarray, statistic: Callable = np.mean) -> tuple[float, float]:
    """95 % interval of the mean of values, (N,), by the percentiles of samples drawn from them with replacement.

    The same values give the same interval.
    """
    draws = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
    tail = (100 - _CONFIDENCE) / 2
    low, high = np.percentile(statistic(values[draws], axis=1), [tail, 100 - tail])
    return float(low), float(high)


def _counts(options):
    """Whether an attack, by its options, stays in the L-inf ball and ends in an 8-bit image."""
    inner = [*options.get('attacks', ()), *([options['attack']] if options.get('attack') else [])]
    return options.get('norm', 'Linf') == 'Linf' and options.get('quantize') != 'none' and all(map(_counts, inner))
