"""List the options files that come with the package, copy them to be edited, or print a JSON schema for editors."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rsr_basicsr.catalog.option_files import copy_options, options_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``rsr options``."""
    parser.add_argument('-o', '--output', type=Path, metavar='FOLDER', help='copy them into this folder')
    parser.add_argument('--overwrite', action='store_true', help='replace those in the folder that were edited')
    parser.add_argument('--schema', action='store_true', help='print the JSON schema of options files, for editors')


def run(args: argparse.Namespace) -> int:
    """Print one line per file, the paths of the files that were written, or the schema."""
    if args.schema:
        from rsr_basicsr.check.reference import json_schema  # imports all commands

        print(json.dumps(json_schema(), indent=2))
        return 0
    if args.output is None:
        files = options_files()
        width = max(map(len, files))
        for name, title in files.items():
            print(f'{name:<{width}}  {title}')
        return 0
    written = copy_options(args.output, args.overwrite)
    for path in written:
        print(path)
    if not written:
        print(f'{args.output} has them all already')
    return 0
