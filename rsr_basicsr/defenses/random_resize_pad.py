"""Random resizing and padding as a defence."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from rsr_basicsr.attacks.checks import expect
from rsr_basicsr.defenses.base import DEFENSE_REGISTRY, NetworkWrapper, expect_bounds, in_full_precision
from rsr_basicsr.defenses.padding import reflect_pad
from rsr_basicsr.ops.frequency import without_autocast

_STEP = 8  # pixels


class _Place(NamedTuple):
    """Where a resized image lies inside the padded one, in pixels."""

    top: int
    left: int
    height: int
    width: int


@DEFENSE_REGISTRY.register()
class RandomResizePad(NetworkWrapper):
    """Resizes each image by a random factor and pads it to a fixed size at a random place (Xie et al., ICLR 2018).

    For super-resolution, the output is mapped back: its padding is cropped, and the rest is resized to the output size
    of the original image. Both resizings are bicubic and without a shift; they may overshoot [0, 1] a little. The
    padding mirrors the image.

    Every call draws factor and place per sample, in evaluation too, from torch's generator on the CPU.

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW) in [0, 1], s a whole number.
        scale: bounds of the uniform distribution of the factor, above 0 and at most 4.
        padding: pixels of padding per axis, both sides together, at the largest factor, so that the place is random at
            any factor. The size always grows by a multiple of 8 pixels, for networks that need even sizes.

    Shape:
        (B, 3, H, W) in [0, 1] -> as of ``net``.

    Raises:
        ValueError: an argument is out of range; in a call, the network does not upscale by a whole number.
    """

    def __init__(self, net: nn.Module, *, scale: tuple[float, float] = (1.0, 1.1), padding: int = 8) -> None:
        super().__init__(net)
        self.scale = expect_bounds('scale', scale, 0, 4, above=True)
        self.padding = int(expect('padding', padding, 0, whole=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        size = self._padded_size(height), self._padded_size(width)
        places = self._draw(len(x), height, width, size)
        output = self.net(torch.cat([_placed(one, place, size) for one, place in zip(x.split(1), places)]))
        times = output.shape[-1] // size[1]
        if times == 0 or output.shape[-2:] != (times * size[0], times * size[1]):
            raise ValueError(
                f'{tuple(output.shape)} of {tuple(size)}: RandomResizePad takes only networks that '
                'upscale by a whole number'
            )
        return torch.cat([_cut_out(one, place, times, (height, width)) for one, place in zip(output.split(1), places)])

    def _padded_size(self, side: int) -> int:
        growth = side * (self.scale[1] - 1) + self.padding
        return side + max(math.ceil(round(growth, 6) / _STEP), 0) * _STEP

    def _draw(self, samples: int, height: int, width: int, size: tuple[int, int]) -> list[_Place]:
        low, high = self.scale
        places = []
        for factor, down, right in torch.rand(samples, 3).tolist():
            factor = low + (high - low) * factor
            rows, columns = (min(max(round(side * factor), 1), most) for side, most in zip((height, width), size))
            places.append(_Place(int(down * (size[0] - rows + 1)), int(right * (size[1] - columns + 1)), rows, columns))
        return places


def _placed(x: torch.Tensor, place: _Place, size: tuple[int, int]) -> torch.Tensor:
    """Resize the image (1, C, H, W) and pad it to ``size``."""
    resized = _resized(x, (place.height, place.width))
    return reflect_pad(
        resized, place.left, size[1] - place.left - place.width, place.top, size[0] - place.top - place.height
    )


def _cut_out(output: torch.Tensor, place: _Place, times: int, size: tuple[int, int]) -> torch.Tensor:
    """Crop the padding from the output, and resize the rest to ``times`` the ``size`` of the original image."""
    top, left, height, width = (times * length for length in place)
    return _resized(output[..., top : top + height, left : left + width], (times * size[0], times * size[1]))


def _resized(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if x.shape[-2:] == size:
        return x
    with without_autocast(x.device):
        return F.interpolate(in_full_precision(x), size, mode='bicubic', antialias=True).to(x.dtype)
