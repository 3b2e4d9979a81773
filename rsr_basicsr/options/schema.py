"""A declarative schema for blocks of an options file: a table of keys, and one function that checks a block.

Values are coerced, since ``--force_yml`` delivers ``1e-4``, ``-1`` and ``[2, 8]`` as text.
"""

from __future__ import annotations

import difflib
import os.path as osp
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Mapping, Union

from rsr_basicsr.errors import OptionsError

ABSENT = object()


@dataclass(frozen=True)
class Key:
    """One key of a block.

    Attributes:
        parse: returns the value in its final type, or raises ValueError saying what was expected.
        default: what an absent key becomes; ABSENT leaves it to the class that the block is for.
        required: an absent key is an error.
    """

    parse: Callable[[Any], Any]
    default: Any = ABSENT
    required: bool = False


Schema = Mapping[str, Union[Key, 'Schema']]


def parse_block(block: Any, schema: Schema, where: str) -> dict:
    """Check one block against its schema and return it with every value in its final type.

    Raises:
        OptionsError: a sentence that names the key, the value and what is expected.
    """
    if block is None:
        block = {}
    if not isinstance(block, Mapping):
        raise OptionsError(f'{where}: {block!r} is not a block of keys; it takes {", ".join(schema)}')
    for name in block:
        if name not in schema:
            raise OptionsError(f'{where}: unknown key {name!r}{nearest(name, schema)}')
    parsed = {}
    for name, rule in schema.items():
        place = f'{where}.{name}'
        if not isinstance(rule, Key):
            parsed[name] = parse_block(block.get(name), rule, place)
        elif block.get(name) is not None:
            parsed[name] = _parse_value(block[name], rule, place)
        elif rule.required:
            raise OptionsError(f'{where}: the key {name!r} is missing')
        elif rule.default is not ABSENT:
            parsed[name] = rule.default
    return parsed


def _parse_value(value, rule, place):
    try:
        return rule.parse(value)
    except (TypeError, ValueError) as error:
        raise OptionsError(f'{place}: {error}, got {value!r}') from None


def nearest(name: Any, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` or the list of what is known, to be put behind a message."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    return f'; did you mean {close[0]!r}?' if close else f'; known are {", ".join(known)}'


def number(low: float, high: float = float('inf')) -> Callable[[Any], float]:
    """A number in [low, high]."""
    def parse(value):
        expected = f'expected a number from {low:g} to {high:g}'
        try:
            result = float(value)
        except (TypeError, ValueError):
            raise ValueError(expected) from None
        if isinstance(value, bool) or not low <= result <= high:
            raise ValueError(expected)
        return result

    return parse


def integer(low: int) -> Callable[[Any], int]:
    """A whole number of at least ``low``."""
    def parse(value):
        result = number(low)(value)
        if result != int(result):
            raise ValueError(f'expected a whole number of at least {low}')
        return int(result)

    return parse


def interval(parse: Callable[[Any], float]) -> Callable[[Any], list]:
    """[low, high], each parsed alike."""
    def parse_both(value):
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise ValueError('expected [low, high]')
        low, high = (parse(entry) for entry in value)
        if low > high:
            raise ValueError('expected [low, high] with low <= high')
        return [low, high]

    return parse_both


def either(parse: Callable[[Any], Any], parse_list: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A list parsed by one rule, anything else by another."""
    return lambda value: (parse_list if isinstance(value, (list, tuple)) else parse)(value)


def one_of(choices: Iterable[str]) -> Callable[[Any], str]:
    """One of some words."""
    def parse(value):
        if value not in choices:
            raise ValueError(f'expected one of {", ".join(choices)}')
        return value

    return parse


def names(value: Any) -> list:
    """A list of words, or one word."""
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, (list, tuple)) or not all(isinstance(entry, str) for entry in entries):
        raise ValueError('expected a list of names')
    return list(entries)


def boolean(value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise ValueError('expected true or false')
    return value


def existing_file(value: Any) -> str:
    """A path of a file that is there; ``~`` is expanded."""
    path = osp.expanduser(str(value))
    if not osp.isfile(path):
        raise ValueError('no such file')
    return path


def eps(value: Any) -> float:
    """An attack budget in 1/255 units: a fraction such as 8/255 or 0.031 is taken for the mistake it is."""
    text = str(value)
    if '/255' in text:
        raise ValueError(f'eps is in 1/255 units already; write {text.split("/")[0].strip()}')
    radius = number(0, 255)(value)
    if 0 < radius < 0.25:
        raise ValueError(f'eps is in 1/255 units; did you mean {radius * 255:.3g}?')
    return radius
