"""Weight files: official weights, fetched and verified, and any state dict, read without running code from the file."""

from rsr_basicsr.catalog.weights import WEIGHTS, Weights, default_folder, find
from rsr_basicsr.weights.official import fetch
from rsr_basicsr.weights.state_dict import digest, entries, load_network, load_state, read_file

__all__ = [
    'WEIGHTS',
    'Weights',
    'default_folder',
    'digest',
    'entries',
    'fetch',
    'find',
    'load_network',
    'load_state',
    'read_file',
]
