"""Attack networks behind defences, and report how they hold."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any, Dict, List

from rsr_basicsr.benchmark.output import write_results
from rsr_basicsr.benchmark.record import PICTURES, Recorder, merge, picture_file, read_records, without_paths
from rsr_basicsr.benchmark.run import OPTIONS, is_first, keep_options, launched, run_benchmark
from rsr_basicsr.benchmark.tables import as_text
from rsr_basicsr.benchmark.verdict import verdict, warnings
from rsr_basicsr.errors import OptionsError
from rsr_basicsr.options import load_options
from rsr_basicsr.options.benchmark import SECTIONS, STABILITY, check_benchmark
from rsr_basicsr.options.overrides import override
from rsr_basicsr.pipeline import import_plugins

#: Exit code when cells failed; the others are measured and reported
FAILED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``rsr benchmark``."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('-opt', metavar='FILE', help='options file, see docs/benchmark.md')
    what.add_argument('--merge', nargs='+', metavar='FOLDER', type=Path,
                      help='folders of finished or unfinished runs, reported as one')
    parser.add_argument('-o', '--output', metavar='FOLDER', type=Path,
                        help='where the results go, and where a killed run goes on; default benchmark/NAME')
    parser.add_argument('--import', dest='imports', action='append', default=[], metavar='MODULE',
                        help='a module that registers networks, defences, attacks or metrics of your own')
    parser.add_argument('--force_yml', nargs='+', default=[], metavar='KEY=VALUE',
                        help='for example datasets:BSD100:num_pictures=3')
    parser.add_argument('--launcher', choices=['none', 'pytorch'], default='none', help='job launcher')
    parser.epilog = f'Exit code: 0 all cells were measured, {FAILED} some failed.'


def run(args: argparse.Namespace) -> int:
    """Run or merge, print the table, and say where the report is."""
    import_plugins(args.imports)
    if args.merge:
        return _merge(args.merge, args.output)
    options = load_options(args.opt)
    override(options, args.force_yml)
    options, pictures = check_benchmark(options)
    folder = args.output or Path('benchmark') / options['name']
    with launched(args.launcher):
        records = run_benchmark(options, pictures, folder)
        if not is_first():
            return 0
        return _report(folder, records, options)


def _merge(folders, output):
    if output is None:
        raise OptionsError('--merge: name the folder for the report with -o FOLDER')
    if output.resolve() in [folder.resolve() for folder in folders] and len(folders) > 1:
        raise OptionsError(f'-o {output}: it is one of those that are merged; name another folder')
    options = [_options_of(folder) for folder in folders]
    together = _together(options)
    merged = merge(read_records(folder) for folder in folders)
    if [output.resolve()] != [folder.resolve() for folder in folders]:
        _copy(merged, folders, output)
    keep_options(output, together)
    return _report(output, merged, together)


def _copy(records, folders, output):
    """The records and the pictures of the gallery, so that the merged run is one like any other."""
    try:
        recorder = Recorder(output)
    except OSError as error:
        raise OptionsError(f'-o {output}: {error.strerror}; name another folder') from error
    known = {record.key for record in read_records(output) if not record.error}
    for record in records:
        for path in record.shown.values():
            source = next(filter(None, (picture_file(folder, path) for folder in folders)), None)
            if source is not None:
                shutil.copyfile(source, output / PICTURES / Path(path).name)
        if record.key not in known:
            recorder.append(record)
    recorder.close()


def _options_of(folder) -> Dict[str, Any]:
    try:
        options = json.loads((folder / OPTIONS).read_text(encoding='utf-8'))
        if not _are_sound(options):
            raise ValueError(f'{OPTIONS} holds others than those of a benchmark')
        return options
    except KeyError as error:
        raise OptionsError(f'--merge {folder}: no folder of a benchmark ({OPTIONS} has no {error})') from None
    except (OSError, ValueError, TypeError) as error:
        raise OptionsError(f'--merge {folder}: no folder of a benchmark ({error})') from None


def _are_sound(options) -> bool:
    """Whether options have the types that a report needs: they may be a stranger's."""
    blocks = [block for section in SECTIONS for block in (options[section], *options[section].values())]
    return (isinstance(options['name'], str) and isinstance(options.get('description', ''), str)
            and all(isinstance(block, dict) for block in blocks) and STABILITY in options['metrics']
            and all(isinstance(metric['type'], str) for metric in options['metrics'].values())
            and all(isinstance(options[key], list) and all(isinstance(n, (int, float)) for n in options[key])
                    for key in ('eps', 'mask_seeds')) and isinstance(options['seed'], int))


def _together(options: List[Dict[str, Any]]) -> Dict[str, Any]:
    """The options of the first run, and what the others have that it has not."""
    merged = dict(options[0])
    for later in options[1:]:
        for key in ('scale', 'seed', 'mask_seeds', 'tile', 'tile_overlap', 'threads', 'metrics'):
            if without_paths(later.get(key)) != without_paths(merged.get(key)):
                raise OptionsError(f'--merge: the runs have different {key}; merge runs of one protocol')
        for name, defense in later['defenses'].items():
            if merged['defenses'].get(name, defense) != defense:
                raise OptionsError(f'--merge: the runs call different defences {name!r}; give one of them another name')
        for section in SECTIONS:
            merged[section] = {**later[section], **merged[section]}
            merged[section] = {name: merged[section][name] for name in dict.fromkeys(
                [*options[0][section], *merged[section]])}
        merged['eps'] = sorted({*merged['eps'], *later['eps']})
    return merged


def _report(folder, records, options):
    if not records:
        raise OptionsError(f'{folder} holds no result yet')
    results = write_results(folder, records, options)
    print(f'\n{as_text(results)}\n')
    for sentence in verdict(results):
        print(sentence)
    for sentence in warnings(results):
        print(f'Warning: {sentence}')
    print(f'\nReport: {folder / "report.html"}')
    return FAILED if any(record.error or record.trouble for record in records) else 0
