"""Small networks that BasicSR does not have, of spandrel's own classes, and what spandrel itself makes of a file."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

#: By name: module and class of spandrel's, arguments, and what the network upscales by
NETWORKS: dict[str, tuple[str, dict[str, Any], int]] = {
    'SPAN': ('SPAN', {'num_in_ch': 3, 'num_out_ch': 3, 'feature_channels': 8, 'upscale': 2, 'norm': False}, 2),
    'RealPLKSR': ('PLKSR', {'dim': 16, 'n_blocks': 2, 'upscaling_factor': 4}, 4),
    'SAFMN': ('SAFMN', {'dim': 16, 'n_blocks': 2, 'upscaling_factor': 4}, 4),
    'OmniSR': ('OmniSR', {'num_feat': 16, 'block_num': 1, 'res_num': 1, 'up_scale': 2}, 2),
    'DAT': ('DAT', {'embed_dim': 16, 'depth': [1], 'num_heads': [2], 'split_size': [4, 8], 'upscale': 2}, 2),
    'Swin2SR': (
        'Swin2SR',
        {'embed_dim': 16, 'depths': [2], 'num_heads': [2], 'window_size': 4, 'upsampler': 'pixelshuffle', 'upscale': 2},
        2,
    ),
}


def build(name: str) -> nn.Module:
    """A network of :data:`NETWORKS` with random weights, in evaluation mode."""
    module, arguments, _ = NETWORKS[name]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # torch.jit is deprecated
        found = importlib.import_module(f'spandrel.architectures.{module}')
    torch.manual_seed(0)
    net: nn.Module = getattr(found, name)(**arguments)
    return net.eval()


def save(net: nn.Module, path: Path) -> str:
    """Write the state dict as spandrel's users do, and return the path."""
    torch.save({'params': net.state_dict()}, path)
    return str(path)


def descriptor_of(path: str) -> Any:
    """What spandrel itself makes of a file."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        import spandrel

        return spandrel.ModelLoader().load_from_file(path).eval()
