"""Export a network as a weight file, torch.export program or ONNX file."""

from __future__ import annotations

import argparse
from pathlib import Path

from rsr_basicsr.catalog.choices import GATES
from rsr_basicsr.catalog.weights import WEIGHTS
from rsr_basicsr.cli.parser import add_import, add_network_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``rsr export``."""
    parser.add_argument(
        'network', metavar='NAME_OR_FILE', help=f'a weight file, or one of {", ".join(WEIGHTS)}, which are fetched'
    )
    add_network_options(parser)
    parser.add_argument(
        '--backbone',
        type=Path,
        metavar='OUT.pth',
        help='write the network without its defence, for Real-ESRGAN and others; OUT.safetensors in that format',
    )
    parser.add_argument(
        '--safetensors',
        type=Path,
        metavar='OUT.safetensors',
        help='write the whole network, with its defence and its settings, as a weight file',
    )
    parser.add_argument('--torch', type=Path, metavar='OUT.pt2', help='write a program for torch.export.load')
    parser.add_argument('--onnx', type=Path, metavar='OUT.onnx', help='write an ONNX file for onnxruntime and others')
    parser.add_argument('--gate', choices=GATES, help='how to decide on masking (default: as in the network)')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='size of all images (default: any)',
    )
    parser.add_argument(
        '--seed',
        type=int,
        metavar='N',
        help='store the masks of this seed in the file, for one --size (default: new masks in every run)',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace existing files')
    add_import(parser, 'architectures')
    parser.epilog = 'Every file is verified against the network before it is written; see docs/export.md.'


def run(args: argparse.Namespace) -> int:
    """Print two lines per file: its path and protection, and the verification."""
    from rsr_basicsr.export import Outputs, export
    from rsr_basicsr.inference.recognition import open_with_options
    from rsr_basicsr.pipeline import import_plugins

    outputs = Outputs(args.backbone, args.torch, args.onnx, args.safetensors)
    outputs.check(args.overwrite, sources=[args.network, *([args.opt] if args.opt else [])])
    import_plugins(args.imports)
    opened = open_with_options(args.network, args.opt, own_classes=True)
    size = tuple(args.size) if args.size else None
    for written in export(opened.net, outputs, gate=args.gate, size=size, seed=args.seed, network=opened.options):
        print(
            f'{written.path}: for {written.accepts}; keeps {written.protection}\n'
            f'  verified on {written.images} inputs: largest difference from the network {written.difference:.1e}'
            f'{"; " + written.note if written.note else ""}',
            flush=True,
        )
    return 0
