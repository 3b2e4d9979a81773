"""Fetch weights by name, the official ones of Real-ESRGAN or those of this package, and print their paths."""

from __future__ import annotations

import argparse
import logging

from rsr_basicsr.catalog.weights import KNOWN, find
from rsr_basicsr.utils.errors import OptionsError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``rsr weights``."""
    parser.add_argument('names', nargs='*', metavar='NAME', help=', '.join(KNOWN))
    parser.add_argument(
        '-o',
        '--output',
        metavar='DIR',
        help='folder of the files (default: $RSR_CACHE, else ~/.cache/rsr_basicsr/weights, or this package)',
    )
    parser.add_argument('--list', action='store_true', help='list the known weights and exit')


def run(args: argparse.Namespace) -> int:
    """Print the path of each file on stdout; the progress goes to stderr."""
    if args.list:
        for weights in KNOWN.values():
            source = weights.url or 'in this package'
            size = f'{weights.size / 1e6:5.1f} MB' if weights.size else ''
            print(f'{weights.name:<28}{weights.network["type"]:<21}{size:<10}{source}')
        return 0
    if not args.names:
        raise OptionsError(f'give at least one of {", ".join(KNOWN)}')
    for name in args.names:  # check all names before the first download
        find(name)
    from rsr_basicsr.weights.official import fetch  # imports torch

    logging.basicConfig(level=logging.INFO, format='rsr weights: %(message)s')
    for name in args.names:
        print(fetch(name, args.output), flush=True)
    return 0
