"""The base of the baseline defences: the registry, the wrapper around a network, and a check of bounds."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import nn

from rsr_basicsr.attacks.checks import expect
from rsr_basicsr.ops.frequency import without_autocast
from rsr_basicsr.ops.registry import TypeRegistry
from rsr_basicsr.weights.spandrel_network import as_network

#: By the name of ``type`` in a defence block; any callable that takes the network first, then keyword arguments
DEFENSE_REGISTRY = TypeRegistry('defense')


class NetworkWrapper(nn.Module):
    """A network inside a defence: the submodule ``net``. The defence itself has no weights.

    Subclasses implement ``forward``, and keep their keyword arguments as attributes of the same name.

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW) in [0, 1]; also an ``ImageModelDescriptor`` of spandrel.

    Shape:
        As of ``net``.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = as_network(net)

    def extra_repr(self) -> str:
        names = [name for name in inspect.signature(type(self)).parameters if name != 'net' and hasattr(self, name)]
        return ', '.join(f'{name}={getattr(self, name)!r}' for name in names)


class InputTransform(NetworkWrapper):
    """A network behind a transform of its input. Subclasses implement :meth:`transform`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Half precision cannot tell all 256 levels apart.
        with without_autocast(x.device):
            transformed = self.transform(in_full_precision(x)).to(x.dtype)
        return self.net(transformed)

    def transform(self, x: torch.Tensor) -> torch.Tensor:
        """Transform the images before the network sees them.

        Args:
            x: images, (B, 3, H, W) in [0, 1], float32 or float64; must not be modified.

        Returns:
            (B, 3, H, W), with a gradient with respect to ``x``.
        """
        raise NotImplementedError


def in_full_precision(x: torch.Tensor) -> torch.Tensor:
    """Convert ``x`` to float32, unless it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def expect_bounds(
    name: str, bounds: Sequence[float], low: float, high: float = float('inf'), *, above: bool = False
) -> tuple[float, float]:
    """Return ``bounds`` if they are two ordered numbers in [low, high] ((low, high] with ``above``).

    Raises:
        ValueError: they are not.
    """
    if not isinstance(bounds, (list, tuple)) or len(bounds) != 2:
        raise ValueError(f'expected {name} as two numbers, [lowest, highest], got {bounds!r}')
    first, second = (float(expect(f'each of {name}', bound, low, high, above=above)) for bound in bounds)
    if first > second:
        raise ValueError(f'expected {name} as [lowest, highest], got {list(bounds)}; swap them')
    return first, second
