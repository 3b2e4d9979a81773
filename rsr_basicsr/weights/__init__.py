"""Weight files: official ones, and any state dict, read without running its code."""

from rsr_basicsr.weights.official import (
    WEIGHTS,
    Weights,
    default_folder,
    fetch,
    find,
)
from rsr_basicsr.weights.state_dict import (
    build_quietly,
    digest,
    entries,
    entry_taken,
    file_sha256,
    fill,
    is_state,
    load_network,
    load_state,
    read_file,
    state_in,
    tensors_in,
    under_own_names,
    without_wrapper,
)

__all__ = [
    'WEIGHTS',
    'Weights',
    'build_quietly',
    'default_folder',
    'digest',
    'entries',
    'entry_taken',
    'fetch',
    'file_sha256',
    'fill',
    'find',
    'is_state',
    'load_network',
    'load_state',
    'read_file',
    'state_in',
    'tensors_in',
    'under_own_names',
    'without_wrapper',
]
