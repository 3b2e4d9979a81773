"""Write a network in forms that other programs load: a plain weight file, torch.export, ONNX."""

from __future__ import annotations

import argparse
from pathlib import Path

from rsr_basicsr.archs.defense import GATES
from rsr_basicsr.export import Outputs, export
from rsr_basicsr.inference.recognition import open_network
from rsr_basicsr.pipeline import import_plugins
from rsr_basicsr.weights.official import WEIGHTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``rsr export``."""
    parser.add_argument(
        'network', metavar='NAME_OR_FILE', help=f'a weight file, or one of {", ".join(WEIGHTS)}, which is fetched'
    )
    parser.add_argument(
        '-opt',
        metavar='FILE',
        help='options file whose network_g the weights are for; without it '
        'RRDBNet and SRVGGNetCompact are told from the weights',
    )
    parser.add_argument(
        '--backbone',
        type=Path,
        metavar='OUT.pth',
        help='the network without its defence, as Real-ESRGAN and others load it',
    )
    parser.add_argument('--torch', type=Path, metavar='OUT.pt2', help='for torch.export.load')
    parser.add_argument('--onnx', type=Path, metavar='OUT.onnx', help='for onnxruntime and others')
    parser.add_argument('--gate', choices=GATES, help='who decides whether an image is masked, by default the network')
    parser.add_argument('--size', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'), help='of all images, by default any')
    parser.add_argument(
        '--seed',
        type=int,
        metavar='N',
        help='keep the masks of this seed in the file, of one --size; by default masks are drawn at every run',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace files that are there')
    parser.add_argument(
        '--import',
        dest='imports',
        action='append',
        default=[],
        metavar='MODULE',
        help='a module that registers architectures of your own',
    )
    parser.epilog = 'What is written is compared with the network first; see docs/export.md.'


def run(args: argparse.Namespace) -> int:
    """Print two lines a file: where it is and what it keeps."""
    outputs = Outputs(args.backbone, args.torch, args.onnx)
    outputs.check(args.overwrite, sources=[args.network, *([args.opt] if args.opt else [])])
    import_plugins(args.imports)
    net = open_network(args.network, args.opt)
    size = tuple(args.size) if args.size else None
    for written in export(net, outputs, gate=args.gate, size=size, seed=args.seed):
        print(
            f'{written.path}: for {written.takes}; keeps {written.keeps}\n'
            f'  verified on {written.images} inputs: largest difference to the network {written.difference:.1e}'
            f'{"; " + written.note if written.note else ""}',
            flush=True,
        )
    return 0
