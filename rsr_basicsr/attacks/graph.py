"""Passes of an attack as recorded CUDA graphs: one launch instead of thousands.

A fast GPU finishes the kernels of a pass before Python has launched the next ones. A graph repeats the launches of the
forward pass, and those of the gradient with respect to the images, for images of one shape.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import weakref
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from rsr_basicsr.attacks.half import autocast_to_bf16
from rsr_basicsr.ops.caching import constants_kept
from rsr_basicsr.ops.memory_format import memory_format
from rsr_basicsr.ops.tiled import defenses
from rsr_basicsr.utils.errors import DeviceError, in_one_line

Pass = Callable[[torch.Tensor], torch.Tensor]

_MOST = 4  # graphs of one network: each keeps the activations of its pass


class _Recording(NamedTuple):
    """A recorded pass, with the constants that it reads where they were, such as matrices of transforms."""

    run: Pass
    constants: list[torch.Tensor]


_RECORDED: weakref.WeakKeyDictionary[nn.Module, dict[Hashable, _Recording]] = weakref.WeakKeyDictionary()


class GraphedPasses:
    """The passes of a network, recorded at the first call for each shape of images and repeated afterwards.

    What a pass does may depend on nothing but the images, the parameters, and random numbers of the device: so a
    network is recorded only while its gate is forced, and a recording is used only in the state it was made in.

    Args:
        network: maps images (B, C, H, W) to (B, C, sH, sW); its parameters require no gradient, and stay where they are
            as long as this object is used.
        half: run under autocast to bf16.
        record: makes a graph of a function and a sample; None takes :func:`torch.cuda.make_graphed_callables`.
    """

    def __init__(self, network: nn.Module, half: bool, record: Callable[..., Any] | None = None) -> None:
        self.network, self.half = network, half
        self.record = _recorder() if record is None else record

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The output of the network, not to be changed by later calls.

        Raises:
            DeviceError: the network cannot be recorded; the GPU may then be unusable.
            ValueError: masks depend on the images.
        """
        recorded, key = _RECORDED.setdefault(self.network, {}), self._state(x)
        with _on_device(x.device):
            if key not in recorded:
                if len(recorded) == _MOST:
                    del recorded[next(iter(recorded))]
                recorded[key] = self._recorded(x)
            return recorded[key].run(x).clone()

    def _state(self, x: torch.Tensor) -> Hashable:
        """All that a recording depends on."""
        gates = [_gate(defense) for defense in self._defenses]
        if None in gates:
            raise ValueError(
                'cuda_graph: true, but a mask depends on the images or differs between samples; in training write '
                'masked: 0 or 1, elsewhere gate: always or never'
            )
        return tuple(x.shape), x.dtype, memory_format(x), self.half, self.network.training, tuple(gates), self._places

    @functools.cached_property
    def _places(self) -> tuple[int, ...]:
        """Where the parameters and buffers are: reading hundreds of addresses in every pass would cost milliseconds."""
        return tuple(tensor.data_ptr() for tensor in (*self.network.parameters(), *self.network.buffers()))

    @functools.cached_property
    def _defenses(self) -> list[Any]:
        return list(defenses(self.network))

    def _recorded(self, x: torch.Tensor) -> _Recording:
        network = weakref.proxy(self.network)  # the recording must not keep it alive
        half = self.half

        def run(images: torch.Tensor) -> torch.Tensor:
            with autocast_to_bf16(images.device, caching=False) if half else contextlib.nullcontext():
                output = network(images.clone())  # a copy: some networks begin with an in-place module
            if not output.requires_grad:
                raise RuntimeError('its output has no gradient with respect to the image')
            return cast(torch.Tensor, output)

        sample = torch.empty_like(x).copy_(x.detach()).requires_grad_()
        try:
            with torch.enable_grad(), constants_kept() as constants, _as_before(x.device):
                return _Recording(self.record(run, (sample,)), constants)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            name = type(self.network).__name__
            raise DeviceError(
                f'cuda_graph: true, but {name} cannot be recorded ({in_one_line(error)}); leave it out'
            ) from error


def forget_recordings() -> None:
    """Free all recorded passes, whose activations torch counts as reserved but not as allocated."""
    _RECORDED.clear()


def _recorder() -> Callable[..., Any]:
    """Torch's recorder. Threads that pin memory for the next batch may go on while it records, where torch has that."""
    record = torch.cuda.make_graphed_callables
    if 'capture_error_mode' in inspect.signature(record).parameters:
        return functools.partial(record, capture_error_mode='thread_local')
    return record


@contextlib.contextmanager
def _as_before(device: torch.device) -> Iterator[None]:
    """Restore random numbers and stream at the end: recording draws some, and leaves its stream where it fails."""
    if device.type != 'cuda':
        yield
        return
    stream = torch.cuda.current_stream(device)
    with torch.random.fork_rng(devices=[device]):
        try:
            yield
        finally:
            torch.cuda.set_stream(stream)


def _on_device(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == 'cuda' else contextlib.nullcontext()


def _gate(defense: Any) -> bool | None:
    """Whether a defence masks all images or none; None where it decides on each."""
    gate = {'always': True, 'never': False}.get(defense.gate) if defense.forced_to is None else defense.forced_to
    if not isinstance(gate, bool) or (gate and defense.repeatable):  # masks of a seed come from the host
        return None
    return gate
