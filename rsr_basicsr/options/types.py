"""A declarative schema for blocks of an options file: a table of keys, and one function that checks a block.

Values are coerced, since ``--force_yml`` delivers ``1e-4``, ``-1`` and ``[2, 8]`` as text.
"""

from __future__ import annotations

import difflib
import inspect
import math
import os
import os.path as osp
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Union

from rsr_basicsr.options.messages import MissingKey, Problems
from rsr_basicsr.utils.errors import OptionsError

ABSENT = object()
#: How alike two names are of which one is taken for the other misspelt, from 0 to 1
ALIKE = 0.8

_SHORT = reprlib.Repr()  # by aliases, a file of a few lines can hold a value whose text has no end
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 120, 120


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
        raise OptionsError(f'{where}: {shown(block)} is not a block of keys; it takes {", ".join(schema)}')
    problems, parsed = Problems(), {}
    _refuse_unknown(block, schema, where, problems)
    for name, rule in schema.items():
        with problems.noted():
            value = (
                _parse_key(block, name, rule, where)
                if isinstance(rule, Key)
                else parse_block(block.get(name), rule, f'{where}.{name}')
            )
            if value is not ABSENT:
                parsed[name] = value
    problems.stop()
    return parsed


def parse_open(options: dict, schema: Mapping[str, Key], where: str) -> None:
    """Check some keys of a block that may hold others too, and put their values into their final types, in place.

    Raises:
        OptionsError: as :func:`parse_block` does.
    """
    problems = Problems()
    parse_each(options, schema, where, problems)
    problems.stop()


def parse_each(options: dict, schema: Mapping[str, Key], where: str, problems: Problems) -> None:
    """As :func:`parse_open`, but what is wrong is noted with its place."""
    missing = []
    for name, rule in schema.items():
        part = f'{where}.{name}' if where else name
        with problems.noted(part=part):
            try:
                value = _parse_key(options, name, rule, where)
            except MissingKey as error:
                if error.hint:
                    raise
                missing += [error] if problems.lacks(error) else []
                problems.spoil(part)
                continue
            if value is not ABSENT:
                options[name] = value
    if missing:
        others = ', '.join(repr(error.key) for error in missing[1:])
        more = f', and so {"is" if len(missing) == 2 else "are"} {others}'
        problems.append(f'{missing[0]}{more if others else ""}')


def _refuse_unknown(options, known, where, problems):
    for name in options:
        if name not in known:
            problems.append(f'{where}: unknown key {name!r}{nearest(name, known)}')
            for meant in difflib.get_close_matches(str(name), known, n=1):
                problems.mistaken(where, meant)


def _alike(name, known):
    return difflib.get_close_matches(str(name), known, n=1, cutoff=ALIKE)


def shown(value: Any) -> str:
    """A value as it is shown in messages."""
    return _SHORT.repr(value)


def _near_miss(name, options):
    close = difflib.get_close_matches(name, map(str, options), n=1)
    return f'; did you mean {name!r} where it says {close[0]!r}?' if close else ''


def _parse_key(options, name, rule, where):
    """The value of one key in its final type, its default, or ABSENT."""
    value = options.get(name)
    if value is None:
        if rule.required:
            raise MissingKey(where, name, '' if where else _near_miss(name, options))
        return rule.default
    try:
        return rule.parse(value)
    except (TypeError, ValueError) as error:
        raise OptionsError(f'{f"{where}.{name}" if where else name}: {error}, got {shown(value)}') from None


def registered(registry, name: str, where: str):
    """The object of that name in a BasicSR registry, as BasicSR would find it."""
    suffix = '_basicsr'
    if name in registry:
        return registry.get(name)
    if f'{name}{suffix}' in registry:
        return registry.get(f'{name}{suffix}')
    known = [key[: -len(suffix)] if key.endswith(suffix) else key for key in registry.keys()]
    raise OptionsError(f'{where}: {name!r} is not registered{nearest(name, known)}')


def check_call(function: Callable, options: Mapping, where: str, given: int = 0, own: Iterable[str] = ()) -> None:
    """Check that a function or class takes what a block holds, and gets what it needs.

    Args:
        function: what will be called with the block, less its ``type``.
        given: number of arguments at the front that come from the caller.
        own: keys that the caller takes out of the block.

    Raises:
        OptionsError: keys are unknown or missing.
    """
    parameters = list(inspect.signature(function).parameters.values())[given:]
    problems, known = Problems(), [*(p.name for p in parameters), 'type', *own]
    swallows = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if not swallows:
        _refuse_unknown(options, known, where, problems)
    elif function.__module__.split('.')[0] in ('basicsr', 'rsr_basicsr'):  # which leave alone what they do not know
        absent = [name for name in known if name not in options]
        _refuse_unknown([key for key in options if key not in known and _alike(key, absent)], known, where, problems)
    for parameter in parameters:
        if (
            parameter.default is parameter.empty
            and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            and parameter.name not in options
        ):
            with problems.noted():
                raise MissingKey(where, parameter.name)
    problems.stop()


def nearest(name: Any, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` or the list of what is known, to be put behind a message."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    return f'; did you mean {close[0]!r}?' if close else f'; known are {", ".join(known)}'


def number(low: float, high: float = float('inf'), above: bool = False) -> Callable[[Any], float]:
    """A finite number in [low, high], or in (low, high] with ``above``."""

    def parse(value):
        least = f'above {low:g}' if above else f'of at least {low:g}'
        expected = f'expected a number {least}' + ('' if math.isinf(high) else f' and at most {high:g}')
        try:
            result = float(value)
        except (OverflowError, TypeError, ValueError):
            raise ValueError(expected) from None
        if isinstance(value, bool) or not low <= result <= high or math.isinf(result) or (above and result == low):
            raise ValueError(expected)
        return result

    return parse


def integer(low: int) -> Callable[[Any], int]:
    """A whole number of at least ``low``."""

    def parse(value):
        try:
            result = number(low)(value)
        except ValueError:
            result = math.nan
        if not result.is_integer():
            raise ValueError(f'expected a whole number of at least {low}')
        return value if isinstance(value, int) else int(result)  # a float has no room for large ones

    return parse


def pair(parse: Callable[[Any], float]) -> Callable[[Any], list]:
    """Two values, each parsed alike, in any order."""

    def parse_both(value):
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise ValueError('expected two numbers in brackets')
        return [parse(entry) for entry in value]

    return parse_both


def interval(parse: Callable[[Any], float]) -> Callable[[Any], list]:
    """[low, high], each parsed alike."""

    def parse_both(value):
        low, high = pair(parse)(value)
        if low > high:
            raise ValueError('expected [low, high] with low <= high')
        return [low, high]

    return parse_both


def list_of(parse: Callable[[Any], Any]) -> Callable[[Any], list]:
    """A list of at least one value, each parsed alike."""

    def parse_each(value):
        if not isinstance(value, (list, tuple)) or not value:
            raise ValueError('expected a list in brackets')
        return [parse(entry) for entry in value]

    return parse_each


def either(parse: Callable[[Any], Any], parse_list: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A list parsed by one rule, anything else by another."""
    return lambda value: (parse_list if isinstance(value, (list, tuple)) else parse)(value)


def word_or(words: Iterable[str], parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """One of some words, or what another rule takes."""

    def parse_either(value):
        try:
            return value if value in words else parse(value)
        except ValueError as error:
            raise ValueError(f'{error}, or {" or ".join(words)}') from None

    return parse_either


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


def text(value: Any) -> str:
    """A word or a path."""
    if not isinstance(value, str):
        raise ValueError('expected a text')
    return value


def plain_name(value: Any) -> str:
    """A name that can be a folder, and nothing but one folder."""
    if not isinstance(value, str) or not re.fullmatch(r'[^/\\]+', value) or value in ('.', '..'):
        raise ValueError('expected a plain name, since it becomes a folder')
    return value


def block(value: Any) -> dict:
    """Keys and values."""
    if not isinstance(value, Mapping):
        raise ValueError('expected a block of keys')
    return value


def boolean(value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise ValueError('expected true or false')
    return value


def existing_file(value: Any) -> str:
    """A path of a file that is there; ``~`` is expanded."""
    path = osp.expanduser(value if isinstance(value, os.PathLike) else text(value))
    if not osp.isfile(path):
        raise ValueError('no such file')
    return path


def distance(value: Any) -> float:
    """A distance in 1/255 units."""
    if isinstance(value, str) and '/255' in value:
        raise ValueError(f'this is in 1/255 units already; write {value.split("/")[0].strip()}')
    return number(0, 255)(value)


def eps(value: Any) -> float:
    """An attack budget in 1/255 units: a fraction such as 8/255 or 0.031 is taken for the mistake it is."""
    radius = distance(value)
    if 0 < radius < 0.25:
        raise ValueError(f'this is in 1/255 units (did you mean {radius * 255:.3g}?)')
    return radius


def some_eps(value: Any) -> float:
    """An attack budget above 0 in 1/255 units."""
    radius = eps(value)
    if radius == 0:
        raise ValueError('expected a number above 0')
    return radius
