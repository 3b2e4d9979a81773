"""The options of this package: their types, and how files are read. They lie below models and data."""

from rsr_basicsr.options.loading import load_options, read_network, read_options

__all__ = ['load_options', 'read_network', 'read_options']
