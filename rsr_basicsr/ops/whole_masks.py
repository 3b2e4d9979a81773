"""Tiles of an image, and masks of whole feature maps for a network that sees the image tile by tile.

A mask erases frequencies of a whole tensor. Drawn for each tile it would make seams, so a network with masks goes over
the image in stages: in the first, every tile runs as far as the first mask, whose tensor is put together from all
tiles and masked as a whole; in the next, every tile takes its window of that and runs as far as the second mask; and so
on, until a stage runs through. What one mask sees is thus what it would see without tiles.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

_CHANNELS = 8  # of a feature map that are masked at a time


class Span(NamedTuple):
    """One axis of a tile.

    Args:
        start, length: of the window that the network sees, in pixels.
        before: how much of it lies before the tile.
        kept: length of the tile.
    """

    start: int
    length: int
    before: int
    kept: int


def spans(size: int, tile: int, overlap: int) -> list[Span]:
    """The tiles along an axis of ``size`` pixels; each window reaches ``overlap`` pixels beyond its tile."""
    found = []
    for first in range(0, size, tile):
        begin = max(first - overlap, 0)
        found.append(Span(begin, min(first + tile + overlap, size) - begin, first - begin, min(tile, size - first)))
    return found


class _Reached(Exception):
    """A network has come to a tensor that must be masked as a whole."""

    def __init__(self, tensor: torch.Tensor, mask: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.tensor, self.mask = tensor, mask


class WholeMasks:
    """One image on its way through a network, tile by tile, with masks of the whole.

    Args:
        net: the network.
        decision: how much the image is masked, as ``Defense.decide`` returns it.
        rows, columns: the tiles, see :func:`spans`.
        multiple: the network continues windows to multiples of this number by itself.
    """

    def __init__(
        self,
        net: Callable[[torch.Tensor], torch.Tensor],
        decision: bool | torch.Tensor,
        rows: list[Span],
        columns: list[Span],
        multiple: int = 1,
    ):
        self.net, self.decision = net, decision
        self.rows, self.columns, self.multiple = rows, columns, multiple
        self._maps: list[torch.Tensor] = []
        self._window: tuple[Span, Span] = rows[0], columns[0]
        self._stage = 0  # number of masks whose tensors are known in it
        self._met = 0  # masks, since the window entered the network
        self._mask: Callable[[torch.Tensor], torch.Tensor] | None = None  # of the tensor that tiles have come to

    def upscale(self, lq: torch.Tensor, run: Callable) -> torch.Tensor:
        """The output for ``lq``, (1, 3, H, W).

        Args:
            run: calls a function with a window.
        """
        while True:
            self._mask = None
            whole = self._whole(run, lq)
            if self._mask is None:
                return whole
            self._maps.append(self._mask(whole))

    def __call__(self, defense: nn.Module, x: torch.Tensor, place: int) -> torch.Tensor:
        """What stands in the place of ``x``, a tensor that ``defense`` masks, in the window that is seen now."""
        index, self._met = self._met, self._met + 1
        if index == self._stage:
            raise _Reached(x, functools.partial(self._mask_whole, defense, place, x.device))
        row, column = (
            (_scaled(span.start, size, _seen(span, size, self.multiple)), size)
            for span, size in zip(self._window, x.shape[-2:])
        )
        return self._maps[index][..., row[0] : sum(row), column[0] : sum(column)].to(x)

    def _whole(self, run, lq):
        """All tiles of a stage, put together."""
        if torch.is_grad_enabled() and lq.requires_grad:
            return torch.cat(
                [torch.cat([self._part(run, lq, row, column) for column in self.columns], dim=-1) for row in self.rows],
                dim=-2,
            )
        whole, top = None, 0  # written into, since to have all parts beside the whole would take twice its memory
        for row in self.rows:
            left = 0
            for column in self.columns:
                part = self._part(run, lq, row, column)
                height, width = part.shape[-2:]
                if whole is None:
                    size = (
                        self._largest(all_spans, length)
                        for all_spans, length in ((self.rows, height), (self.columns, width))
                    )
                    whole = part.new_empty(*part.shape[:-2], *size)
                whole[..., top : top + height, left : left + width] = part
                left += width
            top += height
        return whole[..., :top, :left]

    def _largest(self, all_spans, length):
        """What an axis can become, of whose first tile ``length`` has become."""
        size = sum(span.kept for span in all_spans)
        return length if len(all_spans) == 1 else _rounded(size, self.multiple) * length // all_spans[0].kept

    def _part(self, run, lq, row, column):
        """What one tile adds to the whole: to the output, or to the tensor at the next mask."""
        stage = len(self._maps)

        def through(window):  # sets all it needs, since the way back may come here once more
            self._window, self._stage, self._met = (row, column), stage, 0
            try:
                return self.net(window)
            except _Reached as stop:
                self._mask = stop.mask  # and not the exception, which holds all that the network was working on
                return stop.tensor

        output = run(through, cut(lq, row, column))
        if self._mask is None:
            _check_scale(output, row, column)
        part = crop(output, row, column, 1 if self._mask is None else self.multiple)
        return part.to(lq.device)

    def _mask_whole(self, defense, place, device, whole):
        with defense.obeying(self.decision):
            mask = defense.draw(torch.empty(1, 1, *whole.shape[-2:], device=device), place)
            parts = (part.to(device) for part in whole.split(_CHANNELS, dim=1))
            return torch.cat([defense.blend(part, defense.mask.erase(part, mask)).to(whole) for part in parts], dim=1)


def cut(lq: torch.Tensor, row: Span, column: Span) -> torch.Tensor:
    """The window of a tile."""
    return lq[..., row.start : row.start + row.length, column.start : column.start + column.length]


def crop(output: torch.Tensor, row: Span, column: Span, multiple: int = 1) -> torch.Tensor:
    """The part of what a network made of a window that belongs to its tile.

    Args:
        output: (..., h, w), in proportion to the window.
        row, column: the tile.
        multiple: the network may have continued the window to multiples of this number before.

    Raises:
        ValueError: it is not in proportion.
    """
    for dim, span in ((-2, row), (-1, column)):
        size = output.shape[dim]
        seen = _seen(span, size, multiple)
        first = _scaled(span.before, size, seen)
        at_the_end = span.before + span.kept == span.length  # of the image; there it keeps what was added, too
        output = output.narrow(dim, first, size - first if at_the_end else _scaled(span.kept, size, seen))
    return output


def _check_scale(output, row, column):
    scale = output.shape[-1] // column.length if isinstance(output, torch.Tensor) else 0
    if scale == 0 or output.shape[-2:] != (scale * row.length, scale * column.length):
        raise ValueError(
            f'{tuple(getattr(output, "shape", ()))} of a window of {row.length}x{column.length}: only '
            'networks that upscale by a whole number can work in tiles'
        )


def _seen(span, size, multiple):
    """Length of the window that became ``size``: with what the network continued it by, unless it did not yet."""
    return span.length if size == span.length else _rounded(span.length, multiple)


def _rounded(number, multiple):
    return -(-number // multiple) * multiple


def _scaled(number, size, length):
    """A number of pixels of a window of ``length``, in the pixels of something of ``size``."""
    if number * size % length:
        raise ValueError(
            f'{size} values for {length} pixels: masks inside such a network cannot be put together from '
            'tiles; take defense: decision: tile'
        )
    return number * size // length
