"""Test a network with BasicSR's tester, in the working directory."""

from __future__ import annotations

import argparse

from rsr_basicsr.cli.train import add_arguments  # noqa: F401 (the same flags)


def run(args: argparse.Namespace) -> int:
    """Test, and return 0."""
    from rsr_basicsr.pipeline import run_pipeline

    run_pipeline('test', args)
    return 0
