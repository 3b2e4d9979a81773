"""Train a network with BasicSR's trainer, in the working directory."""

from __future__ import annotations

import argparse

from rsr_basicsr.cli.parser import add_force_yml, add_import


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``rsr train``: BasicSR's, and ``--import``."""
    parser.add_argument('-opt', required=True, metavar='FILE', help='options file')
    add_import(parser, 'architectures, losses or metrics')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none', help='job launcher')
    # Added by torch.distributed.launch; also in the environment.
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument('--auto_resume', action='store_true', help='resume from the newest training state')
    parser.add_argument('--debug', action='store_true', help='validate and save after a few iterations')
    add_force_yml(parser, 'train:total_iter=1000')


def run(args: argparse.Namespace) -> int:
    """Train, and return 0."""
    from rsr_basicsr.pipeline import run_pipeline

    run_pipeline('train', args)
    return 0
