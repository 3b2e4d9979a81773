"""The table of leaderboard entries."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rsr_basicsr.catalog.choices import UNTRAINED
from rsr_basicsr.leaderboard.entries import CARD
from rsr_basicsr.leaderboard.external import described, external_of, worst_external
from rsr_basicsr.utils.markdown import EMPTY, escaped, markdown_table


def as_leaderboard(entries: Sequence[Mapping[str, Any]]) -> str:
    """The entries as Markdown: one table per protocol and data set.

    Sorted by the distance to the original under attack of the largest eps at equal sharpness; entries without, by
    stability, or by that under a stronger attack of other people.
    """
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for entry in entries:
        groups[entry['protocol'], entry['protocol_digest'], entry['dataset'], entry['images_digest']].append(entry)
    parts = [
        '# Leaderboard',
        '',
        'Written by `rsr leaderboard` from the entries in `cards.jsonl` of `rsr benchmark`; to add yours, see '
        '[docs/benchmark.md](benchmark.md). Stability in dB under the worst attack per image, [95 % interval over '
        'the images]. A table holds entries of the same protocol and the same images only. Figures at equal sharpness '
        'are those of the network blended with bicubic upscaling until it is as sharp as the reference; they come '
        'first, and sort the table: the blurrier a network, the more stable it looks. External: attacks by other '
        'people, the worst one.',
    ]
    for (protocol, digest, dataset, images), group in sorted(groups.items()):
        attacks = ', '.join(group[0].get('attacks', []))
        parts += [
            '',
            f'## {escaped(protocol)} on {escaped(dataset)}',
            '',
            f'{group[0]["images"]} images ({escaped(images)}), attacks: {escaped(attacks)} ({escaped(digest)}).'
            + _level(group),
            '',
            _table(group),
        ]
    return '\n'.join(parts) + '\n'


def _table(group: Sequence[Mapping[str, Any]]) -> str:
    strengths = sorted({eps for entry in group for eps in entry['stability']}, key=float)
    metrics = list(dict.fromkeys(name for entry in group for name in entry['clean']))
    group = sorted(group, key=lambda entry: _rank(entry, strengths[-1:]))
    sharp = _sharp_columns(group, strengths)
    external = any(external_of(entry) for entry in group)
    head = [
        'network',
        'defence',
        *sharp,
        'parameters',
        *(f'clean {name}' for name in metrics),
        *(f'stability eps {eps}' for eps in strengths),
        *(['external'] if external else []),
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
                *(cell(entry) for cell in sharp.values()),
                _parameters(entry),
                *(_formatted(entry['clean'].get(name), 2, False) for name in metrics),
                *(_formatted(entry['stability'].get(eps), 1, True) for eps in strengths),
                *([_external(entry)] if external else []),
                EMPTY if alarms is None else f'{alarms:.0%}',
                str(len(entry.get('warnings', []))),
                str(entry.get('failed', 0)),
                UNTRAINED if entry.get('weights') == UNTRAINED else str(entry.get('sha256') or EMPTY)[:12],
                ', '.join(entry[key] for key in CARD if entry.get(key)) or EMPTY,
            ]
        )
    return markdown_table(lines)


def _rank(entry: Mapping[str, Any], last: Sequence[str]) -> tuple[bool, float]:
    """Sorts entries, the best first, by their figures at the largest eps."""
    for eps in last:
        sharp = entry.get('equal_sharpness', {}).get('attacked', {}).get(eps, {}).get('distance')
        if sharp is not None:
            return False, sharp[0]
        figure = worst_external(external_of(entry), float(eps))
        stability = [entry['stability'][eps][0]] if eps in entry['stability'] else [-1e9]
        return True, -min([*stability, *([figure['stability']] if figure else [])])
    return True, 0.0


def _sharp_columns(
    group: Sequence[Mapping[str, Any]], strengths: Sequence[str]
) -> dict[str, Callable[[Mapping[str, Any]], str]]:
    """The columns at equal sharpness: heading -> function that gives the cell of an entry; none without figures."""
    known = [entry['equal_sharpness'] for entry in group if 'equal_sharpness' in entry]
    if not known:
        return {}
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {'equal sharpness: alpha': _alpha}
    for figure, digits in (('distance', 3), ('stability', 1), ('moved', 3)):
        for eps in strengths:
            cells = [sharp['attacked'].get(eps, {}).get(figure) for sharp in known]
            if any(cells):
                columns[f'equal sharpness: {known[0]["headings"][figure]} eps {eps}'] = functools.partial(
                    _sharp_cell, eps=eps, figure=figure, digits=digits
                )
    return columns


def _level(group: Sequence[Mapping[str, Any]]) -> str:
    """The sharpness at which a group is compared, as a sentence; empty without."""
    for sharp in (entry['equal_sharpness'] for entry in group if 'equal_sharpness' in entry):
        reference, measure = escaped(sharp['reference']), escaped(sharp['measure'])
        return f' Equal sharpness: that of {reference}, {measure} {sharp["level"]:.3f}.'
    return ''


def _sharp_cell(entry: Mapping[str, Any], *, eps: str, figure: str, digits: int) -> str:
    return _formatted(entry.get('equal_sharpness', {}).get('attacked', {}).get(eps, {}).get(figure), digits, True)


def _alpha(entry: Mapping[str, Any]) -> str:
    sharp = entry.get('equal_sharpness')
    if sharp is None:
        return EMPTY
    return sharp['problem'] if sharp['alpha'] is None else f'{sharp["alpha"]:.2f}'


def _external(entry: Mapping[str, Any]) -> str:
    """The worst attack by other people, and whether it is worse than those of the benchmark."""
    figure = worst_external(external_of(entry))
    if figure is None:
        return EMPTY
    measured = entry['stability'].get(f'{figure["eps"]:g}')
    lower = measured and figure['stability'] < measured[0]
    return described(figure) + (', counts: lower than measured' if lower else '')


def _parameters(entry: Mapping[str, Any]) -> str:
    """Parameters of the network, and those of its detector."""
    detector = entry.get('detector_parameters') or 0
    return f'{(entry.get("parameters") or 0) / 1e6:.2f} M' + (f' + {detector / 1e6:.2f} M' if detector else '')


def _formatted(numbers: Sequence[float] | None, digits: int, interval: bool) -> str:
    if numbers is None:
        return EMPTY
    mean, low, high = numbers
    digits += digits == 2 and abs(mean) < 2  # shares and distances, as opposed to decibels
    return f'{mean:.{digits}f}' + (f' [{low:.{digits}f}, {high:.{digits}f}]' if interval else '')
