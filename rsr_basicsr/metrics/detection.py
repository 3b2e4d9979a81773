"""How well a detector tells attacked images from clean ones: ROC, rates at a threshold, calibration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import mannwhitneyu


class Verdict(NamedTuple):
    """What a detector said of one image.

    Args:
        score: log odds of attacked against clean.
        flagged: whether that is beyond its threshold.
        attacked: the truth.
        facts: what else is known: ``source``, ``eps``, ``network``, ``attack``.
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
    """False alarm rate and detection rate at every threshold, both rising from 0 to 1."""
    thresholds = np.unique(np.concatenate([clean, attacked]))[::-1]
    beyond = [
        np.searchsorted(-np.sort(scores)[::-1], -thresholds, side='right') / len(scores)
        for scores in (np.asarray(clean), np.asarray(attacked))
    ]
    return tuple(np.concatenate([[0.0], rates]) for rates in beyond)


def best_temperature(clean: Sequence[float], attacked: Sequence[float]) -> float:
    """The factor by which log odds are divided so that their likelihood is largest (Guo et al. 2017).

    Clean and attacked images count half each, however many there are. As many images as one of each kind are
    taken to be mislabelled (Platt 1999): scores that tell all of them apart would be certain of everything otherwise.

    Args:
        clean: log odds of attacked against clean of clean images, at least one.
        attacked: of attacked ones, at least one.
    """
    clean, attacked = np.asarray(clean, dtype=np.float64), np.asarray(attacked, dtype=np.float64)

    def loss(log_temperature):
        factor = np.exp(-log_temperature)
        total = 0
        for scores in (clean * factor, -attacked * factor):
            doubt = 1 / (len(scores) + 2)
            total += ((1 - doubt) * np.logaddexp(0, scores) + doubt * np.logaddexp(0, -scores)).mean()
        return total

    return float(np.exp(minimize_scalar(loss, bounds=(-7, 7), method='bounded').x))


def rates(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """``auc``, ``accuracy`` (the mean of both classes'), ``false_alarms`` and ``misses``, as far as there are both."""
    clean, attacked = ([verdict for verdict in verdicts if verdict.attacked is label] for label in (False, True))
    found = {}
    if clean and attacked:
        found['auc'] = roc_auc([v.score for v in clean], [v.score for v in attacked])
    if clean:
        found['false_alarms'] = float(np.mean([v.flagged for v in clean]))
    if attacked:
        found['misses'] = float(np.mean([not v.flagged for v in attacked]))
    if clean and attacked:
        found['accuracy'] = 1 - (found['false_alarms'] + found['misses']) / 2
    return found


class Row(NamedTuple):
    """One line of a detector's error table: a group of attacked images against all clean ones, or of clean ones."""

    group: str
    name: str
    images: int
    auc: float | None
    error: float  # misses of attacked images, false alarms of clean ones


def error_table(verdicts: Sequence[Verdict]) -> Iterator[Row]:
    """Misses by eps, network and attack, false alarms by source."""
    clean = [verdict for verdict in verdicts if not verdict.attacked]
    attacked = [verdict for verdict in verdicts if verdict.attacked]
    for group in ('eps', 'network', 'attack'):
        for name, members in _grouped(attacked, group):
            auc = roc_auc([v.score for v in clean], [v.score for v in members]) if clean else None
            yield Row(group, name, len(members), auc, float(np.mean([not v.flagged for v in members])))
    for name, members in _grouped(clean, 'source'):
        yield Row('source', name, len(members), None, float(np.mean([v.flagged for v in members])))


def _grouped(verdicts, group) -> list[tuple[str, list[Verdict]]]:
    found = defaultdict(list)
    for verdict in verdicts:
        if group in verdict.facts:
            value = verdict.facts[group]
            # Radii are drawn from a continuum: the nearest power of two names them.
            found[2.0 ** round(np.log2(value)) if group == 'eps' else value].append(verdict)
    return [(f'{name:g}' if group == 'eps' else str(name), found[name]) for name in sorted(found)]
