"""Measure how much a network amplifies noise, and show where."""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

from rsr_basicsr.catalog.choices import DEFAULT_CROP, DEFAULT_EPS, DEFAULT_IMAGES, DEFAULT_STEPS
from rsr_basicsr.catalog.weights import WEIGHTS
from rsr_basicsr.cli.parser import add_import, add_network_options
from rsr_basicsr.cli.upscale import EXIT_FAILED_IMAGES
from rsr_basicsr.utils.files import check_new


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``rsr stability``."""
    parser.add_argument(
        'weights',
        metavar='NAME_OR_FILE',
        help=f'a weight file, or one of {", ".join(WEIGHTS)}, which are fetched',
    )
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='images, or folders of images, as they come')
    add_network_options(parser)
    parser.add_argument(
        '-o',
        '--output',
        type=Path,
        default=Path('stability'),
        metavar='FOLDER',
        help='folder of the page and the figures (default: stability)',
    )
    parser.add_argument(
        '--eps',
        nargs='+',
        type=float,
        default=DEFAULT_EPS,
        metavar='LEVELS',
        help=f'strengths of the attack in 1/255 (default: {" ".join(map(str, DEFAULT_EPS))})',
    )
    parser.add_argument(
        '--steps', type=int, default=DEFAULT_STEPS, help=f'steps of the attack (default: {DEFAULT_STEPS})'
    )
    parser.add_argument(
        '--crop',
        type=int,
        default=DEFAULT_CROP,
        metavar='PIXELS',
        help=f'side of the attacked windows, the most textured of each image (default: {DEFAULT_CROP})',
    )
    parser.add_argument(
        '--num-images',
        type=int,
        default=DEFAULT_IMAGES,
        metavar='N',
        help=f'images to take, evenly spread over those found (default: {DEFAULT_IMAGES}; 0: all)',
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the attacks (default: 0)')
    parser.add_argument('--device', default='auto', help='cuda, cuda:1 or cpu (default: a GPU if available)')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing page')
    add_import(parser, 'architectures')
    parser.epilog = f'Exit code: 0; {EXIT_FAILED_IMAGES} if some images could not be read or measured.'


def run(args: argparse.Namespace) -> int:
    """Print the table, the answer and the path of the page."""
    from rsr_basicsr.inference.batch import find_files
    from rsr_basicsr.inference.recognition import open_network
    from rsr_basicsr.pipeline import import_plugins
    from rsr_basicsr.stability import measure_stability
    from rsr_basicsr.stability.measure import check_settings
    from rsr_basicsr.stability.page import PAGE, write_stability
    from rsr_basicsr.stability.tables import as_text, doubts, summary

    check_new(args.output / PAGE, args.overwrite, made=args.output)
    settings = {name: getattr(args, name) for name in ('eps', 'steps', 'crop', 'num_images', 'seed')}
    check_settings(**settings)
    import_plugins(args.imports)
    found = len(find_files(args.images).files)
    net = open_network(args.weights, args.opt)
    name = args.weights if args.weights in WEIGHTS else Path(args.weights).stem
    if 0 < args.num_images < found:
        print(f'rsr stability: takes {args.num_images} of {found} images, evenly spread', file=sys.stderr)
    result = measure_stability(net, args.images, name=name, device=args.device, progress=True, **settings)
    for sentence in result.failed:
        print(f'rsr stability: {sentence}', file=sys.stderr)
    page = write_stability(result, args.output)
    print(
        f'{result.settings["crops"]} crops of {result.settings["images"]} images, the most textured of each, '
        f'PGD with {args.steps} steps\n'
    )
    print(f'{as_text(result)}\n')
    for sentence in [*summary(result), *(f'Warning: {doubt}' for doubt in doubts(result))]:
        print(textwrap.fill(sentence, 100))
    print(f'\nWhere it moves: {page}')
    return EXIT_FAILED_IMAGES if result.failed else 0
