"""The parser of the command line: what it does not understand ends in one sentence with a remedy."""

from __future__ import annotations

import argparse
import difflib

from rsr_basicsr.utils.errors import OptionsError
from rsr_basicsr.utils.registry import did_you_mean


class Parser(argparse.ArgumentParser):
    """argparse's, without abbreviations, and with the nearest known word where one is not known.

    argparse would print all options before its sentence. Of ``allow_abbrev=False`` it makes an exception for options
    that begin with one dash, as BasicSR's ``-opt``.
    """

    def __init__(self, **arguments):
        super().__init__(**arguments, allow_abbrev=False)

    def error(self, message):
        self.exit(OptionsError.exit_code, f'{self.prog}: {message} (see {self.prog} --help)\n')

    def refuse(self, words: list[str]):
        """Exit because of words that are left over."""
        options = [word for word in words if word.startswith('-')]
        if not options:
            self.error(f'{words[0]}: nothing more was expected here')
        self.error(f'there is no option {options[0]}{self._meant(options[0])}')

    def _meant(self, option):
        name, known = option.partition('=')[0], list(self._option_string_actions)
        close = difflib.get_close_matches(name, known, n=1) or [one for one in known if one.startswith(name)]
        return f'; did you mean {close[0]}?' if close else ''

    def _get_option_tuples(self, option_string):
        """What a word may stand for: an option with its value in one word, such as ``-s2``, and nothing else."""
        found = super()._get_option_tuples(option_string)
        if any(len(meant[1]) > 2 for meant in found):
            self.refuse([option_string])
        return found

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f'{value!r} cannot be chosen; {did_you_mean(value, action.choices)}')
