"""Tiles of an image, and masks of whole feature maps for a network that sees the image in tiles.

A mask erases frequencies of a whole tensor; masks per tile would cause seams. So a network with masks processes the
image in stages. In the first, every tile runs up to the first mask; the tensors of all tiles are assembled and masked
as a whole. In the next, every tile takes its window of the result and runs up to the second mask, and so on until a
stage reaches the output. Each mask thus sees what it would see without tiles.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from rsr_basicsr.archs.defense import Decision, Defense

TensorMap = Callable[[torch.Tensor], torch.Tensor]
RunTile = Callable[[TensorMap, torch.Tensor], torch.Tensor]

_CHANNELS = 8  # of a feature map, masked at a time


class Span(NamedTuple):
    """One axis of a tile.

    Args:
        start, length: window that the network sees, in pixels.
        before: pixels of the window before the tile.
        kept: length of the tile.
    """

    start: int
    length: int
    before: int
    kept: int


def spans(size: int, tile: int, overlap: int) -> list[Span]:
    """Tiles along an axis of ``size`` pixels; each window extends ``overlap`` pixels beyond its tile."""
    found = []
    for first in range(0, size, tile):
        begin = max(first - overlap, 0)
        found.append(Span(begin, min(first + tile + overlap, size) - begin, first - begin, min(tile, size - first)))
    return found


class _Reached(Exception):
    """The pass of a tile has reached a tensor that must be masked as a whole."""

    def __init__(self, tensor: torch.Tensor, mask: TensorMap) -> None:
        super().__init__()
        self.tensor, self.mask = tensor, mask


class WholeMasks:
    """Passes one image through a network in tiles, with masks of whole feature maps.

    Args:
        net: the network.
        decision: how much the image is masked, as ``Defense.decide`` returns it.
        rows, columns: the tiles, see :func:`spans`.
        multiple: the network itself pads windows to multiples of this number.
    """

    def __init__(
        self,
        net: TensorMap,
        decision: Decision,
        rows: list[Span],
        columns: list[Span],
        multiple: int = 1,
    ) -> None:
        self.net, self.decision = net, decision
        self.rows, self.columns, self.multiple = rows, columns, multiple
        self._maps: list[torch.Tensor] = []
        self._window: tuple[Span, Span] = rows[0], columns[0]
        self._stage = 0  # number of masks whose tensors are known
        self._met = 0  # masks met since the window entered the network
        self._mask: TensorMap | None = None  # of the tensor that the tiles have reached

    def upscale(self, lq: torch.Tensor, run: RunTile) -> torch.Tensor:
        """The output for ``lq``.

        Args:
            lq: one image, (1, 3, H, W).
            run: calls a function with a window of it.
        """
        while True:
            self._mask = None
            whole = self._whole(run, lq)
            if self._mask is None:
                return whole
            self._maps.append(self._mask(whole))

    def __call__(self, defense: Defense, x: torch.Tensor, place: int) -> torch.Tensor:
        """The masked tensor that replaces ``x`` in the current window; ends the pass if it is not known yet."""
        index, self._met = self._met, self._met + 1
        if index == self._stage:
            raise _Reached(x, functools.partial(self._mask_whole, defense, place, x.device))
        row, column = (
            (_scaled(span.start, size, _seen(span, size, self.multiple)), size)
            for span, size in zip(self._window, x.shape[-2:])
        )
        return self._maps[index][..., row[0] : sum(row), column[0] : sum(column)].to(x)

    def _whole(self, run: RunTile, lq: torch.Tensor) -> torch.Tensor:
        """The tensors of all tiles of a stage, assembled."""
        if torch.is_grad_enabled() and lq.requires_grad:
            return torch.cat(
                [torch.cat([self._part(run, lq, row, column) for column in self.columns], dim=-1) for row in self.rows],
                dim=-2,
            )
        whole, top = torch.empty(0), 0  # filled part by part: concatenating all parts would take twice its memory
        for row in self.rows:
            left = 0
            for column in self.columns:
                part = self._part(run, lq, row, column)
                height, width = part.shape[-2:]
                if top == left == 0:
                    size = (
                        self._largest(all_spans, length)
                        for all_spans, length in ((self.rows, height), (self.columns, width))
                    )
                    whole = part.new_empty(*part.shape[:-2], *size)
                whole[..., top : top + height, left : left + width] = part
                left += width
            top += height
        return whole[..., :top, :left]

    def _largest(self, all_spans: list[Span], length: int) -> int:
        """Largest length that an axis can have whose first tile has ``length``."""
        size = sum(span.kept for span in all_spans)
        return length if len(all_spans) == 1 else _rounded(size, self.multiple) * length // all_spans[0].kept

    def _part(self, run: RunTile, lq: torch.Tensor, row: Span, column: Span) -> torch.Tensor:
        """The part of one tile: of the output, or of the tensor at the next mask."""
        stage = len(self._maps)

        def through(window: torch.Tensor) -> torch.Tensor:  # sets all state, since the backward pass may run it again
            self._window, self._stage, self._met = (row, column), stage, 0
            try:
                return self.net(window)
            except _Reached as stop:
                self._mask = stop.mask  # not the exception, which keeps all activations of the network alive
                return stop.tensor

        output = run(through, cut(lq, row, column))
        if self._mask is None:
            _check_scale(output, row, column)
        part = crop(output, row, column, 1 if self._mask is None else self.multiple)
        return part.to(lq.device)

    def _mask_whole(self, defense: Defense, place: int, device: torch.device, whole: torch.Tensor) -> torch.Tensor:
        with defense.obeying(self.decision):
            mask = defense.draw(torch.empty(1, 1, *whole.shape[-2:], device=device), place)
            parts = (part.to(device) for part in whole.split(_CHANNELS, dim=1))
            return torch.cat([defense.blend(part, defense.mask.erase(part, mask)).to(whole) for part in parts], dim=1)


def cut(lq: torch.Tensor, row: Span, column: Span) -> torch.Tensor:
    """The window of a tile."""
    return lq[..., row.start : row.start + row.length, column.start : column.start + column.length]


def crop(output: torch.Tensor, row: Span, column: Span, multiple: int = 1) -> torch.Tensor:
    """Crop the output for a window to its tile.

    Args:
        output: (..., h, w), in proportion to the window.
        row, column: the tile.
        multiple: the network may have padded the window to multiples of this number.

    Raises:
        ValueError: the output is not in proportion to the window.
    """
    for dim, span in ((-2, row), (-1, column)):
        size = output.shape[dim]
        seen = _seen(span, size, multiple)
        first = _scaled(span.before, size, seen)
        at_the_end = span.before + span.kept == span.length  # of the image; there the padding stays
        output = output.narrow(dim, first, size - first if at_the_end else _scaled(span.kept, size, seen))
    return output


def _check_scale(output: torch.Tensor, row: Span, column: Span) -> None:
    scale = output.shape[-1] // column.length if isinstance(output, torch.Tensor) else 0
    if scale == 0 or output.shape[-2:] != (scale * row.length, scale * column.length):
        raise ValueError(
            f'{tuple(getattr(output, "shape", ()))} of a window of {row.length}x{column.length}: only '
            'networks that upscale by an integer can work in tiles'
        )


def _seen(span: Span, size: int, multiple: int) -> int:
    """Length of the window that became ``size``, with the network's padding unless that comes later."""
    return span.length if size == span.length else _rounded(span.length, multiple)


def _rounded(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _scaled(number: int, size: int, length: int) -> int:
    """A number of pixels of a window of ``length``, in pixels of a tensor of ``size``."""
    if number * size % length:
        raise ValueError(
            f'{size} values for {length} pixels: masks inside such a network cannot be assembled from '
            'tiles; write defense: decision: tile'
        )
    return number * size // length
