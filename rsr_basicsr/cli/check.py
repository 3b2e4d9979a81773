"""Check an options file and report all problems at once."""

from __future__ import annotations

import argparse
import sys

from rsr_basicsr.cli.parser import add_force_yml, add_import
from rsr_basicsr.utils.errors import OptionsError

_LONGEST = 1000  # characters per sentence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``rsr check``."""
    parser.add_argument(
        'file', nargs='?', metavar='FILE', help='options file of a training, a test, a benchmark or an adversarial set'
    )
    parser.add_argument('-opt', metavar='FILE', help='the same, as an option like in other commands')
    add_import(parser, 'architectures, data sets, losses or metrics')
    add_force_yml(parser, 'train:total_iter=1000')
    parser.add_argument(
        '--decode',
        type=int,
        default=16,
        metavar='N',
        help='number of images to decode per data set (default: 16; 0: skip all checks of images); '
        'the headers of all images are read',
    )
    parser.add_argument(
        '--all-images', dest='decode', action='store_const', const=sys.maxsize, help='decode all images'
    )
    parser.add_argument(
        '--no-memory', dest='memory', action='store_false', help='do not measure the memory of a training step'
    )
    parser.epilog = 'Writes no files. Exit code: 0 without errors, 2 with errors.'


def run(args: argparse.Namespace) -> int:
    """Print errors, warnings and facts, and the number of errors and warnings."""
    from rsr_basicsr.check.survey import survey
    from rsr_basicsr.pipeline import import_plugins

    file = args.opt or args.file
    if file is None or (args.opt and args.file):
        raise OptionsError('give one options file: rsr check FILE')
    if args.decode < 0:
        raise OptionsError(f'--decode {args.decode}: expected 0 or more')
    sys.dont_write_bytecode = True  # for the modules imported below
    import_plugins(args.imports)
    found = survey(file, args.force_yml, args.decode, args.memory)
    for title, sentences in (('Errors', found), ('Warnings', found.warnings), ('Facts', found.facts)):
        if sentences:
            print('\n'.join([f'{title}:', *(f'  {_line(sentence)}' for sentence in sentences), '']))
    print(f'{_count(len(found), "error")}, {_count(len(found.warnings), "warning")}')
    return OptionsError.exit_code if found else 0


def _line(sentence: str) -> str:
    """The sentence on one line, shortened if it is too long."""
    line = ' '.join(sentence.split())
    return line if len(line) <= _LONGEST else f'{line[:_LONGEST]} ...'


def _count(number: int, what: str) -> str:
    return f'{number} {what}{"" if number == 1 else "s"}'
