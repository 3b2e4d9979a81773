"""Upscaling of pictures that are too large for one pass: in tiles, under one decision."""

from __future__ import annotations

import contextlib
import math
from typing import List, Optional

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

OVERLAP = 16  # pixels


def upscale(net: nn.Module, lq: torch.Tensor, *, tile: Optional[int] = None, overlap: int = OVERLAP) -> torch.Tensor:
    """Upscale pictures, tile by tile where they are larger than a tile.

    A defended network decides once for each whole picture, unless its defence says ``decision: tile``: a decision
    for each tile makes seams.

    Gradients with respect to ``lq`` are those of the whole picture, as far as the overlap reaches. Tiles are computed
    a second time on the way back, so that the memory of one is enough for all.

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
    decisions = [(defense, defense.decide(lq)) for defense in defenses(net) if defense.decision != 'tile']

    def upscale_window(window):  # has all it needs inside, since the way back comes here once more
        with contextlib.ExitStack() as stack:
            for defense, decision in decisions:
                stack.enter_context(defense.forced(decision))
            return net(window)

    forgets = torch.is_grad_enabled() and lq.requires_grad
    run = (lambda window: checkpoint(upscale_window, window, use_reentrant=False)) if forgets else upscale_window
    rows = [[_upscale_tile(run, lq, top, left, tile, overlap) for left in range(0, width, tile)]
            for top in range(0, height, tile)]
    return torch.cat([torch.cat(row, dim=-1) for row in rows], dim=-2)


class Padded(nn.Module):
    """A network that takes windows of one size, for pictures of any: padded as SwinIRModel pads them to test."""

    def __init__(self, net: nn.Module, window: int):
        super().__init__()
        self.net, self.window = net, window

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        output = self.net(F.pad(x, (0, -width % self.window, 0, -height % self.window), 'reflect'))
        scale = output.shape[-1] // (width + -width % self.window)
        return output[..., :height * scale, :width * scale]


def defenses(net) -> List[nn.Module]:
    """The defences inside a network, be it wrapped, compiled, or one of several modules in a row."""
    modules = net.modules() if isinstance(net, nn.Module) else ()
    found = {id(module.defense): module.defense for module in modules
             if hasattr(getattr(module, 'defense', None), 'forced')}
    return list(found.values())


def tile_within(net: nn.Module, lq: torch.Tensor, memory: float, overlap: int = OVERLAP) -> Optional[int]:
    """The largest tile for which a pass with the gradient of the input keeps within a memory bound.

    What autograd keeps of a small window is counted and taken to grow with the area; the bound is for the activations
    of a pass, beside the network itself and the whole pictures.

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW); parameters that ask for a gradient make it keep more.
        lq: the pictures, (B, 3, H, W).
        memory: the bound in GiB.
        overlap: pixels around a tile.

    Returns:
        Size of the tiles in pixels of ``lq``, a multiple of 8, or None if the whole pictures fit.

    Raises:
        ValueError: not even a tile of 8 fits.
    """
    side = min(64, *lq.shape[-2:])
    kept = _kept_bytes(net, lq[..., :side, :side])
    # Forward, the widest layers stand beside what is kept; on the way back, their gradients.
    a_pixel = 1.5 * kept / side**2
    if a_pixel * lq.shape[-2] * lq.shape[-1] <= memory * 2**30:
        return None
    tile = (int(math.sqrt(memory * 2**30 / a_pixel)) - 2 * overlap) // 8 * 8
    if tile < 8:
        least = a_pixel * (8 + 2 * overlap)**2 / 2**30
        raise ValueError(f'memory: {memory} GiB is too little for a tile of 8 pixels with an overlap of {overlap}; it '
                         f'takes {math.ceil(least * 1000) / 1000}')
    return tile


def _kept_bytes(net, window):
    """Bytes that autograd keeps for the way back, without the network's own tensors."""
    own = {t.untyped_storage().data_ptr() for t in (*net.parameters(), *net.buffers())}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = net(window.detach().requires_grad_())
        kept[output.untyped_storage().data_ptr()] = output.untyped_storage().nbytes()
    return sum(kept.values())


def _upscale_tile(net, lq, top, left, tile, overlap):
    (y, height, y_before), (x, width, x_before) = (
        _window(start, tile, overlap, size) for start, size in ((top, lq.shape[-2]), (left, lq.shape[-1])))
    seen = lq[..., y:y + height, x:x + width]
    output = net(seen)
    scale = output.shape[-1] // width
    if not isinstance(output, torch.Tensor) or output.shape[-2:] != (scale * height, scale * width) or scale == 0:
        raise ValueError(f'{tuple(output.shape)} of {tuple(seen.shape)}: only networks that enlarge by a whole number '
                         'can work in tiles')
    rows, columns = (min(tile, size - start) for start, size in ((top, lq.shape[-2]), (left, lq.shape[-1])))
    return output[..., y_before * scale:(y_before + rows) * scale, x_before * scale:(x_before + columns) * scale]


def _window(start, tile, overlap, size):
    """Where the window around a tile begins, how long it is, and how much of it lies before the tile."""
    begin = max(start - overlap, 0)
    return begin, min(start + tile + overlap, size) - begin, start - begin
