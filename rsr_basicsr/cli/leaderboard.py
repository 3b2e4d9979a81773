"""Combine the results of several benchmarks into one table."""

from __future__ import annotations

import argparse
from pathlib import Path

from rsr_basicsr.leaderboard.entries import read_cards
from rsr_basicsr.leaderboard.table import as_leaderboard
from rsr_basicsr.utils.errors import OptionsError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``rsr leaderboard``."""
    parser.add_argument('files', nargs='+', metavar='FILE', type=Path, help='cards.jsonl files of rsr benchmark')
    parser.add_argument('-o', '--output', metavar='FILE', type=Path, help='file of the table (default: print it)')


def run(args: argparse.Namespace) -> int:
    """Print or write the table as Markdown."""
    text = as_leaderboard(read_cards(args.files))
    if args.output is None:
        print(text, end='')
        return 0
    try:
        args.output.write_text(text, encoding='utf-8')
    except OSError as error:
        raise OptionsError(f'-o {args.output}: {error.strerror}; name another file') from error
    print(args.output)
    return 0
