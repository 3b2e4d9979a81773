"""Completion of commands, options and file names in shells."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

#: Metavars of arguments that are folders; other file names are recognised by these parts
_FOLDERS = ('FOLDER', 'DIR')
_FILE_PARTS = ('FILE', 'INPUT', 'IMAGE', '.yml', '.pth', '.pt2', '.onnx', '.safetensors')


class PrintCompletion(argparse.Action):
    """``--print-completion SHELL``: prints the script that shtab makes of all parsers."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, shell: Any, option: str | None = None) -> None:
        try:
            import shtab
        except ModuleNotFoundError:
            parser.error(f'{option} needs the package shtab: pip install shtab')
        for action in _actions(parser):
            name = str(action.metavar)
            if name in _FOLDERS:
                vars(action)['complete'] = shtab.DIRECTORY
            elif any(part in name for part in _FILE_PARTS):
                vars(action)['complete'] = shtab.FILE
        print(shtab.complete(parser, shell))
        parser.exit()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments of a parser and of the parsers of its commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action
