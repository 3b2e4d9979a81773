"""The network that a weight file is for, told from its tensors: for commands that take a file and nothing else."""

from __future__ import annotations

import math
import os.path as osp
import re
from typing import Any, Dict, Mapping, Optional

import torch
from torch import nn

from rsr_basicsr.archs.classifier import CALIBRATION
from rsr_basicsr.archs.defense import CLASSIFIERS
from rsr_basicsr.errors import OptionsError, WeightsError
from rsr_basicsr.options import read_network
from rsr_basicsr.weights import WEIGHTS, fetch, fill, find, load_network, load_state

State = Mapping[str, torch.Tensor]


def open_network(name_or_file: str, options: Optional[str] = None) -> nn.Module:
    """The network of an official name, or of a weight file.

    Args:
        name_or_file: a name of :data:`rsr_basicsr.weights.WEIGHTS`, which is fetched, or a file. A file with
            ``defense.*`` keys gives a defended network, with the settings that it has by default.
        options: an options file whose ``network_g`` the weights are for: for settings other than those, and for
            architectures that cannot be told from their tensors.

    Returns:
        The network on the CPU, in evaluation mode.

    Raises:
        OptionsError: there is neither a file nor a name like this, or the options file cannot be used.
        WeightsError: the file cannot be read, or no network that is known here has such tensors.
    """
    path = name_or_file
    if name_or_file in WEIGHTS and not osp.isfile(name_or_file):
        path = str(fetch(name_or_file))
    elif not osp.exists(name_or_file) and not osp.splitext(name_or_file)[1] and osp.basename(path) == path:
        try:
            find(name_or_file)
        except OptionsError as error:
            raise OptionsError(f'there is no file {name_or_file}, and {error}') from None
    if options is not None:
        return fill(read_network(options), path)
    return load_network({**recognise(load_state(path), path), 'weights': path})


def recognise(state: State, path: str) -> Dict[str, Any]:
    """The options ``network_g`` of the network that has such tensors.

    Args:
        state: a state dict, as :func:`rsr_basicsr.weights.load_state` returns it.
        path: what it is called in messages.

    Raises:
        WeightsError: it is none that is known here.
    """
    state = {key[len('module.'):] if key.startswith('module.') else key: value for key, value in state.items()}
    network = _rrdbnet(state) or _compact(state)
    if network is None:
        raise WeightsError(f'{path} holds weights of a network that cannot be told from them: RRDBNet and '
                           'SRVGGNetCompact of three channels can; for others give an options file with its '
                           'network_g by -opt')
    classifier = {key[len('defense.classifier.'):]: value for key, value in state.items()
                  if key.startswith('defense.classifier.')}
    if not classifier:
        return network
    return {**network, 'type': f'Defended{network["type"]}',
            'defense': {'classifier': {'type': _classifier(classifier, path), 'weights': 'untrained'}}}


def _rrdbnet(state):
    first, last, grown = (state.get(key) for key in ('conv_first.weight', 'conv_last.weight',
                                                     'body.0.rdb1.conv1.weight'))
    if first is None or last is None or grown is None or not first.dim() == last.dim() == grown.dim() == 4:
        return None
    # Where it enlarges by less than 4, it first folds the picture into more channels.
    scale = {3: 4, 12: 2, 48: 1}.get(first.shape[1])
    if scale is None or last.shape[0] != 3:
        return None
    return dict(type='RRDBNet', num_in_ch=3, num_out_ch=3, scale=scale, num_feat=first.shape[0],
                num_block=1 + max(_numbers(r'body\.(\d+)\.rdb1\.', state)), num_grow_ch=grown.shape[0])


def _compact(state):
    numbers = sorted(_numbers(r'body\.(\d+)\.weight', state))
    layers = [state[f'body.{number}.weight'] for number in numbers]
    convolutions = [layer for layer in layers if layer.dim() == 4]
    if len(convolutions) < 2 or any(not key.startswith(('body.', 'defense.')) for key in state):
        return None
    upscale = math.isqrt(convolutions[-1].shape[0] // 3)
    # Without slopes it has ReLU or LeakyReLU; no file says which.
    if len(layers) == len(convolutions) or convolutions[0].shape[1] != 3 or convolutions[-1].shape[0] != 3 * upscale**2:
        return None
    return dict(type='SRVGGNetCompact', num_in_ch=3, num_out_ch=3, num_feat=convolutions[0].shape[0],
                num_conv=len(convolutions) - 2, upscale=upscale, act_type='prelu')


def _numbers(pattern, state):
    return {int(found[1]) for found in (re.match(pattern, key) for key in state) if found}


def _classifier(state, path):
    shapes = {key: value.shape for key, value in state.items()}
    for name, cls in CLASSIFIERS.items():
        with torch.device('meta'):
            own = {key: value.shape for key, value in cls().state_dict().items()}
        # What a classifier is calibrated to came later than the first files of them.
        if all(own.get(key) == shape for key, shape in shapes.items()) and all(
                key.rsplit('.')[-1] in CALIBRATION for key in own.keys() - shapes.keys()):
            return name
    raise WeightsError(f'{path} holds a classifier of a size of its own; give the options file it was trained with by '
                       '-opt')
