"""Refuses weights of an earlier version of an architecture that would silently compute something else.

``state_dict`` stores the ``_version`` of each module class in its metadata, and ``torch.save`` keeps the metadata.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from basicsr.utils import get_root_logger
from torch import nn

from rsr_basicsr.utils.errors import WeightsError


def refuse_older_files(net: nn.Module, version: int, because: str) -> None:
    """Make ``net.load_state_dict`` refuse weights of an earlier version, and warn of weights without a version.

    To be called in the constructor of the module.

    Args:
        net: a module whose class sets ``_version = version``.
        version: the first version whose weights compute the same as now.
        because: a clause for the message: what changed, and what the user should do.
    """
    check = _OlderFiles(version, because)
    setattr(net, 'older_files', check)
    net.register_load_state_dict_pre_hook(check)


def check_versions(net: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights as ``net.load_state_dict(state)`` would, without loading them, and without warnings.

    Args:
        net: the network.
        state: a state dict under the names of the network, with its metadata if it has any.

    Raises:
        WeightsError: a part of the weights is of an earlier version.
    """
    metadata = getattr(state, '_metadata', None) or {}
    for name, module in net.named_modules():
        check: Any = getattr(module, 'older_files', None)
        if check is not None and _brings_values(module, state, f'{name}.' if name else ''):
            check.refuse(module, metadata.get(name, {}).get('version'))


def with_metadata(
    state: Mapping[str, torch.Tensor], source: Mapping[str, torch.Tensor]
) -> OrderedDict[str, torch.Tensor]:
    """A copy of a state dict, with the metadata of another one if that has any."""
    copied = OrderedDict(state)
    if hasattr(source, '_metadata'):
        setattr(copied, '_metadata', OrderedDict(source._metadata))
    return copied


class _OlderFiles:
    """Pre-hook of ``load_state_dict``. An object, not a closure, so that networks can be copied and pickled."""

    def __init__(self, version: int, because: str) -> None:
        self.version, self.because = version, because

    def __call__(
        self, net: nn.Module, state: Mapping[str, torch.Tensor], prefix: str, metadata: Mapping[str, Any], *_: Any
    ) -> None:
        if not _brings_values(net, state, prefix):
            return  # torch says which keys are missing
        found = metadata.get('version')
        self.refuse(net, found)
        if found is None:
            get_root_logger().warning(
                f'{type(net).__name__}: the weights have no version; if it is earlier '
                f'than {self.version}: {self.because}'
            )

    def refuse(self, net: nn.Module, found: int | None) -> None:
        """Raise WeightsError if version ``found`` of the weights is too old."""
        if found is not None and found < self.version:
            raise WeightsError(
                f'the weights were trained with an earlier version of {type(net).__name__} ({found}, '
                f'now {self.version}): {self.because}'
            )


def _brings_values(net: nn.Module, state: Mapping[str, torch.Tensor], prefix: str) -> bool:
    """Whether a state dict has at least half of a module's keys; files of other networks have a version, too.

    A defended network adds its own values to those of a plain file; they do not count.
    """
    own = {f'{prefix}{name}': value for name, value in net.state_dict().items()}
    brought = [
        key
        for key, value in own.items()
        if key in state and state[key].shape == value.shape and state[key].data_ptr() != value.data_ptr()
    ]
    return 2 * len(brought) >= len(own)
