"""Upscale images with a defended network, with one decision per image."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsr_basicsr.catalog.choices import FORMATS, GATES, PRECISIONS, TILE, TILE_PAD
from rsr_basicsr.catalog.weights import GENERAL, GENERAL_WEAK_DENOISING, WEIGHTS
from rsr_basicsr.cli.parser import add_import, add_network_options
from rsr_basicsr.utils.errors import OptionsError
from rsr_basicsr.utils.files import check_new

if TYPE_CHECKING:
    from rsr_basicsr.inference.batch import Result

#: Exit code if some images could not be upscaled
EXIT_FAILED_IMAGES = 1
DEFAULT_NETWORK = 'defended-general-x4v3'


class _Refusal(argparse.Action):
    """An option of Real-ESRGAN's script that is not offered; ``const`` says what to do instead."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        parser.error(f'{args[-1]} is not offered: {self.const}')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``rsr upscale``, named as in Real-ESRGAN's script."""
    parser.add_argument('inputs', nargs='*', metavar='INPUT', help='images, or folders of images')
    parser.add_argument(
        '-i', '--input', dest='more', action='append', default=[], metavar='INPUT', help='the same, as an option'
    )
    parser.add_argument(
        '-n',
        '--model_name',
        default=DEFAULT_NETWORK,
        metavar='NAME_OR_FILE',
        help=f'a weight file, or one of {", ".join(WEIGHTS)}, which are fetched (default: {DEFAULT_NETWORK})',
    )
    parser.add_argument('--model_path', dest='model_name', metavar='FILE', help='same as -n, for a file')
    add_network_options(parser)
    parser.add_argument(
        '-o',
        '--output',
        type=Path,
        default=Path('results'),
        metavar='FOLDER',
        help='output folder (default: results)',
    )
    parser.add_argument(
        '-s',
        '--outscale',
        type=float,
        metavar='FACTOR',
        help='scale factor of the output (default: scale of the network)',
    )
    parser.add_argument(
        '-dn',
        '--denoise_strength',
        type=float,
        metavar='STRENGTH',
        help=f'of {GENERAL}: from 0, which is {GENERAL_WEAK_DENOISING} and keeps noise, to 1 (default: 1)',
    )
    parser.add_argument('--suffix', default='out', help='suffix of the results: NAME_SUFFIX.png; may be empty')
    parser.add_argument(
        '--ext',
        default='auto',
        choices=['auto', *FORMATS],
        help='format of the results (default: as the input); images with alpha become PNG',
    )
    parser.add_argument(
        '-t',
        '--tile',
        type=int,
        default=TILE,
        metavar='PIXELS',
        help=f'size of the tiles (default: {TILE}; 0: whole images)',
    )
    parser.add_argument(
        '--tile_pad',
        type=int,
        default=TILE_PAD,
        metavar='PIXELS',
        help=f'padding around each tile (default: {TILE_PAD})',
    )
    parser.add_argument(
        '--alpha_upsampler',
        choices=['realesrgan', 'bicubic'],
        default='realesrgan',
        help='upscale alpha channels by the network or by interpolation',
    )
    parser.add_argument('--gate', choices=GATES, help='how to decide on masking (default: as in the network)')
    parser.add_argument('--seed', type=int, metavar='N', help='seed of the masks (default: new masks in every run)')
    parser.add_argument(
        '--precision', choices=['auto', *PRECISIONS], default='auto', help='auto: fp16 on a GPU, else fp32'
    )
    parser.add_argument('--fp32', dest='precision', action='store_const', const='fp32', help='same as --precision fp32')
    parser.add_argument('--device', default='auto', help='cuda, cuda:1 or cpu (default: a GPU if available)')
    parser.add_argument('-g', '--gpu-id', type=int, metavar='N', help='same as --device cuda:N')
    parser.add_argument(
        '--face_enhance', nargs='?', action=_Refusal, help=argparse.SUPPRESS, const='run GFPGAN on the results'
    )
    parser.add_argument('--report', type=Path, metavar='FILE', help='write all verdicts to a JSON file')
    parser.add_argument('--overwrite', action='store_true', help='replace existing results')
    add_import(parser, 'architectures')
    parser.epilog = (
        f'Exit code: 0 if all images were upscaled or exist already, {EXIT_FAILED_IMAGES} if some could not be.'
    )


def run(args: argparse.Namespace) -> int:
    """Print one line per image, and a summary."""
    from tqdm import tqdm

    from rsr_basicsr.inference.batch import Naming, find_files, upscale_files, write_report
    from rsr_basicsr.inference.recognition import open_denoising, open_network
    from rsr_basicsr.inference.upscaler import Upscaler
    from rsr_basicsr.pipeline import import_plugins

    check_new(args.report, args.overwrite, made=args.output)
    if not (args.inputs or args.more):
        raise OptionsError('give images or folders of images: rsr upscale PHOTOS')
    if args.denoise_strength is not None and (args.model_name != GENERAL or args.opt):
        raise OptionsError(f'-dn {args.denoise_strength:g}: only for -n {GENERAL}, which has weights of weak denoising')
    device = args.device if args.gpu_id is None else f'cuda:{args.gpu_id}'
    import_plugins(args.imports)
    naming = Naming(args.output, args.suffix, args.ext, args.overwrite)
    files, remark = find_files([*args.inputs, *args.more], naming)
    if remark:
        print(f'rsr upscale: {remark}', file=sys.stderr)
    strength = args.denoise_strength
    upscaler = Upscaler(
        open_network(args.model_name, args.opt) if strength is None else open_denoising(strength),
        outscale=args.outscale,
        tile=args.tile,
        overlap=args.tile_pad,
        precision=args.precision,
        device=device,
        gate=args.gate,
        seed=args.seed,
        alpha_by_network=args.alpha_upsampler == 'realesrgan',
    )
    if not upscaler.defended:
        shipped = args.model_name in WEIGHTS and WEIGHTS[args.model_name].url is None
        what = 'holds by its training, without masks' if shipped else 'is not defended'
        print(
            f'rsr upscale: {args.model_name} {what}: images flagged by the built-in detector are reported, but not '
            'masked',
            file=sys.stderr,
        )
    results = []
    try:
        # The bar goes to stderr, and only on a terminal.
        for result in tqdm(upscale_files(files, upscaler, naming), total=len(files), unit='image', disable=None):
            results.append(result)
            tqdm.write(_line(result, upscaler.defended), file=sys.stderr if result.error else sys.stdout)
    finally:
        if args.report:
            write_report(args.report, args.model_name, upscaler, results)
    failed = sum(result.error is not None for result in results)
    skipped = sum(result.skipped for result in results)
    existing = f'; {skipped} were there already, --overwrite replaces them' if skipped else ''
    print(
        f'{len(results) - failed - skipped} of {len(files)} images upscaled into {args.output}, '
        f'{sum(bool(result.attacked) for result in results)} flagged as attacked{existing}'
    )
    return EXIT_FAILED_IMAGES if failed else 0


def _line(result: Result, defended: bool) -> str:
    if result.error:
        return f'rsr upscale: {result.error}'
    if result.skipped:
        return f'{result.file}: skipped, {result.output} is there already'
    masks: dict[float | None, str] = {0: 'not masked', 1: 'masked'}
    masked = masks.get(result.masked, f'masked by {result.masked:.0%}')
    verdict = f'{"attacked" if result.attacked else "clean"}{f", {masked}" if defended else ""}'
    notes = ''.join(f'; {note}' for note in result.notes)
    return (
        f'{result.file}: {result.width}x{result.height} -> {result.output_width}x{result.output_height}, P(clean) '
        f'{result.clean_probability:.4f}, {verdict}, {result.seconds:.1f} s, {result.output}{notes}'
    )
