"""Networks that BasicSR does not have: recognised by their tensors and built by spandrel, which is optional."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from rsr_basicsr.utils.errors import WeightsError, in_one_line
from rsr_basicsr.weights.bounds import built_within

#: ``type`` of such a network in options
SPANDREL = 'Spandrel'
#: How to install it, for messages
INSTALL_SPANDREL = 'pip install spandrel'
_LONGEST = 200  # characters of an error of spandrel's; torch lists every key
# In evaluation they write into their input, which autograd still needs; in training they compute the same beside it.
_WRITES_INTO_INPUT = ('PLKConv2d', 'RectSparsePLKConv2d')
_REMEDY = 'give an options file with its network_g by -opt'


def has_spandrel() -> bool:
    """Whether spandrel is installed."""
    return importlib.util.find_spec('spandrel') is not None


class SpandrelNetwork(nn.Module):
    """A network of spandrel as a module that is differentiable and takes batches of any size.

    spandrel's own descriptor runs under ``torch.inference_mode`` and clamps the output, so that no attack gets its
    gradients.

    Args:
        descriptor: what ``spandrel.ModelLoader`` returns: an ``ImageModelDescriptor`` of one or three channels.

    Attributes:
        architecture: name of the architecture.
        scale: what the network upscales by; 1 for a network that restores.
        supports_half: whether it can run in half precision.

    Raises:
        WeightsError: it needs a mask, is made for faces only, or takes images of other channels.
    """

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.architecture: str = descriptor.architecture.name
        purpose, channels = (
            getattr(descriptor, 'purpose', None),
            (descriptor.input_channels, descriptor.output_channels),
        )
        if purpose not in ('SR', 'Restoration'):
            raise WeightsError(
                f'{self.architecture} is a network for {purpose or "other data than images"}; give one '
                'that upscales or restores images'
            )
        if channels not in ((3, 3), (1, 1)):
            raise WeightsError(
                f'{self.architecture} makes {channels[1]} channels of {channels[0]}; give a network of RGB '
                'or grey images'
            )
        self.model: nn.Module = descriptor.model
        self.scale: int = descriptor.scale
        self.supports_half: bool = descriptor.supports_half
        self._channels: int = channels[0]
        self._sizes = descriptor.size_requirements
        self._call = getattr(descriptor, '_call_fn', None)  # where the network takes or returns more than an image
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Upscale (B, 3, H, W) in [0, 1] to (B, 3, sH, sW), not clamped; a grey network upscales each channel."""
        count, channels, height, width = x.shape
        if self._channels == 1:
            x = x.reshape(count * channels, 1, height, width)
        x = self._padded(x)
        output: torch.Tensor = self.model(x) if self._call is None else self._call(self.model, x)
        output = output[..., : height * self.scale, : width * self.scale]
        return output.reshape(count, channels, *output.shape[-2:])

    def train(self, mode: bool = True) -> SpandrelNetwork:
        """Set the mode of all parts, except those that autograd can only use in training mode."""
        super().train(mode)
        for part in self.modules():
            part.training = part.training or type(part).__name__ in _WRITES_INTO_INPUT
        return self

    def _padded(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        right, bottom = self._sizes.get_padding(width, height)
        if not (right or bottom):
            return x
        # Reflection needs an image larger than the padding.
        mode = 'reflect' if right < width and bottom < height else 'replicate'
        return F.pad(x, (0, right, 0, bottom), mode)


def architecture_of(net: nn.Module) -> str:
    """The name of a network's class, or of the architecture of a network of spandrel."""
    return net.architecture if isinstance(net, SpandrelNetwork) else type(net).__name__


def as_network(model: Any) -> Any:
    """A descriptor of spandrel as a network that can be attacked; anything else as it is."""
    spandrel = sys.modules.get('spandrel')  # who has such a descriptor has imported it
    if spandrel is None or not isinstance(model, (spandrel.ImageModelDescriptor, spandrel.MaskedImageModelDescriptor)):
        return model
    return SpandrelNetwork(model)


def spandrel_network(state: Mapping[str, torch.Tensor], path: str | Path) -> SpandrelNetwork:
    """Build the network that a state dict belongs to, by spandrel and, where installed, spandrel_extra_arches.

    Args:
        state: as :func:`rsr_basicsr.weights.load_state` returns it.
        path: named in messages.

    Returns:
        The network on the CPU, in evaluation mode, float32.

    Raises:
        WeightsError: spandrel is not installed, does not know the network, or it is not for images.
    """
    if any(key.startswith('defense.') for key in state):
        raise WeightsError(f'{path} holds a defended network; name its class, such as DefendedRRDBNet, as type')
    if not has_spandrel():
        raise WeightsError(f'{path}: spandrel recognises its network, but is not installed; {INSTALL_SPANDREL}')
    with _without_warnings():
        try:
            import spandrel

            registry = spandrel.MAIN_REGISTRY.copy()
            if importlib.util.find_spec('spandrel_extra_arches') is not None:
                import spandrel_extra_arches

                registry.add(*spandrel_extra_arches.EXTRA_REGISTRY, ignore_duplicates=True)
        except ImportError as error:
            raise WeightsError(
                f'{path}: spandrel recognises its network, but cannot be imported ({in_one_line(error)}); '
                f'{INSTALL_SPANDREL}'
            ) from error
        try:
            # A constructor draws initial values, which must not change the numbers of what comes after.
            with torch.random.fork_rng(devices=[]):
                loader = spandrel.ModelLoader(registry=registry)
                descriptor: Any = built_within(lambda: loader.load_from_state_dict(dict(state)), state)
        except spandrel.UnsupportedModelError:
            raise WeightsError(
                f'{path}: the network cannot be inferred from these weights, spandrel {spandrel.__version__} does not '
                f'know it; {_REMEDY}'
            ) from None
        except Exception as error:  # constructors raise anything on tensors that fit in part
            raise WeightsError(
                f'{path}: the network cannot be inferred from these weights, spandrel cannot build it '
                f'({in_one_line(error)[:_LONGEST]}); {_REMEDY}'
            ) from error
    try:
        return SpandrelNetwork(descriptor).float()
    except WeightsError as error:
        raise WeightsError(f'{path}: {error}') from None


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Parts of spandrel use torch.jit, which is deprecated: not the user's concern."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield
