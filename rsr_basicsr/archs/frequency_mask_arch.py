"""The random frequency mask of Yue et al. 2021."""

from __future__ import annotations

import math
from typing import Optional, Sequence, Tuple, Union

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from rsr_basicsr.frequency import dct2, idct2, radial_distance

Generators = Union[torch.Generator, Sequence[torch.Generator]]


@ARCH_REGISTRY.register()
class RandomFrequencyMask(nn.Module):
    """Erases high-frequency DCT coefficients of a picture or a feature map at random.

    With ``D`` the distance of a coefficient from the DC corner and ``R = sqrt(H^2 + W^2)``, a radius ``r`` is drawn
    from ``keep_radius``; coefficients with ``D <= r R`` stay, any other one stays with probability ``1 - D / max D``.
    The channels of a sample share one mask. It is redrawn at every call, in evaluation too, and has no parameters.

    Args:
        keep_radius: bounds of the uniform distribution of ``r``, within [0, 1].
        per_sample: draw one mask a sample, so that a picture's result does not depend on its batch; False draws one
            for the whole batch, as the published code does.

    Shape:
        (B, C, H, W) of any value range -> the same shape and dtype. The transform itself runs in float32.
    """

    def __init__(self, keep_radius: Tuple[float, float] = (0.43, 0.50), per_sample: bool = True):
        super().__init__()
        low, high = keep_radius
        if not 0 <= low <= high <= 1:
            raise ValueError(f'keep_radius must be [low, high] with 0 <= low <= high <= 1, got {list(keep_radius)}')
        self.keep_radius = (float(low), float(high))
        self.per_sample = per_sample

    def forward(self, x: torch.Tensor, generator: Optional[Generators] = None) -> torch.Tensor:
        """Mask ``x``; ``generator`` is one generator for the batch, or one a sample."""
        return idct2(dct2(x) * self.draw(x, generator)).to(x.dtype)

    def draw(self, x: torch.Tensor, generator: Optional[Generators] = None) -> torch.Tensor:
        """Draw the masks for ``x``: float32, (B, 1, H, W) or (1, 1, H, W), 1 where a coefficient stays."""
        height, width = x.shape[-2:]
        samples = x.shape[0] if self.per_sample else 1
        noise = _uniform(samples, 1 + height * width, x.device, generator)
        low, high = self.keep_radius
        radius = low + (high - low) * noise[:, 0].view(-1, 1, 1, 1)
        chance = noise[:, 1:].view(-1, 1, height, width)

        distance = radial_distance(height, width, x.device)
        inside = distance <= radius * math.hypot(height, width)
        # A 1x1 map has only its DC coefficient, which always stays; the clamp keeps its 0/0 away.
        probability = 1 - distance / max(math.hypot(height - 1, width - 1), 1)
        return (inside | (chance < probability)).float()

    def extra_repr(self) -> str:
        return f'keep_radius={list(self.keep_radius)}, per_sample={self.per_sample}'


def _uniform(samples, count, device, generator):
    """Uniform numbers in [0, 1), shape (samples, count), drawn where the generator lives."""
    if generator is None:
        return torch.rand(samples, count, device=device)
    if isinstance(generator, torch.Generator):
        return torch.rand(samples, count, device=generator.device, generator=generator).to(device)
    if len(generator) != samples:
        raise ValueError(f'expected one generator a sample, got {len(generator)} for {samples} samples')
    return torch.stack([torch.rand(count, device=g.device, generator=g).to(device) for g in generator])
