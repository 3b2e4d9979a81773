"""Convert a BasicSR or Real-ESRGAN options file to a defended network."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rsr_basicsr.catalog.choices import DEFAULT_PRESET, DEFAULT_PRESET_GAN, PRESET_NAMES
from rsr_basicsr.cli.parser import add_import
from rsr_basicsr.utils.errors import OptionsError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``rsr defend``."""
    parser.add_argument('file', type=Path, metavar='IN.yml', help='options file of a training or a test')
    parser.add_argument(
        '-o', '--output', type=Path, metavar='OUT.yml', help='file to write; without it, the changes are only shown'
    )
    parser.add_argument(
        '--preset',
        choices=PRESET_NAMES,
        help='strength and cost of the training, see docs/options.md '
        f'(default: {DEFAULT_PRESET}, or {DEFAULT_PRESET_GAN} where there is a discriminator)',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace OUT.yml if it exists')
    add_import(parser, 'defended architectures')


def run(args: argparse.Namespace) -> int:
    """Print the changes as a diff on stdout, and remaining steps on stderr."""
    from rsr_basicsr.defend_file.options_file import defend_file, difference, write_defended
    from rsr_basicsr.pipeline import import_plugins

    if args.overwrite and args.output is None:
        raise OptionsError('--overwrite: no file to write; give -o OUT.yml')
    import_plugins(args.imports)
    defended = defend_file(args.file, args.preset)
    if args.output is not None:
        write_defended(defended, args.output, args.overwrite)
    encoding = sys.stdout.encoding or 'utf-8'
    changes = difference(defended.before, defended.text, str(args.file), str(args.output or args.file))
    sys.stdout.write(changes.encode(encoding, 'backslashreplace').decode(encoding))
    sys.stdout.flush()
    for note in defended.notes:
        print(f'rsr defend: {note}', file=sys.stderr)
    if args.output is not None:
        print(f'rsr defend: {args.output} written; next: rsr check {args.output}', file=sys.stderr)
    return 0
