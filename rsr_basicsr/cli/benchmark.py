"""Attack networks and defences, and report their robustness."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsr_basicsr.cli.parser import add_force_yml, add_import
from rsr_basicsr.utils.errors import OptionsError
from rsr_basicsr.utils.files import sole_writer

if TYPE_CHECKING:
    from rsr_basicsr.benchmark.record import Record

#: Exit code if some cells failed; the others are reported
EXIT_FAILED_CELLS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``rsr benchmark``."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('-opt', metavar='FILE', help='options file, see docs/benchmark.md')
    what.add_argument(
        '--merge',
        nargs='+',
        metavar='FOLDER',
        type=Path,
        help='folders of finished or unfinished runs, reported as one run',
    )
    parser.add_argument(
        '-o',
        '--output',
        metavar='FOLDER',
        type=Path,
        help='folder of the results, where a killed run continues (default: benchmark/NAME)',
    )
    add_import(parser, 'networks, defences, attacks or metrics')
    add_force_yml(parser, 'datasets:BSD100:num_images=3')
    parser.add_argument('--launcher', choices=['none', 'pytorch'], default='none', help='job launcher')
    parser.epilog = f'Exit code: 0 if all cells were measured, {EXIT_FAILED_CELLS} if some failed.'


def run(args: argparse.Namespace) -> int:
    """Run or merge, print the table, the verdict and the path of the report."""
    from rsr_basicsr.benchmark.matching import resolve_plane
    from rsr_basicsr.benchmark.merging import merge_runs
    from rsr_basicsr.benchmark.options import check_benchmark
    from rsr_basicsr.benchmark.run import is_first, launched, run_benchmark
    from rsr_basicsr.options.loading import load_options, override
    from rsr_basicsr.pipeline import import_plugins

    import_plugins(args.imports)
    if args.merge:
        if args.output is None:
            raise OptionsError('--merge: give the folder of the report by -o FOLDER')
        return _report(args.output, *merge_runs(args.merge, args.output))
    options = load_options(args.opt)
    override(options, args.force_yml)
    options, images = check_benchmark(options)
    if args.force_yml:  # the description in the file may no longer be accurate
        options['description'] = f'{options["description"]} Changed: {"; ".join(args.force_yml)}.'.strip()
    folder = args.output or Path('benchmark') / options['name']
    with launched(args.launcher), sole_writer(folder) if is_first() else contextlib.nullcontext():
        options = resolve_plane(options, images)
        records = run_benchmark(options, images, folder)
        if not is_first():
            return 0
        return _report(folder, records, options)


def _report(folder: Path, records: Sequence[Record], options: Mapping[str, Any]) -> int:
    from rsr_basicsr.benchmark.report.equal_sharpness import text_tables
    from rsr_basicsr.benchmark.report.output import write_results
    from rsr_basicsr.benchmark.report.tables import as_text
    from rsr_basicsr.benchmark.report.verdict import verdict
    from rsr_basicsr.benchmark.report.warnings import warnings

    if not records:
        raise OptionsError(f'{folder} has no results yet')
    results = write_results(folder, records, options)
    print(f'\n{as_text(results, text_tables(results))}\n')
    for sentence in verdict(results):
        print(sentence)
    for sentence in warnings(results):
        print(f'Warning: {sentence}')
    print(f'\nReport: {folder / "report.html"}')
    return EXIT_FAILED_CELLS if any(record.error or record.metric_errors for record in records) else 0
