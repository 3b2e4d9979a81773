"""Detect attacked images."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys

from rsr_basicsr.catalog.choices import BUILTIN, CLASSIFIER_TYPES, DEFAULT_CLASSIFIER
from rsr_basicsr.utils.errors import ImageError, OptionsError

#: Exit code if an image is flagged as attacked; 1 if none is but some files cannot be read
EXIT_ATTACKED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``rsr detect``."""
    parser.add_argument('files', nargs='+', metavar='FILE', help='images, or folders of images')
    parser.add_argument('--json', action='store_true', help='print a JSON list instead of a table')
    parser.add_argument(
        '--type',
        choices=CLASSIFIER_TYPES,
        default=DEFAULT_CLASSIFIER,
        help=f'classifier (default: {DEFAULT_CLASSIFIER})',
    )
    parser.add_argument(
        '--weights', default=BUILTIN, metavar='FILE', help='weights of the classifier (default: those of the package)'
    )
    parser.add_argument(
        '--threshold',
        type=float,
        metavar='P',
        help='flag an image as attacked if P(clean) is below this (default: threshold in the weights)',
    )
    parser.add_argument('--device', default='auto', help='cuda, cuda:1 or cpu (default: a GPU if available)')
    parser.epilog = (
        f'Exit code: 0 if all images are clean, {EXIT_ATTACKED} if at least one is attacked, 1 if none is but a '
        'file could not be read.'
    )


def run(args: argparse.Namespace) -> int:
    """Print one verdict per image."""
    from rsr_basicsr.archs.defense import CLASSIFIERS, build_classifier
    from rsr_basicsr.inference.detector import Detection, detect
    from rsr_basicsr.inference.listing import list_images

    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise OptionsError(f'--threshold {args.threshold}: a probability is between 0 and 1')
    if args.weights == BUILTIN and not CLASSIFIERS[args.type].builtin_weights().is_file():
        raise OptionsError(f'--type {args.type}: the package has no weights for it; give a file by --weights')
    classifier = build_classifier({'type': args.type, 'weights': args.weights}).eval()
    for folder in filter(os.path.isdir, args.files):
        with contextlib.suppress(ImageError):  # which is shown in its turn below
            remark = list_images([folder]).remark
            if remark:
                print(f'rsr detect: {remark}', file=sys.stderr)
    found: list[Detection] = []
    broken = 0
    for verdict in detect(args.files, classifier, args.threshold, args.device):
        if not isinstance(verdict, Detection):
            print(f'rsr detect: {verdict}', file=sys.stderr)
            broken += 1
            continue
        if not args.json and not found:
            print(
                f'P(clean)  verdict   {"size":<12}file    (threshold '
                f'{float(classifier.threshold) if args.threshold is None else args.threshold:.4f})'
            )
        found.append(verdict)
        if not args.json:
            size = f'{verdict.width}x{verdict.height}'
            print(
                f'{verdict.clean_probability:8.4f}  {"attacked" if verdict.attacked else "clean":<10}{size:<12}'
                f'{verdict.file}'
            )
    if args.json:
        print(json.dumps([verdict._asdict() for verdict in found], indent=2))
    if any(verdict.attacked for verdict in found):  # takes precedence over unreadable files
        return EXIT_ATTACKED
    return 1 if broken else 0
