"""Leaderboard entries, one per network and defence, similar to RobustBench's model entries, and their table."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rsr_basicsr.archs.defense import UNTRAINED
from rsr_basicsr.benchmark.matrix import by_content
from rsr_basicsr.benchmark.names import CARD, CLEAN, STABILITY, WORST_CASE
from rsr_basicsr.benchmark.report.tables import EMPTY, escaped, markdown_table
from rsr_basicsr.benchmark.summary import MetricEstimate, Results
from rsr_basicsr.utils.errors import OptionsError

_TEXTS = ('network', 'defense', 'protocol', 'protocol_digest', 'dataset', 'images_digest')
_NUMBERS = 3  # per estimate: mean and both ends of its interval


def cards(results: Results, warnings: Sequence[str]) -> list[dict[str, Any]]:
    """One entry per network, defence and data set.

    An entry includes the ``card:`` of the network's options (``authors``, ``link``, ``note``).

    Args:
        results: results of the run.
        warnings: warnings of the whole run; each entry keeps those about it.
    """
    options, found = results.options, []
    protocol = {key: options.get(key) for key in ('attacks', 'eps', 'metrics', 'mask_seeds', 'scale')}
    digest = _digest(by_content(protocol))
    for dataset in results.datasets:
        contents = sorted({record.content for record in results.records if record.dataset == dataset})
        for subject in results.subjects(dataset):
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
                    **record.facts.get('card', {}),
                    **subject._asdict(),
                    'protocol': options['name'],
                    'protocol_digest': digest,
                    'dataset': dataset,
                    'images': clean.images,
                    'images_digest': _digest(contents),
                    'attacks': results.attacks,
                    'clean': {name: _numbers(entry) for name, entry in clean.estimates.items()},
                    'stability': {
                        f'{eps:g}': _numbers(row.estimates[STABILITY])
                        for eps, row in attacked.items()
                        if STABILITY in row.estimates
                    },
                    'false_alarms': clean.flagged,
                    'flagged': {f'{eps:g}': row.flagged for eps, row in attacked.items()},
                    'failed': sum(bool(r.error) for r in results.records if (r.network, r.defense) == subject),
                    'warnings': [sentence for sentence in warnings if f'{dataset}, {subject.label}: ' in sentence],
                    'versions': record.environment,
                }
            )
    return found


def read_cards(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Read entries from files with one JSON object per line.

    Raises:
        OptionsError: a file cannot be read, has no entry, or has a line that is not an entry.
    """
    found: list[dict[str, Any]] = []
    for path in paths:
        try:
            lines = path.read_text(encoding='utf-8').splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionsError(f'{path} cannot be read: {error}; give a file cards.jsonl of rsr benchmark') from None
        entries = [_entry(line, f'{path}, line {number}') for number, line in enumerate(lines, start=1) if line.strip()]
        if not entries:
            raise OptionsError(f'{path} holds no entry; give a file cards.jsonl of rsr benchmark')
        found += entries
    return found


def as_leaderboard(entries: Sequence[Mapping[str, Any]]) -> str:
    """The entries as Markdown: one table per protocol and data set, sorted by stability at the largest eps."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for entry in entries:
        groups[entry['protocol'], entry['protocol_digest'], entry['dataset'], entry['images_digest']].append(entry)
    parts = [
        '# Leaderboard',
        '',
        'Written by `rsr leaderboard` from the entries in `cards.jsonl` of `rsr benchmark`; to add yours, see '
        '[docs/benchmark.md](benchmark.md). Stability in dB under the worst attack per image, [95 % interval over '
        'the images]. A table holds entries of the same protocol and the same images only.',
    ]
    for (protocol, digest, dataset, images), group in sorted(groups.items()):
        attacks = ', '.join(group[0].get('attacks', []))
        parts += [
            '',
            f'## {escaped(protocol)} on {escaped(dataset)}',
            '',
            f'{group[0]["images"]} images ({escaped(images)}), attacks: {escaped(attacks)} ({escaped(digest)}).',
            '',
            _table(group),
        ]
    return '\n'.join(parts) + '\n'


def _table(group: Sequence[Mapping[str, Any]]) -> str:
    strengths = sorted({eps for entry in group for eps in entry['stability']}, key=float)
    metrics = list(dict.fromkeys(name for entry in group for name in entry['clean']))
    last = strengths[-1:]
    group = sorted(group, key=lambda entry: [-entry['stability'].get(eps, [-1e9])[0] for eps in last])
    head = [
        'network',
        'defence',
        'parameters',
        *(f'clean {name}' for name in metrics),
        *(f'stability eps {eps}' for eps in strengths),
        'false alarms',
        'warnings',
        'failed cells',
        'weights',
        'source',
    ]
    lines = [head]
    for entry in group:
        alarms = entry.get('false_alarms')
        lines.append(
            [
                entry['network'],
                entry['defense'],
                f'{entry.get("parameters", 0) / 1e6:.2f} M',
                *(_formatted(entry['clean'].get(name), 2, False) for name in metrics),
                *(_formatted(entry['stability'].get(eps), 1, True) for eps in strengths),
                EMPTY if alarms is None else f'{alarms:.0%}',
                str(len(entry.get('warnings', []))),
                str(entry.get('failed', 0)),
                UNTRAINED if entry.get('weights') == UNTRAINED else str(entry.get('sha256') or EMPTY)[:12],
                ', '.join(entry[key] for key in CARD if entry.get(key)) or EMPTY,
            ]
        )
    return markdown_table(lines)


def _entry(line: str, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
        sound = _is_sound(entry)
    except (ValueError, TypeError, KeyError, AttributeError):
        sound = False
    if not sound:
        raise OptionsError(f'{where}: not an entry of a leaderboard; give a file cards.jsonl of rsr benchmark')
    return entry


def _is_sound(entry: Mapping[str, Any]) -> bool:
    """Whether the fields of an untrusted entry have their types."""
    texts = [entry[key] for key in _TEXTS] + [entry.get(key) or '' for key in (*CARD, 'sha256')]
    numbers = [*entry['clean'].values(), *entry['stability'].values()]
    lists = [entry.get(key, []) for key in ('attacks', 'warnings')]
    return (
        all(isinstance(text, str) for text in texts)
        and all(len(each) == _NUMBERS and all(map(_is_number, each)) for each in numbers)
        and all(isinstance(each, list) and all(isinstance(text, str) for text in each) for each in lists)
        and all(_is_number(entry.get(key) or 0) for key in ('images', 'parameters', 'false_alarms', 'failed'))
        and all(_is_number(float(eps)) for eps in entry['stability'])
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _formatted(numbers: Sequence[float] | None, digits: int, interval: bool) -> str:
    if numbers is None:
        return EMPTY
    mean, low, high = numbers
    return f'{mean:.{digits}f}' + (f' [{low:.{digits}f}, {high:.{digits}f}]' if interval else '')


def _numbers(found: MetricEstimate) -> list[float]:
    return [round(number, 4) for number in (found.mean, found.low, found.high)]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
