"""List the masks of a defended network and the shape of the tensor at each."""

from __future__ import annotations

import argparse

from rsr_basicsr.cli.parser import add_import
from rsr_basicsr.utils.errors import OptionsError, in_one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``rsr masks``."""
    parser.add_argument('-opt', required=True, metavar='FILE', help='options file; its network_g is built and run once')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        default=(64, 64),
        metavar=('HEIGHT', 'WIDTH'),
        help='size of the image in pixels (default: 64 64)',
    )
    add_import(parser, 'architectures')


def run(args: argparse.Namespace) -> int:
    """Print one line per mask, in the order of the forward pass."""
    from rsr_basicsr.archs.defended_arch import DefenseMixin
    from rsr_basicsr.options.loading import read_network
    from rsr_basicsr.pipeline import import_plugins

    if min(args.size) < 1:
        raise OptionsError(f'--size {args.size[0]} {args.size[1]}: an image has at least one pixel')
    import_plugins(args.imports)
    net = read_network(args.opt)
    if not isinstance(net, DefenseMixin):
        raise OptionsError(
            f'-opt {args.opt}: {type(net).__name__} has no masks; write network_g: type: Defended{type(net).__name__}'
        )
    try:
        places = net.mask_places(*args.size)
    except Exception as error:  # networks raise errors of any type for unsupported sizes
        raise OptionsError(
            f'--size {args.size[0]} {args.size[1]}: {type(net).__name__} does not take it: {in_one_line(error)}'
        ) from error
    print(
        f'{type(net).__name__}, an image of {args.size[0]}x{args.size[1]}, '
        f'{len(places)} mask{"" if len(places) == 1 else "s"}'
    )
    for number, (point, module, (channels, height, width), _) in enumerate(places, start=1):
        print(f'{number:>3}  {point:<12}{module:<28}{channels:>4} x {height} x {width}')
    return 0
