"""Upscaling of pictures that are too large for one pass: in tiles, under one decision."""

from __future__ import annotations

import contextlib
from typing import Optional

import torch
from torch import nn

from rsr_basicsr.archs.defended_arch import DefenseMixin

OVERLAP = 16  # pixels


def upscale(net: nn.Module, lq: torch.Tensor, *, tile: Optional[int] = None, overlap: int = OVERLAP) -> torch.Tensor:
    """Upscale pictures, tile by tile where they are larger than a tile.

    A defended network decides once for each whole picture, unless its defence says ``decision: tile``: a decision
    for each tile makes seams.

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW).
        lq: the pictures, (B, 3, H, W) in [0, 1].
        tile: size of the tiles in pixels of ``lq``, without the overlap; None takes the whole picture.
        overlap: pixels around a tile that the network sees and that are cut off again.

    Returns:
        (B, 3, sH, sW), on the device of ``lq``.
    """
    height, width = lq.shape[-2:]
    if tile is None or max(height, width) <= tile:
        return net(lq)
    with contextlib.ExitStack() as stack:
        inner = _unwrapped(net)
        if isinstance(inner, DefenseMixin) and inner.defense.decision != 'tile':
            stack.enter_context(inner.defense.forced(inner.defense.decide(lq)))
        rows = [[_upscale_tile(net, lq, top, left, tile, overlap) for left in range(0, width, tile)]
                for top in range(0, height, tile)]
    return torch.cat([torch.cat(row, dim=-1) for row in rows], dim=-2)


def _unwrapped(net):
    """The network inside DataParallel, DistributedDataParallel and what torch.compile makes of it."""
    for name in ('module', '_orig_mod'):
        if isinstance(getattr(net, name, None), nn.Module):
            return _unwrapped(getattr(net, name))
    return net


def _upscale_tile(net, lq, top, left, tile, overlap):
    (y, height, y_before), (x, width, x_before) = (
        _window(start, tile, overlap, size) for start, size in ((top, lq.shape[-2]), (left, lq.shape[-1])))
    seen = lq[..., y:y + height, x:x + width]
    output = net(seen)
    scale = output.shape[-1] // width
    rows, columns = (min(tile, size - start) for start, size in ((top, lq.shape[-2]), (left, lq.shape[-1])))
    return output[..., y_before * scale:(y_before + rows) * scale, x_before * scale:(x_before + columns) * scale]


def _window(start, tile, overlap, size):
    """Where the window around a tile begins, how long it is, and how much of it lies before the tile."""
    begin = max(start - overlap, 0)
    return begin, min(start + tile + overlap, size) - begin, start - begin
