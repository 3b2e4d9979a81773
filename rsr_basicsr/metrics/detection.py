"""How well a detector separates attacked from clean images: ROC, rates at a threshold, calibration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import mannwhitneyu


class ScoredImage(NamedTuple):
    """A detector's score of one image, and the truth.

    Args:
        score: log odds of attacked against clean.
        flagged: whether the score is beyond the detector's threshold.
        attacked: the truth.
        facts: what else is known, by name: ``source``, ``eps``, ``network``, ``attack``.
    """

    score: float
    flagged: bool
    attacked: bool
    facts: Mapping[str, Any]


def roc_auc(clean: Sequence[float], attacked: Sequence[float]) -> float:
    """Area under the ROC curve: the probability that an attacked image scores higher than a clean one.

    Args:
        clean: scores of clean images.
        attacked: scores of attacked ones.
    """
    return float(mannwhitneyu(attacked, clean).statistic / (len(clean) * len(attacked)))


def roc_curve(clean: Sequence[float], attacked: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """False alarm rate and detection rate at every threshold, both rising from 0 to 1.

    Args:
        clean: scores of clean images.
        attacked: scores of attacked ones.
    """
    thresholds = np.unique(np.concatenate([clean, attacked]))[::-1]
    beyond = [
        np.searchsorted(-np.sort(scores)[::-1], -thresholds, side='right') / len(scores)
        for scores in (np.asarray(clean), np.asarray(attacked))
    ]
    false_alarms, detections = (np.concatenate([[0.0], rates]) for rates in beyond)
    return false_alarms, detections


def best_temperature(clean: Sequence[float], attacked: Sequence[float]) -> float:
    """The temperature that maximises the likelihood of log odds divided by it (Guo et al. 2017).

    Clean and attacked images have half the weight each, regardless of their numbers. Labels are smoothed as if one
    image of each kind were mislabelled (Platt 1999): otherwise, scores that separate all images become certainties.

    Args:
        clean: log odds of attacked against clean, of at least one clean image.
        attacked: the same, of at least one attacked image.
    """
    odds = np.asarray(clean, dtype=np.float64), -np.asarray(attacked, dtype=np.float64)

    def loss(log_temperature: float) -> float:
        factor = np.exp(-log_temperature)
        total = 0.0
        for scores in (kind * factor for kind in odds):
            smoothing = 1 / (len(scores) + 2)
            total += float(((1 - smoothing) * np.logaddexp(0, scores) + smoothing * np.logaddexp(0, -scores)).mean())
        return total

    return float(np.exp(minimize_scalar(loss, bounds=(-7, 7), method='bounded').x))


def rates(images: Sequence[ScoredImage]) -> dict[str, float]:
    """``auc``, ``accuracy`` (the mean of both classes'), ``false_alarms`` and ``misses``.

    Rates that need clean or attacked images are left out if there are none.
    """
    clean, attacked = ([image for image in images if image.attacked is label] for label in (False, True))
    found = {}
    if clean and attacked:
        found['auc'] = roc_auc([image.score for image in clean], [image.score for image in attacked])
    if clean:
        found['false_alarms'] = float(np.mean([image.flagged for image in clean]))
    if attacked:
        found['misses'] = float(np.mean([not image.flagged for image in attacked]))
    if clean and attacked:
        found['accuracy'] = 1 - (found['false_alarms'] + found['misses']) / 2
    return found


class ErrorRow(NamedTuple):
    """One row of a detector's error table: a group of attacked images against all clean ones, or of clean ones."""

    group: str
    name: str
    images: int
    auc: float | None
    error: float  # misses of attacked images, false alarms of clean ones


def error_table(images: Sequence[ScoredImage]) -> Iterator[ErrorRow]:
    """Misses by eps, network and attack; false alarms by source."""
    clean = [image for image in images if not image.attacked]
    attacked = [image for image in images if image.attacked]
    for group in ('eps', 'network', 'attack'):
        for name, members in _grouped(attacked, group):
            auc = roc_auc([image.score for image in clean], [image.score for image in members]) if clean else None
            misses = float(np.mean([not image.flagged for image in members]))
            yield ErrorRow(group, name, len(members), auc, misses)
    for name, members in _grouped(clean, 'source'):
        false_alarms = float(np.mean([image.flagged for image in members]))
        yield ErrorRow('source', name, len(members), None, false_alarms)


def _grouped(images: Sequence[ScoredImage], group: str) -> list[tuple[str, list[ScoredImage]]]:
    found = defaultdict(list)
    for image in images:
        if group in image.facts:
            value = image.facts[group]
            # Radii are continuous: they are grouped by the nearest power of two.
            found[2.0 ** round(np.log2(value)) if group == 'eps' else value].append(image)
    return [(f'{name:g}' if group == 'eps' else str(name), found[name]) for name in sorted(found)]
