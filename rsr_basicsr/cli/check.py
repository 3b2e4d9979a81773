"""Check an options file: everything that would go wrong later, at once."""

from __future__ import annotations

import argparse
import sys

from rsr_basicsr.check.survey import survey
from rsr_basicsr.pipeline import import_plugins
from rsr_basicsr.utils.errors import OptionsError

_LONGEST = 1000  # characters of a sentence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``rsr check``."""
    parser.add_argument(
        'file', nargs='?', metavar='FILE', help='options file of a training, a test, a benchmark or an adversarial set'
    )
    parser.add_argument('-opt', metavar='FILE', help='the same, as the other commands have it')
    parser.add_argument(
        '--import',
        dest='imports',
        action='append',
        default=[],
        metavar='MODULE',
        help='a module that registers architectures, data sets, losses or metrics of your own',
    )
    parser.add_argument(
        '--force_yml', nargs='+', default=[], metavar='KEY=VALUE', help='for example train:total_iter=1000'
    )
    parser.add_argument(
        '--decode',
        type=int,
        default=16,
        metavar='N',
        help='images of each data set that are decoded, by default 16; the headers of all are read; '
        '0 leaves the images alone',
    )
    parser.add_argument(
        '--no-memory', dest='memory', action='store_false', help='do not count the memory of a training step'
    )
    parser.epilog = 'Nothing is written. Exit code: 0 without errors, 2 with.'


def run(args: argparse.Namespace) -> int:
    """Print errors, warnings and facts, and how many there are."""
    file = args.opt or args.file
    if file is None or (args.opt and args.file):
        raise OptionsError('name one options file: rsr check FILE')
    if args.decode < 0:
        raise OptionsError(f'--decode {args.decode}: expected 0 or more')
    sys.dont_write_bytecode = True  # of the modules that are imported now
    import_plugins(args.imports)
    found = survey(file, args.force_yml, args.decode, args.memory)
    for title, sentences in (('Errors', found), ('Warnings', found.warnings), ('Facts', found.facts)):
        if sentences:
            print('\n'.join([f'{title}:', *(f'  {_line(sentence)}' for sentence in sentences), '']))
    print(f'{_count(len(found), "error")}, {_count(len(found.warnings), "warning")}')
    return OptionsError.exit_code if found else 0


def _line(sentence):
    """A sentence on one line, whatever the file has put into it."""
    words = ' '.join(sentence.split())
    return words if len(words) <= _LONGEST else f'{words[:_LONGEST]} ...'


def _count(number, what):
    return f'{number} {what}{"" if number == 1 else "s"}'
