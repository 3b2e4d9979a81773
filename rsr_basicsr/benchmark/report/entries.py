"""Leaderboard entries, one per network and defence, similar to RobustBench's model entries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rsr_basicsr.benchmark.gate import gate_result
from rsr_basicsr.benchmark.matrix import by_content
from rsr_basicsr.benchmark.names import CLEAN, NO_DEFENSE, STABILITY, WORST_CASE
from rsr_basicsr.benchmark.plane import Plane
from rsr_basicsr.benchmark.report.equal_sharpness import LevelRow, headings, level_rows, title_of
from rsr_basicsr.benchmark.summary import MetricEstimate, Results, Subject


def cards(results: Results, warnings: Sequence[str]) -> list[dict[str, Any]]:
    """One entry per network, defence and data set; blends with bicubic upscaling are in the entry of their network.

    An entry includes the ``card:`` of the network's options (``authors``, ``link``, ``note``).

    Args:
        results: results of the run.
        warnings: warnings of the whole run; each entry keeps those about it.
    """
    options, found = results.options, []
    protocol = {key: options.get(key) for key in ('attacks', 'eps', 'metrics', 'mask_seeds', 'scale')}
    plane = Plane.of(results)
    if plane:  # figures at the sharpness of different networks cannot be compared
        reference = next(record.facts for record in results.records if record.network == plane.reference)
        protocol['plane'] = [plane.measure, reference.get('fingerprint')]
    digest = _digest(by_content(protocol))
    for dataset in results.datasets:
        levels = {row.network: row for row in level_rows(plane, dataset)} if plane else {}
        contents = sorted({record.content for record in results.records if record.dataset == dataset})
        for subject in results.subjects(dataset):
            if plane and plane.is_blend(subject):
                continue
            clean = results.row(dataset, subject, CLEAN, 0.0)
            attacked = {eps: results.row(dataset, subject, WORST_CASE, eps) for eps in results.strengths}
            record = next(r for r in results.records if r.network == subject.network)
            facts = {
                key: value
                for key, value in record.facts.items()
                if key not in ('card', 'decides', 'detector_has_gradient')
            }
            found.append(
                {
                    **facts,
                    **_card(record.facts.get('card', {}), subject.defense),
                    **subject._asdict(),
                    'protocol': options['name'],
                    'protocol_digest': digest,
                    'dataset': dataset,
                    'images': clean.images,
                    'images_digest': _digest(contents),
                    'attacks': results.attacks,
                    **(
                        {'equal_sharpness': _at_level(plane, levels[subject.network])}
                        if plane and subject.network in levels and subject.defense == NO_DEFENSE
                        else {}
                    ),
                    'clean': {name: _numbers(entry) for name, entry in clean.estimates.items()},
                    'stability': {
                        f'{eps:g}': _numbers(row.estimates[STABILITY])
                        for eps, row in attacked.items()
                        if STABILITY in row.estimates
                    },
                    'false_alarms': clean.flagged,
                    **_gate(results, dataset, subject),
                    'flagged': {f'{eps:g}': row.flagged for eps, row in attacked.items()},
                    'failed': sum(bool(r.error) for r in results.records if (r.network, r.defense) == subject),
                    'warnings': [sentence for sentence in warnings if f'{dataset}, {subject.label}: ' in sentence],
                    'versions': record.environment,
                }
            )
    return found


def _gate(results: Results, dataset: str, subject: Subject) -> dict[str, Any]:
    """What a gate costs the attacker; empty for a network without a detector."""
    gates = {eps: gate for eps in results.strengths if (gate := gate_result(results, dataset, subject, eps))}
    if not gates:
        return {}
    triggered = next(iter(gates.values())).triggered
    return {
        'undetected': {f'{eps:g}': _numbers(gate.undetected) for eps, gate in gates.items() if gate.undetected},
        'triggered': _numbers(triggered) if triggered else None,
    }


def _card(card: Mapping[str, Any], defense: str) -> dict[str, Any]:
    """The card of an entry: attacks by other people were made on the network without a defence."""
    return {key: value for key, value in card.items() if key != 'external' or defense == NO_DEFENSE}


def _at_level(plane: Plane, row: LevelRow) -> dict[str, Any]:
    """The figures of a network at equal sharpness."""
    names = {'distance': plane.measure, 'stability': STABILITY, 'moved': plane.perceptual}
    metrics = {name: metric for name, metric in names.items() if metric}
    attacked = {
        f'{eps:g}': {name: found for name, metric in metrics.items() if (found := result.estimate(metric))}
        for eps, result in row.results.items()
    }
    return {
        'reference': plane.reference,
        'measure': title_of(plane, plane.measure),
        'headings': {name: headings(plane)[metric] for name, metric in metrics.items()},
        'level': round(row.at_level.level, 4),
        'alpha': None if row.at_level.alpha is None else round(row.at_level.alpha, 4),
        'problem': row.at_level.problem,
        'attacked': {eps: {name: _numbers(each) for name, each in found.items()} for eps, found in attacked.items()},
    }


def _numbers(found: MetricEstimate) -> list[float]:
    return [round(number, 4) for number in (found.mean, found.low, found.high)]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
