"""Entries of a leaderboard, read from files that may come from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rsr_basicsr.leaderboard.external import is_external
from rsr_basicsr.utils.errors import OptionsError, in_one_line
from rsr_basicsr.utils.files import read_text
from rsr_basicsr.utils.untrusted import is_number, untrusted_json

#: Keys of a network's ``card`` that an entry shows
CARD = ('authors', 'link', 'note')
_TEXTS = ('network', 'defense', 'protocol', 'protocol_digest', 'dataset', 'images_digest')
_COUNTS = ('images', 'parameters', 'detector_parameters', 'false_alarms', 'failed')
_NUMBERS = 3  # per estimate: mean and both ends of its interval


def read_cards(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Read entries from files with one JSON object per line.

    Raises:
        OptionsError: a file cannot be read, has no entry, or has a line that is not an entry.
    """
    found: list[dict[str, Any]] = []
    for path in paths:
        try:
            lines = read_text(path).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, 'strerror', None) or in_one_line(error)
            raise OptionsError(f'{path} cannot be read: {reason}; give a file cards.jsonl of rsr benchmark') from None
        entries = [_entry(line, f'{path}, line {number}') for number, line in enumerate(lines, start=1) if line.strip()]
        if not entries:
            raise OptionsError(f'{path} holds no entry; give a file cards.jsonl of rsr benchmark')
        found += entries
    return found


def _entry(line: str, where: str) -> dict[str, Any]:
    try:
        entry = untrusted_json(line)
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
        and all(len(each) == _NUMBERS and all(map(is_number, each)) for each in numbers)
        and all(isinstance(each, list) and all(isinstance(text, str) for text in each) for each in lists)
        and all(is_number(entry.get(key) or 0) for key in _COUNTS)
        and all(is_number(float(eps)) for eps in entry['stability'])
        and all(map(is_external, entry.get('external') or []))
        and ('equal_sharpness' not in entry or _is_sharp(entry['equal_sharpness']))
    )


def _is_sharp(sharp: Mapping[str, Any]) -> bool:
    """Whether the untrusted figures at equal sharpness have their types."""
    found = [numbers for figures in sharp['attacked'].values() for numbers in figures.values()]
    texts = [sharp['reference'], sharp['measure'], sharp['problem'], *sharp['headings'].values()]
    return (
        all(isinstance(text, str) for text in texts)
        and all(len(each) == _NUMBERS and all(map(is_number, each)) for each in found)
        and all(figure in sharp['headings'] for figures in sharp['attacked'].values() for figure in figures)
        and is_number(sharp['level'])
        and (sharp['alpha'] is None or is_number(sharp['alpha']))
    )
