"""Test a network with BasicSR's tester, in the working directory."""

from rsr_basicsr.cli.train import add_arguments  # noqa: F401 (the same flags)
from rsr_basicsr.pipeline import run_pipeline


def run(args):
    run_pipeline('test', args)
    return 0
