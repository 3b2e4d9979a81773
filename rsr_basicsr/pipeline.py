"""BasicSR's train and test pipelines, with the options checked before they build anything."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import Sequence

from rsr_basicsr.errors import OptionsError
from rsr_basicsr.options import check_options, read_options


def run_pipeline(stage: str, opt_file: str, argv: Sequence[str]) -> None:
    """Run ``basicsr.train.train_pipeline`` or ``basicsr.test.test_pipeline`` in the working directory.

    Experiments and results go there, and ``--auto_resume`` looks there: BasicSR's default, the parent of the package,
    would be site-packages.

    Args:
        stage: ``train`` or ``test``.
        opt_file: path of the options file.
        argv: the command line, which BasicSR parses itself.

    Raises:
        OptionsError: before anything is built or written.
    """
    read_options(opt_file, stage)
    module = importlib.import_module(f'basicsr.{stage}')
    with _argv([f'rsr {stage}', *argv]), _checked_options(module):
        getattr(module, f'{stage}_pipeline')(os.getcwd())


@contextlib.contextmanager
def _argv(argv):
    previous, sys.argv = sys.argv, list(argv)
    try:
        yield
    finally:
        sys.argv = previous


@contextlib.contextmanager
def _checked_options(module):
    parse_options = module.parse_options

    def parse_and_check(root_path, is_train=True):
        try:
            opt, args = parse_options(root_path, is_train=is_train)
        except (KeyError, NameError, SyntaxError, TypeError, ValueError) as error:
            if '--force_yml' not in sys.argv:
                raise
            raise OptionsError(f'--force_yml: cannot be applied ({error!r}); write section:key=value, for sections '
                               'that the options file has') from None
        check_options(opt)
        return opt, args

    module.parse_options = parse_and_check
    try:
        yield
    finally:
        module.parse_options = parse_options
