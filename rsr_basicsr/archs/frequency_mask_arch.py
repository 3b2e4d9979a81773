"""The random frequency mask of Yue et al. 2021."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from rsr_basicsr.ops.caching import any_size, constant_tensor
from rsr_basicsr.ops.frequency import filter_dct, radial_distance
from rsr_basicsr.ops.memory_format import memory_format

Generators = torch.Generator | Sequence[torch.Generator]


@ARCH_REGISTRY.register()
class RandomFrequencyMask(nn.Module):
    """Erases high-frequency DCT coefficients of an image or a feature map at random.

    Let ``D`` be the distance of a coefficient from the DC corner and ``R = sqrt(H^2 + W^2)``. A radius ``r`` is drawn
    from ``keep_radius``; coefficients with ``D <= r R`` stay, any other one stays with probability ``1 - D / max D``.
    The channels of a sample share one mask. Masks are redrawn at every call, in evaluation too. No parameters.

    Args:
        keep_radius: bounds of the uniform distribution of ``r``, within [0, 1].
        per_sample: draw one mask per sample, so that the result does not depend on the batch; False draws one for the
            whole batch, as in the published code.

    Raises:
        ValueError: ``keep_radius`` is out of range.

    Shape:
        (B, C, H, W) of any value range -> the same shape and dtype. The transform itself runs in float32.

    Examples:
        >>> mask = RandomFrequencyMask(keep_radius=(0.43, 0.50))
        >>> x = torch.rand(2, 3, 32, 32)
        >>> masked = mask(x)
        >>> torch.allclose(masked.mean((2, 3)), x.mean((2, 3)), atol=1e-5)  # DC always stays
        True
    """

    def __init__(self, keep_radius: tuple[float, float] = (0.43, 0.50), per_sample: bool = True) -> None:
        super().__init__()
        low, high = keep_radius
        if not 0 <= low <= high <= 1:
            raise ValueError(f'keep_radius must be [low, high] with 0 <= low <= high <= 1, got {list(keep_radius)}')
        self.keep_radius = (float(low), float(high))
        self.per_sample = per_sample

    def forward(self, x: torch.Tensor, generator: Generators | None = None) -> torch.Tensor:
        """Mask a tensor.

        Args:
            x: (B, C, H, W).
            generator: one generator for the batch, or one per sample; None takes the global one of the device.
        """
        return self.erase(x, self.draw(x, generator))

    @staticmethod
    def erase(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Apply a mask of :meth:`draw` or :func:`repeatable_mask` to ``x``, (B, C, H, W)."""
        return filter_dct(x, mask.float()).to(x.dtype, memory_format=memory_format(x))

    def draw(self, x: torch.Tensor, generator: Generators | None = None) -> torch.Tensor:
        """Draw the masks for a tensor.

        Args:
            x: (B, C, H, W).
            generator: as in :meth:`forward`.

        Returns:
            float32, (B, 1, H, W) or (1, 1, H, W), 1 where a coefficient stays.

        Raises:
            ValueError: the number of generators does not match.
        """
        height, width = x.shape[-2:]
        samples = x.shape[0] if self.per_sample else 1
        if generator is None or isinstance(generator, torch.Generator):
            return self._draw(samples, height, width, x.device, generator)
        if len(generator) != samples:
            raise ValueError(f'expected one generator per sample, got {len(generator)} for {samples} samples')
        return torch.cat([self._draw(1, height, width, x.device, own) for own in generator])

    def _draw(
        self, samples: int, height: int, width: int, device: torch.device, generator: torch.Generator | None
    ) -> torch.Tensor:
        # torch.compile accepts no generator, not even None, for a dynamic batch size.
        source: dict[str, Any] = (
            {'device': device} if generator is None else {'device': generator.device, 'generator': generator}
        )
        low, high = self.keep_radius
        radius = low + (high - low) * torch.rand(samples, 1, 1, 1, **source).to(device)
        if any_size():
            noise = torch.rand(samples, 1, height, width, **source).to(device)
            return _stays_anywhere(radius, noise, radial_distance(height, width, device)).float()
        # Random numbers are a good part of the cost of a small mask: one of 64 bits serves four coefficients.
        noise = torch.randint(-(2**63), 2**63 - 1, (samples, -(-height * width // 4)), **source)
        noise = noise.view(torch.int16).to(device)
        chance = noise[:, : height * width].view(samples, 1, height, width)
        inside = radial_distance(height, width, device) <= radius * math.hypot(height, width)
        return (inside | (chance < _threshold(height, width, device))).float()

    def extra_repr(self) -> str:
        return f'keep_radius={list(self.keep_radius)}, per_sample={self.per_sample}'


@constant_tensor(maxsize=64, always=True)  # always: exported graphs cannot draw it
def repeatable_mask(
    keep_radius: tuple[float, float], seed: int, place: int, height: int, width: int, device: torch.device
) -> torch.Tensor:
    """The ``place``-th mask of a pass as determined by a seed, the same on every device.

    Returns:
        bool, (1, 1, H, W). Cached: do not write to it.
    """
    state = np.random.SeedSequence([seed, place]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(state))
    return RandomFrequencyMask(keep_radius).draw(torch.empty(1, 1, height, width), generator).bool().to(device)


@constant_tensor(maxsize=16)
def _threshold(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Threshold that a uniform 16-bit integer is below with probability ``1 - D / max D``; int16, (H, W)."""
    # max(..., 1) avoids 0 / 0 for a 1x1 map, whose only coefficient, DC, always stays.
    stays = 1 - radial_distance(height, width, device) / max(math.hypot(height - 1, width - 1), 1)
    return (stays * 2**16 - 2**15).round().clamp(max=2**15 - 1).to(torch.int16)


def _stays_anywhere(radius: torch.Tensor, noise: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
    """Masks from radii and noise in [0, 1), bool (B, 1, H, W), for symbolic sizes."""
    last = distance[-1:, -1:]
    diagonal = ((distance[-1:, :1] + 1).square() + (distance[:1, -1:] + 1).square()).sqrt()
    return (distance <= radius * diagonal) | (noise < 1 - distance / last.clamp(min=1))
