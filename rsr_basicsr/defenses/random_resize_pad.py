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

    Super-resolution adds the way back: the padding is cut out of the output, and the rest is resized to what the
    network would have made of the image itself. Both times by bicubic interpolation, which may overshoot [0, 1] a
    little, and without a shift. The padding mirrors the image.

    Factor and place are drawn anew for each sample and at every call, in evaluation too, from torch's generator on
    the CPU.

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW) in [0, 1], s a whole number.
        scale: bounds of the uniform distribution of the factor, above 0 and at most 4.
        padding: pixels of padding, top and bottom together, left and right together, that are left at the largest
            factor, so that the place is random at any. The size grows by a multiple of 8 pixels in any case: a
            network that wants even sizes wants them here, too.

    Shape:
        (B, 3, H, W) in [0, 1] -> as of ``net``.

    Raises:
        ValueError: an argument is out of range, or, in a call, the network does not upscale by a whole number.
    """

    def __init__(self, net: nn.Module, *, scale: tuple[float, float] = (1.0, 1.1), padding: int = 8):
        super().__init__(net)
        self.scale = expect_bounds('scale', scale, 0, 4, above=True)
        self.padding = int(expect('padding', padding, 0, whole=True))

    def forward(self, x):
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

    def _padded_size(self, side):
        growth = side * (self.scale[1] - 1) + self.padding
        return side + max(math.ceil(round(growth, 6) / _STEP), 0) * _STEP

    def _draw(self, samples, height, width, size) -> list[_Place]:
        low, high = self.scale
        places = []
        for factor, down, right in torch.rand(samples, 3).tolist():
            factor = low + (high - low) * factor
            rows, columns = (min(max(round(side * factor), 1), most) for side, most in zip((height, width), size))
            places.append(_Place(int(down * (size[0] - rows + 1)), int(right * (size[1] - columns + 1)), rows, columns))
        return places


def _placed(x, place, size):
    """The image (1, C, H, W) at its place in one of the padded size."""
    resized = _resized(x, (place.height, place.width))
    return reflect_pad(
        resized, place.left, size[1] - place.left - place.width, place.top, size[0] - place.top - place.height
    )


def _cut_out(output, place, times, size):
    """What the network made of an image, in ``times`` the size of that image."""
    top, left, height, width = (times * length for length in place)
    return _resized(output[..., top : top + height, left : left + width], (times * size[0], times * size[1]))


def _resized(x, size):
    if x.shape[-2:] == size:
        return x
    with without_autocast(x.device):
        return F.interpolate(in_full_precision(x), size, mode='bicubic', antialias=True).to(x.dtype)
