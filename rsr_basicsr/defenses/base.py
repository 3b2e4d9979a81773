"""What the baseline defences share: the registry, the wrapper around a network, and what they refuse."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from basicsr.utils.registry import Registry
from torch import nn

from rsr_basicsr.attacks.checks import expect
from rsr_basicsr.ops.frequency import without_autocast

#: By the name of ``type`` in a defence block; any callable that takes the network first, and keywords
DEFENSE_REGISTRY = Registry('defense')


class NetworkWrapper(nn.Module):
    """A network inside a defence. The network is the submodule ``net``; the defence itself has nothing to load.

    Subclasses fill in ``forward``, and keep their keyword arguments as attributes of the same name.

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW) in [0, 1].

    Shape:
        As of ``net``.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def extra_repr(self) -> str:
        names = [name for name in inspect.signature(type(self)).parameters if name != 'net' and hasattr(self, name)]
        return ', '.join(f'{name}={getattr(self, name)!r}' for name in names)


class InputTransform(NetworkWrapper):
    """A network behind a transform of its input. Subclasses fill in :meth:`transform`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Half precision cannot tell all 256 levels apart, and what gets lost here no network brings back.
        with without_autocast(x.device):
            transformed = self.transform(in_full_precision(x)).to(x.dtype)
        return self.net(transformed)

    def transform(self, x: torch.Tensor) -> torch.Tensor:
        """What the network is given in the place of ``x``.

        Args:
            x: images, (B, 3, H, W) in [0, 1], float32 or float64; not to be written to.

        Returns:
            (B, 3, H, W), with a gradient with respect to ``x``.
        """
        raise NotImplementedError


def in_full_precision(x: torch.Tensor) -> torch.Tensor:
    """``x`` in float32, but float64 as it is."""
    return x if x.dtype == torch.float64 else x.float()


def expect_bounds(
    name: str, bounds: Sequence[float], low: float, high: float = float('inf'), *, above: bool = False
) -> tuple[float, float]:
    """The two numbers ``bounds``, in order and both in [low, high] ((low, high] with ``above``).

    Raises:
        ValueError: they are not.
    """
    if not isinstance(bounds, (list, tuple)) or len(bounds) != 2:
        raise ValueError(f'expected {name} as two numbers, [lowest, highest], got {bounds!r}')
    first, second = (float(expect(f'each of {name}', bound, low, high, above=above)) for bound in bounds)
    if first > second:
        raise ValueError(f'expected {name} as [lowest, highest], got {list(bounds)}; swap them')
    return first, second
