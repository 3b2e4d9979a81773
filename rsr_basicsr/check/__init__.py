"""Checks of options, files and networks before a run."""

from rsr_basicsr.check.run_file import check_options

__all__ = ['check_options']
