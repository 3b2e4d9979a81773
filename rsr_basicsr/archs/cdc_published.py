"""Published weight files of CDC (Yue et al. 2021): their module names, mapped to ours.

For example, ``HG_0.down1.res_block.res.2`` is ``hourglasses.0.encoder.0.body.2`` here, and
``preclass.fcall`` is the paper's classifier.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from re import Match

import torch
from torch import nn

from rsr_basicsr.archs.classifier import CALIBRATION
from rsr_basicsr.archs.frequency_classifier_arch import for_scaled_features
from rsr_basicsr.weights.versions import with_metadata

State = Mapping[str, torch.Tensor]

_CLASSIFIER = 'defense.classifier.'
_COMPONENTS = ('flat', 'edge', 'corner')

#: Published names that every file has
_SIGNS = ('conv_in.0.weight', 'HG_0.down1.res_block.res.0.weight')


def is_published(state: State) -> bool:
    """Whether a state dict (without the prefix ``module.``) has the published names."""
    return all(sign in state for sign in _SIGNS)


def renamed(state: State) -> OrderedDict[str, torch.Tensor]:
    """A published state dict under our names; the classifier under those of a defended network.

    Unknown keys keep their names. Metadata are dropped: their versions are not ours.
    """
    doublings = {
        head: f'{head}.2.1.weight' in state
        for component in _COMPONENTS
        for head in (f'upsample_{component}', f'{component}_map')
    }
    return OrderedDict((_renamed(key, doublings), value) for key, value in state.items())


def for_network(state: State, net: nn.Module) -> tuple[State, bool]:
    """Convert a published state dict for a CDC, plain or defended.

    Args:
        state: under published names.
        net: the network.

    Returns:
        The state dict under our names, and whether a classifier that the network does not have was left out.
    """
    ours = renamed(state)
    own = net.state_dict()
    classifier = [key for key in ours if key.startswith(_CLASSIFIER)]
    left_out = any(key not in own or own[key].shape != ours[key].shape for key in classifier)
    for key in classifier if left_out else ():
        del ours[key]
    if classifier and not left_out:
        first = [f'{_CLASSIFIER}body.0.{parameter}' for parameter in ('weight', 'bias')]
        ours.update(zip(first, for_scaled_features(*(ours[key] for key in first))))
    if classifier and not left_out:
        ours.update(
            {
                f'{_CLASSIFIER}{name}': torch.full_like(own[f'{_CLASSIFIER}{name}'], value)
                for name, value in CALIBRATION.items()
            }
        )
    # The published network computes the same as the current version of ours.
    return with_metadata(ours, own), left_out


def _renamed(key: str, doublings: Mapping[str, bool]) -> str:
    module, _, parameter = key.rpartition('.')
    for pattern, name in _MODULES.items():
        found = re.fullmatch(pattern, module)
        if found:
            return f'{name(found)}.{parameter}'
    head = _head(module, doublings)
    return key if head is None else f'{head}.{parameter}'


def _residual(hourglass: str, block: str, layer: str) -> str:
    return f'hourglasses.{hourglass}.{block}.{"shortcut" if layer == "identity" else layer.replace("res", "body")}'


_BLOCK = r'(res\.\d+|identity)'
_MODULES: dict[str, Callable[[Match[str]], str]] = {
    r'conv_in\.0': lambda m: 'stem',
    rf'HG_(\d+)\.down(\d)\.res_block\.{_BLOCK}': lambda m: _residual(m[1], f'encoder.{int(m[2]) - 1}', m[3]),
    rf'HG_(\d+)\.up(\d)\.res_block\.{_BLOCK}': lambda m: _residual(m[1], f'decoder.{int(m[2]) - 1}', m[3]),
    rf'HG_(\d+)\.mid_res\.(\d)\.{_BLOCK}': lambda m: _residual(m[1], f'bottom.{m[2]}', m[3]),
    # Our skips are in decoder order, innermost first.
    rf'HG_(\d+)\.skip_conv([1-4])\.{_BLOCK}': lambda m: _residual(m[1], f'skips.{4 - int(m[2])}', m[3]),
    rf'HG_(\d+)\.skip_conv0\.{_BLOCK}': lambda m: _residual(m[1], 'outermost_skip', m[2]),
    r'HG_(\d+)\.tail\.(\d)\.res([123])\.(\d)': lambda m: (
        f'hourglasses.{m[1]}.tail.{m[2]}.branches.{int(m[3]) - 1}.{m[4]}'
    ),
    r'HG_(\d+)\.tail\.(\d)\.filter_concat': lambda m: f'hourglasses.{m[1]}.tail.{m[2]}.fuse',
    r'preclass\.fcall\.(\d)': lambda m: f'{_CLASSIFIER}body.{m[1]}',
}


def _head(module: str, doublings: Mapping[str, bool]) -> str | None:
    """Our name of a layer of a head; None for other modules.

    A published head is a sequence of blocks: a convolution, one or two of upsampling, convolution and activation, a
    convolution with activation, a convolution. Ours has the same layers in one sequence.
    """
    found = re.fullmatch(r'(upsample_(\w+)|(\w+)_map)\.(\d)\.(\d)', module)
    if found is None or found[1] not in doublings:
        return None
    block, layer = int(found[4]), int(found[5])
    upsamplings = 2 if doublings[found[1]] else 1
    sizes = [1] + [3] * upsamplings + [2, 1]
    if block >= len(sizes):
        return None
    heads = 'picture_heads' if found[2] else 'attention_heads'
    return f'{heads}.{_COMPONENTS.index(found[2] or found[3])}.{sum(sizes[:block]) + layer}'
