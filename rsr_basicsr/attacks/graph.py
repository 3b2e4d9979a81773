"""Passes of an attack as recorded CUDA graphs: one launch instead of thousands.

A fast GPU finishes the kernels of a pass before Python has launched the next ones. A graph repeats the launches of the
forward pass, and those of the gradient with respect to the images, for images of one shape.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Hashable
from typing import Any, cast

import torch
from torch import nn

from rsr_basicsr.attacks.half import autocast_to_bf16
from rsr_basicsr.ops.memory_format import memory_format
from rsr_basicsr.ops.tiled import defenses
from rsr_basicsr.utils.errors import in_one_line

Pass = Callable[[torch.Tensor], torch.Tensor]

_MOST = 4  # graphs of one network: each keeps the activations of its pass
_RECORDED: weakref.WeakKeyDictionary[nn.Module, dict[Hashable, Pass]] = weakref.WeakKeyDictionary()


class GraphedPasses:
    """The passes of a network, recorded at the first call for each shape of images and repeated afterwards.

    What a pass does may depend on nothing but the images, the parameters, and random numbers of the device: so a
    network is recorded only while its gate is forced, and a recording is used only in the state it was made in.

    Args:
        network: maps images (B, C, H, W) to (B, C, sH, sW); its parameters require no gradient.
        half: run under autocast to bf16.
        record: makes a graph of a function and a sample; None takes :func:`torch.cuda.make_graphed_callables`.
    """

    def __init__(self, network: nn.Module, half: bool, record: Callable[..., Any] | None = None) -> None:
        self.network, self.half = network, half
        self.record = torch.cuda.make_graphed_callables if record is None else record

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The output of the network, not to be changed by later calls.

        Raises:
            ValueError: the network cannot be recorded.
        """
        recorded = _RECORDED.setdefault(self.network, {})
        key = self._state(x)
        if key not in recorded:
            if len(recorded) == _MOST:
                del recorded[next(iter(recorded))]
            recorded[key] = self._recorded(x)
        return recorded[key](x).clone()

    def _state(self, x: torch.Tensor) -> Hashable:
        """All that a recording depends on."""
        gates = [_gate(defense) for defense in defenses(self.network)]
        if None in gates:
            raise ValueError(
                'cuda_graph: true, but a mask depends on the images or differs between samples; in training write '
                'masked: 0 or 1, elsewhere gate: always or never'
            )
        places = tuple(tensor.data_ptr() for tensor in (*self.network.parameters(), *self.network.buffers()))
        return tuple(x.shape), x.dtype, memory_format(x), self.half, self.network.training, tuple(gates), places

    def _recorded(self, x: torch.Tensor) -> Pass:
        network = weakref.proxy(self.network)  # the recording must not keep it alive
        half = self.half

        def run(images: torch.Tensor) -> torch.Tensor:
            with autocast_to_bf16(images.device, caching=False) if half else contextlib.nullcontext():
                return network(images)

        sample = torch.empty_like(x).copy_(x.detach()).requires_grad_()
        try:
            with torch.enable_grad():
                return cast(Pass, self.record(run, (sample,)))
        except RuntimeError as error:
            name, reason = type(self.network).__name__, in_one_line(error)
            raise ValueError(f'cuda_graph: true, but {name} cannot be recorded ({reason}); leave it out') from error


def _gate(defense: Any) -> bool | None:
    """Whether a defence masks all images or none; None where it decides on each."""
    gate = {'always': True, 'never': False}.get(defense.gate) if defense.forced_to is None else defense.forced_to
    if not isinstance(gate, bool) or (gate and defense.repeatable):  # masks of a seed come from the host
        return None
    return gate
