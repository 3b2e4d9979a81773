"""``BaseModel.load_network`` for any weight file; :mod:`rsr_basicsr.compat` puts it into BasicSR's class."""

from __future__ import annotations

import os.path as osp

from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger
from torch import nn

from rsr_basicsr.utils.errors import WeightsError
from rsr_basicsr.weights.state_dict import (
    another_network,
    entry_taken,
    read_file,
    tensors_in,
    under_own_names,
    without_wrapper,
)


def load_any_weights(
    self: BaseModel, net: nn.Module, load_path: str, strict: bool = True, param_key: str | None = 'params'
) -> None:
    """Load a network as BasicSR does; also takes a bare state dict, and one under published names.

    Args:
        self: the model.
        net: the network, possibly wrapped for several devices.
        load_path: the file.
        strict: whether all keys must match.
        param_key: as of :func:`rsr_basicsr.weights.state_dict.entry_taken`.

    Raises:
        WeightsError: the file cannot be read, holds no state dict, or is for another network or version of it.
    """
    logger = get_root_logger()
    net = self.get_bare_model(net)
    content = read_file(load_path)
    entry = entry_taken(content, param_key)
    if entry != param_key:
        logger.info(f'Loading: {param_key} does not exist, use {entry or "the whole file"}.')
    logger.info(f'Loading {net.__class__.__name__} model from {load_path}, with param key: [{entry}].')
    state = under_own_names(net, without_wrapper(tensors_in(content, load_path, entry)), logger.info)
    self._print_different_keys_loading(net, state, strict)
    try:
        net.load_state_dict(state, strict=strict)
    except WeightsError as error:
        raise WeightsError(f'{load_path}: {error}') from None
    except RuntimeError as error:
        refusal = another_network(net, state, load_path, error)
        models = self.opt['path'].get('models')
        if models and osp.dirname(osp.abspath(load_path)) == osp.abspath(models):
            refusal = WeightsError(f'{refusal}; resume with the network_g that the training began with, or rename it')
        raise refusal from error
