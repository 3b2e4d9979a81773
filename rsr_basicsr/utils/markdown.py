"""Tables and text in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

#: A cell without a value
EMPTY = '-'


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first line holds the column names."""
    head, *body = [[escaped(cell) for cell in line] for line in lines]
    rule = ['---', *['---:'] * (len(head) - 1)]
    return '\n'.join(f'| {" | ".join(line)} |' for line in [head, rule, *body])


def escaped(text: str) -> str:
    """Escape text for Markdown and for HTML inside it."""
    table: dict[str, str | int | None] = {
        '\\': '\\\\',
        '|': '\\|',
        '*': '\\*',
        '_': '\\_',
        '`': '\\`',
        '[': '\\[',
        '#': '\\#',
        '<': '&lt;',
        '>': '&gt;',
        '&': '&amp;',
        '\n': ' ',
    }
    return str(text).translate(str.maketrans(table))
