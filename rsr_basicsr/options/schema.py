"""A declarative schema for blocks of an options file: a table of keys, and one function that checks a block.

Values are coerced, since ``--force_yml`` delivers ``1e-4``, ``-1`` and ``[2, 8]`` as text.
"""

from __future__ import annotations

import difflib
import inspect
import math
import os.path as osp
import re
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
        value = (_parse_key(block, name, rule, where) if isinstance(rule, Key)
                 else parse_block(block.get(name), rule, f'{where}.{name}'))
        if value is not ABSENT:
            parsed[name] = value
    return parsed


def parse_open(options: dict, schema: Mapping[str, Key], where: str) -> None:
    """Check some keys of a block that may hold others too, and put their values into their final types, in place.

    Raises:
        OptionsError: as :func:`parse_block` does.
    """
    for name, rule in schema.items():
        value = _parse_key(options, name, rule, where)
        if value is not ABSENT:
            options[name] = value


def _near_miss(name, options):
    close = difflib.get_close_matches(name, map(str, options), n=1)
    return f'; did you mean {name!r} where it says {close[0]!r}?' if close else ''


def _parse_key(options, name, rule, where):
    """The value of one key in its final type, its default, or ABSENT."""
    value = options.get(name)
    if value is None:
        if rule.required:
            raise OptionsError(f'{where}: the key {name!r} is missing' if where
                               else f'the key {name!r} is missing{_near_miss(name, options)}')
        return rule.default
    try:
        return rule.parse(value)
    except (TypeError, ValueError) as error:
        raise OptionsError(f'{f"{where}.{name}" if where else name}: {error}, got {value!r}') from None


def registered(registry, name: str, where: str):
    """The object of that name in a BasicSR registry, as BasicSR would find it."""
    suffix = '_basicsr'
    if name in registry:
        return registry.get(name)
    if f'{name}{suffix}' in registry:
        return registry.get(f'{name}{suffix}')
    known = [key[:-len(suffix)] if key.endswith(suffix) else key for key in registry.keys()]
    raise OptionsError(f'{where}: {name!r} is not registered{nearest(name, known)}')


def check_call(function: Callable, options: Mapping, where: str, given: int = 0, own: Iterable[str] = ()) -> None:
    """Check that a function or class takes what a block holds, and gets what it needs.

    Args:
        function: what will be called with the block, less its ``type``.
        given: number of arguments at the front that come from the caller.
        own: keys that the caller takes out of the block.

    Raises:
        OptionsError: a key is unknown or missing.
    """
    parameters = list(inspect.signature(function).parameters.values())[given:]
    known = [*(p.name for p in parameters), 'type', *own]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for key in options:
            if key not in known:
                raise OptionsError(f'{where}: unknown key {key!r}{nearest(key, known)}')
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD \
                and parameter.name not in options:
            raise OptionsError(f'{where}: the key {parameter.name!r} is missing')


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
        except (TypeError, ValueError):
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
    path = osp.expanduser(str(value))
    if not osp.isfile(path):
        raise ValueError('no such file')
    return path


def distance(value: Any) -> float:
    """A distance in 1/255 units."""
    as_text = str(value)
    if '/255' in as_text:
        raise ValueError(f'this is in 1/255 units already; write {as_text.split("/")[0].strip()}')
    return number(0, 255)(value)


def eps(value: Any) -> float:
    """An attack budget in 1/255 units: a fraction such as 8/255 or 0.031 is taken for the mistake it is."""
    radius = distance(value)
    if 0 < radius < 0.25:
        raise ValueError(f'this is in 1/255 units; did you mean {radius * 255:.3g}?')
    return radius


def some_eps(value: Any) -> float:
    """An attack budget above 0 in 1/255 units."""
    radius = eps(value)
    if radius == 0:
        raise ValueError('expected a number above 0')
    return radius
