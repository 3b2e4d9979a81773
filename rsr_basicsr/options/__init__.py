"""The options of this package: their schema, and the check that runs before anything is built."""

from rsr_basicsr.options.check import check_options
from rsr_basicsr.options.reading import load_options, read_network, read_options

__all__ = ['check_options', 'load_options', 'read_network', 'read_options']
