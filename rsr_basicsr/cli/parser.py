"""The parser of the command line; wrong arguments end in one sentence with a hint."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from rsr_basicsr.utils.errors import OptionsError
from rsr_basicsr.utils.hints import did_you_mean, nearest


class Parser(argparse.ArgumentParser):
    """argparse's parser without abbreviations, with suggestions for unknown words.

    It prints one sentence instead of the usage. ``allow_abbrev=False`` alone still allows abbreviations of options with
    one dash, such as BasicSR's ``-opt``.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(OptionsError.exit_code, f'{self.prog}: {message} (see {self.prog} --help)\n')

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """Exit because of unknown arguments."""
        options = [word for word in words if word.startswith('-')]
        if not options:
            self.error(f'{words[0]}: unexpected argument')
        self.error(f'unknown option {options[0]}{self._suggestion(options[0])}')

    def _suggestion(self, option: str) -> str:
        name, known = option.partition('=')[0], list(self._option_string_actions)
        close = nearest(name, known) or next((one for one in known if one.startswith(name)), None)
        return f'; did you mean {close}?' if close else ''

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        """Allow an option with its value in one word, such as ``-s2``, but no abbreviations."""
        found = super()._get_option_tuples(option_string)
        if any(len(meant[1]) > 2 for meant in found):
            self.refuse([option_string])
        return found

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f'{value!r} is not a choice; {did_you_mean(value, action.choices)}')


def add_import(parser: argparse.ArgumentParser, what: str) -> None:
    """Declare ``--import``, read as ``args.imports``.

    Args:
        parser: the parser of a command.
        what: what the modules may register, for its help: ``architectures``.
    """
    parser.add_argument(
        '--import',
        dest='imports',
        action='append',
        default=[],
        metavar='MODULE',
        help=f'module that registers your own {what}',
    )


def add_force_yml(parser: argparse.ArgumentParser, example: str) -> None:
    """Declare BasicSR's ``--force_yml``, with an example for its help."""
    parser.add_argument('--force_yml', nargs='+', default=[], metavar='KEY=VALUE', help=f'for example {example}')


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Declare ``-opt`` of the commands that take a weight file."""
    parser.add_argument(
        '-opt',
        metavar='FILE',
        help='options file whose network_g has these weights; without it the network is recognised by its weights',
    )
