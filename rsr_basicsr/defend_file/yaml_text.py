"""Adds keys to the text of a YAML file and keeps every other byte."""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from rsr_basicsr.utils.errors import OptionsError, in_one_line

KeyPath = Sequence[str]
_Entry = tuple[yaml.Node, yaml.Node]

_BREAK = re.compile('\r\n|\r|\n')
_PROPERTIES = re.compile(r'(?:[!&]\S*\s+)*')  # tag and anchor in front of a value
_ALIAS = re.compile(r'[^*]*\*[^\s,\]}]+')
_NOTHING = object()


class _Line(NamedTuple):
    """Where a line begins and where it ends, without its line break."""

    start: int
    end: int


class YamlText:
    """The text of a YAML file with one block of keys, and additions to it.

    PyYAML's composer locates each value. Text is only inserted, never removed, and :meth:`result` compares the outcome
    with the intended data, since YAML has more notations than can be foreseen.

    Args:
        text: of the file, with the line breaks as they are.

    Attributes:
        data: what the file holds, plain values only.
        meant: the data it should hold with all additions.

    Raises:
        OptionsError: not YAML, several documents, a tag that would run code, or no block of keys.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._root, self.data = _read(yaml.compose, text), _read(yaml.load, text)
        if not isinstance(self.data, Mapping) or not isinstance(self._root, yaml.MappingNode):
            raise OptionsError('it holds no options')
        self.meant = dict(self.data)
        # Position in the text, order there (additions to inner blocks come first), and the added text.
        self._additions: list[tuple[int, int, str]] = []
        self._lines = list(_lines(text))
        self._starts = [line.start for line in self._lines]
        found = _BREAK.search(text)
        self._newline = found.group() if found else '\n'
        self._step = _indentation(self._root)

    def prefix(self, path: KeyPath, letters: str) -> None:
        """Prefix a word; a word from a merge key (``<<``) is written out.

        Raises:
            OptionsError: the word cannot be changed in place.
        """
        *blocks, name = path
        node = self._block(blocks)
        entry = self._entry(node, blocks, name)
        longer = {name: f'{letters}{_value(self.data, path)}'}
        if entry is None:
            self.add(blocks, yaml.safe_dump(longer, width=math.inf))
            return
        word = entry[1]
        _refuse_alias(entry, path)
        style = word.style if isinstance(word, yaml.ScalarNode) else None
        if style in ('|', '>'):
            raise OptionsError(
                f'{_place(path, word)}: a text over several lines ({style}) cannot be changed; '
                'write it behind the colon'
            )
        start = _end_of_match(_PROPERTIES, self._text, word.start_mark.index) + (1 if style else 0)
        self._additions.append((start, 0, letters))
        self.meant = _merged(self.meant, blocks, longer)

    def add(self, path: KeyPath, snippet: str, before: str | None = None) -> None:
        """Add keys to a block.

        Args:
            path: of the block; empty for the whole file.
            snippet: the keys in YAML, indented by two; they take the file's own indentation. Comments are dropped
                where the block is in braces.
            before: the key, with its comment, in front of which they are put; None for the end.

        Raises:
            OptionsError: the block cannot be extended in place.
        """
        node = self._block(path)
        added = yaml.safe_load(snippet)
        if node.flow_style:
            inner = yaml.safe_dump(added, default_flow_style=True, sort_keys=False, width=math.inf).strip()[1:-1]
            position, text = self._end(node.value[-1]), f', {inner}'
        else:
            entry = self._entry(node, path, before) if before else None
            lines = _indented(snippet, node.value[0][0].start_mark.column, self._step)
            if entry is None:
                position, text = self._end_of_block(node), ''.join(self._newline + line for line in lines)
            else:
                position = self._start_with_comment(entry[0])
                text = ''.join(line + self._newline for line in [*lines, ''])
        self._additions.append((position, -len(path), text))
        self.meant = _merged(self.meant, path, added)

    def result(self) -> str:
        """The text with all additions.

        Raises:
            OptionsError: the text would not hold the intended data, because of its notation.
        """
        parts, done = [], 0
        for position, _, addition in sorted(self._additions, key=lambda one: one[:2]):
            parts += [self._text[done:position], addition]
            done = position
        text = ''.join([*parts, self._text[done:]])
        try:
            found = _read(yaml.load, text)
        except OptionsError as error:
            raise OptionsError(f'its notation cannot be extended ({error})') from None
        place = _first_difference(self.meant, found)
        if place is not None:
            raise OptionsError(
                f'{place}: an anchor (&) or an unsupported notation moves the change '
                'to the wrong place; write the blocks out'
            )
        return text

    def _block(self, path: KeyPath) -> yaml.MappingNode:
        """The node of a block, in which keys can be added."""
        node = self._root
        for depth, name in enumerate(path):
            entry = self._entry(node, path[:depth], name)
            here = '.'.join(path[: depth + 1])
            if entry is None:
                raise OptionsError(f'{here}: it comes out of a merge key (<<); write the block out')
            _refuse_alias(entry, path[: depth + 1])
            node = entry[1]
            if not isinstance(node, yaml.MappingNode):
                raise OptionsError(f'{_place(path[: depth + 1], node)}: it is not a block of keys')
        return node

    def _entry(self, node: yaml.MappingNode, path: KeyPath, name: str) -> _Entry | None:
        """Key and value of that name as nodes, None where the block has none of its own."""
        found = [entry for entry in node.value if entry[0].value == name and isinstance(entry[0], yaml.ScalarNode)]
        if len(found) > 1:
            first, second = (key.start_mark.line + 1 for key, _ in found[:2])
            raise OptionsError(f'{".".join([*path, name])}: it is repeated, in lines {first} and {second}; leave one')
        return found[0] if found else None

    def _end(self, entry: _Entry) -> int:
        """Where the value of a key ends."""
        key, value = entry
        if _is_alias(entry):
            return _end_of_match(_ALIAS, self._text, key.end_mark.index)
        if isinstance(value, yaml.CollectionNode) and not value.flow_style and value.value:
            last = value.value[-1]
            return self._end(last if isinstance(last, tuple) else (key, last))
        if isinstance(value, yaml.ScalarNode) and value.style in ('|', '>'):
            return len(self._text[: value.end_mark.index].rstrip())  # its end is the beginning of another line
        return value.end_mark.index

    def _end_of_block(self, node: yaml.MappingNode) -> int:
        """The end of the last line of a block, with directly following comments of the same indentation."""
        column = node.value[0][0].start_mark.column
        number = self._line(self._end(node.value[-1]))
        while number + 1 < len(self._lines) and self._comment_at(number + 1, least=column):
            number += 1
        return self._lines[number].end

    def _start_with_comment(self, key: yaml.Node) -> int:
        """The start of the line of a key, or of the comment above it."""
        column, number = key.start_mark.column, self._line(key.start_mark.index)
        while number and self._comment_at(number - 1, least=column, most=column):
            number -= 1
        return self._lines[number].start

    def _comment_at(self, number: int, least: int, most: float = math.inf) -> bool:
        """Whether a line is a comment, indented by so many spaces."""
        line = self._text[slice(*self._lines[number])]
        content = line.lstrip(' ')
        return content.startswith('#') and least <= len(line) - len(content) <= most

    def _line(self, position: int) -> int:
        return bisect.bisect_right(self._starts, position) - 1


def _read(function: Callable[..., Any], text: str) -> Any:
    try:
        return function(text, Loader=yaml.SafeLoader)
    except yaml.constructor.ConstructorError as error:
        raise OptionsError(f'{_reason(error)}; only plain YAML values are read') from None
    except yaml.composer.ComposerError as error:
        several = 'another document' in (error.problem or '')
        raise OptionsError(
            'it holds several documents (---); BasicSR reads one' if several else _reason(error)
        ) from None
    except RecursionError:
        raise OptionsError('its blocks are nested too deeply') from None
    except Exception as error:  # constructors of tags raise anything on a wrong value
        raise OptionsError(f'it is not a YAML file: {_reason(error)}') from None


def _reason(error: Exception) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return in_one_line(error)
    return f'{error.problem}, line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}'


def _end_of_match(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.match(text, start)
    assert found is not None  # the composer found the value there
    return found.end()


def _lines(text: str) -> Iterator[_Line]:
    start = 1 if text.startswith('\ufeff') else 0  # nothing may come before a byte order mark
    for found in _BREAK.finditer(text):
        yield _Line(start, found.start())
        start = found.end()
    yield _Line(start, len(text))


def _indentation(root: yaml.MappingNode) -> int:
    """Indentation, in spaces, of the first inner block."""
    for key, value in root.value:
        if isinstance(value, yaml.MappingNode) and not value.flow_style and not _is_alias((key, value)):
            return value.value[0][0].start_mark.column - key.start_mark.column
    return 2


def _indented(snippet: str, column: int, step: int) -> Iterator[str]:
    for line in snippet.splitlines():
        content = line.lstrip(' ')
        depth = (len(line) - len(content)) // 2
        yield ' ' * (column + depth * step) + content


def _is_alias(entry: _Entry) -> bool:
    """Whether a value is an alias: it is located before its key."""
    key, value = entry
    return value.start_mark.index < key.start_mark.index


def _refuse_alias(entry: _Entry, path: KeyPath) -> None:
    if _is_alias(entry):
        raise OptionsError(
            f'{_place(path, entry[0])}: it is an alias (*) of another place, which would change too; write it out'
        )


def _place(path: KeyPath, node: yaml.Node) -> str:
    return f'{".".join(path)}, line {node.start_mark.line + 1}'


def _value(data: Any, path: KeyPath) -> Any:
    for name in path:
        data = data[name]
    return data


def _merged(data: Mapping[str, Any], path: KeyPath, added: Mapping[str, Any]) -> dict[str, Any]:
    """The data with more keys in one block. Blocks shared by aliases are separated."""
    if not path:
        return {**data, **added}
    return {**data, path[0]: _merged(data[path[0]], path[1:], added)}


def _first_difference(meant: Any, found: Any, where: str = '', seen: set[tuple[int, int]] | None = None) -> str | None:
    """The first place, as key names, where two values differ in value or type; None where they are equal."""
    seen = set() if seen is None else seen  # aliases can make a value endless
    if (id(meant), id(found)) in seen:
        return None
    seen.add((id(meant), id(found)))
    if type(meant) is not type(found):
        return where or 'the file'
    if isinstance(meant, dict):
        pairs = [(key, meant.get(key, _NOTHING), found.get(key, _NOTHING)) for key in {**meant, **found}]
    elif isinstance(meant, list) and len(meant) == len(found):
        pairs = [(number, *pair) for number, pair in enumerate(zip(meant, found))]
    else:
        return None if _same(meant, found) else where or 'the file'
    inside: Any = (
        _first_difference(one, other, f'{where}.{key}' if where else str(key), seen) for key, one, other in pairs
    )
    return next((place for place in inside if place is not None), None)


def _same(one: Any, other: Any) -> bool:
    return one == other or (one != one and other != other)  # not a number is not itself
