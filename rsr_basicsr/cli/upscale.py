"""Upscale images with a defended network, one decision for each image."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from rsr_basicsr.archs.defense import GATES
from rsr_basicsr.inference.batch import Naming, find_files, upscale_files, write_report
from rsr_basicsr.inference.image_io import FORMATS
from rsr_basicsr.inference.recognition import open_network
from rsr_basicsr.inference.upscaler import PRECISIONS, TILE, TILE_PAD, Upscaler
from rsr_basicsr.pipeline import import_plugins
from rsr_basicsr.utils.files import check_new
from rsr_basicsr.weights.official import WEIGHTS

#: Exit code when an image could not be upscaled; the others were
FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``rsr upscale``; those of Real-ESRGAN's script have its names."""
    parser.add_argument('inputs', nargs='+', metavar='INPUT', help='images, or folders of images')
    parser.add_argument(
        '-n',
        '--model_name',
        required=True,
        metavar='NAME_OR_FILE',
        help=f'a weight file, or one of {", ".join(WEIGHTS)}, which is fetched',
    )
    parser.add_argument(
        '-opt',
        metavar='FILE',
        help='options file whose network_g the weights are for; without it '
        'RRDBNet and SRVGGNetCompact are told from the weights',
    )
    parser.add_argument(
        '-o', '--output', type=Path, default=Path('results'), metavar='FOLDER', help='by default results'
    )
    parser.add_argument(
        '-s',
        '--outscale',
        type=float,
        metavar='FACTOR',
        help='final size of the output, by default what the network makes',
    )
    parser.add_argument('--suffix', default='out', help='of the results: NAME_SUFFIX.png; may be empty')
    parser.add_argument(
        '--ext',
        default='auto',
        choices=['auto', *FORMATS],
        help='format, by default the same; images with alpha become PNG',
    )
    parser.add_argument(
        '-t',
        '--tile',
        type=int,
        default=TILE,
        metavar='PIXELS',
        help=f'size of the tiles, by default {TILE}; 0 for whole images',
    )
    parser.add_argument(
        '--tile_pad',
        type=int,
        default=TILE_PAD,
        metavar='PIXELS',
        help=f'what the network sees around a tile, by default {TILE_PAD}',
    )
    parser.add_argument(
        '--alpha_upsampler',
        choices=['realesrgan', 'bicubic'],
        default='realesrgan',
        help='alpha channels by the network, or by interpolation',
    )
    parser.add_argument('--gate', choices=GATES, help='who decides whether an image is masked, by default the network')
    parser.add_argument('--seed', type=int, metavar='N', help='the same masks every time; by default they are drawn')
    parser.add_argument(
        '--precision', choices=['auto', *PRECISIONS], default='auto', help='auto is fp16 on a GPU, else fp32'
    )
    parser.add_argument('--fp32', dest='precision', action='store_const', const='fp32', help='--precision fp32')
    parser.add_argument('--device', default='auto', help='cuda, cuda:1, cpu; by default a GPU where there is one')
    parser.add_argument('--report', type=Path, metavar='FILE', help='write all verdicts into a JSON file')
    parser.add_argument('--overwrite', action='store_true', help='replace results that are there')
    parser.add_argument(
        '--import',
        dest='imports',
        action='append',
        default=[],
        metavar='MODULE',
        help='a module that registers architectures of your own',
    )
    parser.epilog = f'Exit code: 0 all images were upscaled or are there already, {FAILED} some could not be.'


def run(args: argparse.Namespace) -> int:
    """Print a line an image, and a summary."""
    check_new(args.report, args.overwrite, made=args.output)
    import_plugins(args.imports)
    files = find_files(args.inputs)
    upscaler = Upscaler(
        open_network(args.model_name, args.opt),
        outscale=args.outscale,
        tile=args.tile,
        overlap=args.tile_pad,
        precision=args.precision,
        device=args.device,
        gate=args.gate,
        seed=args.seed,
        alpha_by_network=args.alpha_upsampler == 'realesrgan',
    )
    if not upscaler.defended:
        print(
            f'rsr upscale: {args.model_name} is not defended: what the built-in detector takes for attacked is said, '
            'but upscaled as it is',
            file=sys.stderr,
        )
    results = []
    naming = Naming(args.output, args.suffix, args.ext, args.overwrite)
    try:
        # The bar goes to stderr, and only where someone watches.
        for result in tqdm(upscale_files(files, upscaler, naming), total=len(files), unit='image', disable=None):
            results.append(result)
            tqdm.write(_line(result, upscaler.defended), file=sys.stderr if result.error else sys.stdout)
    finally:
        if args.report:
            write_report(args.report, args.model_name, upscaler, results)
    failed = sum(result.error is not None for result in results)
    skipped = sum(result.skipped for result in results)
    there = f'; {skipped} were there already, --overwrite replaces them' if skipped else ''
    print(
        f'{len(results) - failed - skipped} of {len(files)} images upscaled into {args.output}, '
        f'{sum(bool(result.attacked) for result in results)} taken for attacked{there}'
    )
    return FAILED if failed else 0


def _line(result, defended):
    if result.error:
        return f'rsr upscale: {result.error}'
    if result.skipped:
        return f'{result.file}: skipped, {result.output} is there already'
    masked = {0: 'not masked', 1: 'masked'}.get(result.masked, f'masked by {result.masked:.0%}')
    verdict = f'{"attacked" if result.attacked else "clean"}{f", {masked}" if defended else ""}'
    notes = ''.join(f'; {note}' for note in result.notes)
    return (
        f'{result.file}: {result.width}x{result.height} -> {result.output_width}x{result.output_height}, P(clean) '
        f'{result.clean_probability:.4f}, {verdict}, {result.seconds:.1f} s, {result.output}{notes}'
    )
