"""The network as it was before a training: the reference for its validation, and a possible training target."""

from __future__ import annotations

import functools
from collections.abc import MutableMapping
from typing import Any

import torch
from basicsr.archs import build_network
from torch import nn

from rsr_basicsr.checkpoints import WholeCheckpoints
from rsr_basicsr.ops.random_streams import random_streams_kept
from rsr_basicsr.options.blocks import TrainerOptions, typed_options
from rsr_basicsr.utils.errors import OptionsError


class StartNetwork(WholeCheckpoints):
    """Mixin for a BasicSR model class: reads our options, and keeps the weights that the training started from."""

    def __init__(self, opt: dict[str, Any]) -> None:
        self._start_net: nn.Module | None = None
        super().__init__(opt)

    @functools.cached_property
    def options(self) -> TrainerOptions:
        """Our blocks of the options; ``opt`` has those of BasicSR."""
        return typed_options(self.opt)

    @property
    def start_net(self) -> nn.Module:
        """The network as it was before the training, without gradients; without masks if it was not defended.

        Raises:
            OptionsError: the options do not say which weights that were.
        """
        if self._start_net is None:
            start = self.opt['train'].get('start')  # written by the check; no key of an options file
            if start is None:
                raise OptionsError('train.target: pretrained needs options that were checked; start by rsr train')
            with random_streams_kept():  # so that the training draws the same numbers in any case
                net = build_network(self.opt['network_g']).to(self.device)
            self.load_network(net, start['weights'], start['strict'], start['key'])
            if not net.loaded_defense:
                net.defense.gate = 'never'
            self._start_net = net.eval().requires_grad_(False)
        return self._start_net

    def _print_different_keys_loading(
        self, crt_net: nn.Module, load_net: MutableMapping[str, torch.Tensor], strict: bool = True
    ) -> None:
        """As BasicSR does, but without a warning per tensor of the defence for weights of a plain backbone."""
        net = self.get_bare_model(crt_net)
        missing = {key: value for key, value in net.state_dict().items() if key.startswith('defense.')}
        if any(key.startswith('defense.') for key in load_net):
            missing = {}
        load_net.update(missing)  # in place, since BasicSR renames keys in it
        super()._print_different_keys_loading(crt_net, load_net, strict)
        for key in missing:
            del load_net[key]
