"""Write a data set of clean and attacked images to train or evaluate a detector."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from rsr_basicsr.cli.parser import add_import
from rsr_basicsr.utils.errors import OptionsError
from rsr_basicsr.utils.files import sole_writer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``rsr adversarial-set``."""
    parser.add_argument('-opt', required=True, metavar='FILE', help='options file, see docs/detector.md')
    parser.add_argument('-o', '--output', metavar='FOLDER', help='folder of the data set, instead of dataroot')
    parser.add_argument('--photos', nargs='+', metavar='FOLDER', help='photos, instead of those in the options')
    parser.add_argument(
        '--workers',
        type=int,
        metavar='N',
        help='number of worker processes (default: one per core, one in all on a GPU; 0: this process only); does not '
        'change the data set',
    )
    parser.add_argument('--device', default='cpu', help='cuda, cuda:1 or cpu (default: cpu)')
    add_import(parser, 'architectures')


def run(args: argparse.Namespace) -> int:
    """Write the missing part of the data set and print its folder."""
    from rsr_basicsr.data.adversarial_set import write_adversarial_set
    from rsr_basicsr.data.adversarial_set_options import check_adversarial_set
    from rsr_basicsr.inference.upscaler import device_of
    from rsr_basicsr.options.loading import load_options
    from rsr_basicsr.pipeline import import_plugins

    if args.workers is not None and args.workers < 0:
        raise OptionsError(f'--workers {args.workers}: expected 0 or more')
    device = device_of(args.device)
    import_plugins(args.imports)
    options = load_options(args.opt)
    if args.photos:
        options['photos'] = args.photos
    options = check_adversarial_set(options)
    folder = args.output or options.pop('dataroot', None)
    options.pop('dataroot', None)
    if folder is None:
        raise OptionsError(f"-opt {args.opt}: the key 'dataroot' is missing; add it or give -o FOLDER")
    folder = Path(folder).expanduser()
    workers = args.workers
    if workers is None:  # on a GPU each has a context and networks of its own
        workers = (os.cpu_count() or 1) if device.type == 'cpu' else 1
    with sole_writer(folder):
        made = write_adversarial_set(options, folder, workers, imports=args.imports, device=str(device))
    kind = 'pairs' if options['networks'] else 'clean images'
    print(f'{folder}: {options["count"]} {kind}, {made} of them made now')
    return 0
