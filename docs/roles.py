"""Turns the Sphinx roles in docstrings, :func:`name`, into links to the reference, where it has that name."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r':(?:class|data|func|meth|mod):`(~?)([^`]+)`')
CODE = re.compile(r'(?<!`)``([^`]+)``(?!`)')


class Roles(griffe.Extension):
    """Extension of griffe, which reads the docstrings for mkdocstrings."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object before it is parsed."""
        if obj.docstring:
            obj.docstring.value = CODE.sub(r'`\1`', ROLE.sub(_link, obj.docstring.value))


def _link(found: re.Match[str]) -> str:
    short, name = found.groups()
    text = name.rsplit('.', 1)[-1] if short else name
    return f'<autoref optional identifier="{name}"><code>{text}</code></autoref>'
