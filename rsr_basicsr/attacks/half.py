"""The passes of an attack in bf16: weights cast once per call, not in every pass."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from rsr_basicsr.attacks.memory import is_compiled
from rsr_basicsr.ops.precision import emulates_bf16

#: Layers whose weights autocast would cast in every pass
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


class _Casts:
    """The weights of a network in bf16, kept from call to call, since a recorded graph reads them where they are."""

    def __init__(self) -> None:
        self.halves: list[torch.Tensor] = []

    def of(self, weights: list[torch.Tensor]) -> list[torch.Tensor]:
        """The weights as they are now."""
        if [_kind(old) for old in self.halves] != [_kind(new) for new in weights]:
            self.halves = [
                nn.Parameter(torch.empty_like(weight, dtype=torch.bfloat16), requires_grad=False) for weight in weights
            ]
        with torch.no_grad():
            torch._foreach_copy_(self.halves, weights)
        return self.halves


_CASTS: weakref.WeakKeyDictionary[nn.Module, _Casts] = weakref.WeakKeyDictionary()


def check_bf16(device: torch.device) -> None:
    """Refuse a GPU that only emulates bf16.

    Raises:
        ValueError: it does.
    """
    if emulates_bf16(device):
        raise ValueError(f'precision: bf16, but {torch.cuda.get_device_name(device)} only emulates it; write fp32')


def autocast_to_bf16(device: torch.device, caching: bool = True) -> contextlib.AbstractContextManager[Any]:
    """Autocast to bf16.

    Args:
        device: where the network runs.
        caching: keep casts of weights within the block; not while a graph is recorded, which would miss them later.
    """
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=caching)


@contextlib.contextmanager
def weights_in_bf16(model: nn.Module) -> Iterator[None]:
    """Within the block, convolutions and linear layers have their weights in bf16; for passes under autocast.

    Autocast caches its casts only of weights that require a gradient, and an attack freezes them: it would cast every
    weight in every pass. The results are the same.

    Args:
        model: a network whose parameters require no gradient.
    """
    places = list(_castable(model)) if isinstance(model, nn.Module) else []
    try:
        halves = _CASTS.setdefault(model, _Casts()).of([weight for _, _, weight in places]) if places else []
        for (parameters, name, _), half in zip(places, halves):
            parameters[name] = half
        yield
    finally:
        for parameters, name, weight in places:
            parameters[name] = weight


def _castable(model: nn.Module) -> Iterator[tuple[dict[str, Any], str, nn.Parameter]]:
    """The weights to cast, with where a layer has them; none of a compiled network, which would be compiled anew."""
    if is_compiled(model):
        return
    for module in model.modules():
        if type(module) in _LAYERS:
            for name, weight in module._parameters.items():
                if weight is not None and weight.dtype == torch.float32 and not weight.is_meta:
                    yield module._parameters, name, weight


def _kind(tensor: torch.Tensor) -> tuple[torch.Size, tuple[int, ...], torch.device]:
    return tensor.shape, tensor.stride(), tensor.device
