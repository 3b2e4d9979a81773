"""Statistics of the noise in an image at native resolution: the features of a small classifier.

The statistics are means over the image, so they do not depend on its size, and have a gradient. Large images are
processed in bands of rows, with the same result.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F

from rsr_basicsr.archs.classifier import row_bands, rows_between, upper_left
from rsr_basicsr.ops.caching import any_size, constant_tensor
from rsr_basicsr.ops.frequency import dct_basis

BLOCKS = ((8, 4), (4, 2))  # size and stride in pixels
BLOCK_BINS = 8  # of log2 of the magnitude: 0, 0.25, 0.75, 1.75, ... 31.75 grey levels
RESIDUAL_BINS = 20  # the k-th at 8 (2^(k / 6) - 1) grey levels: one apart at first, 64 is the last
FLAT = (0.25, 0.6)  # shares of the image
LAGS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (0, 3), (3, 0), (2, 2))  # rows and columns
COLOUR_PAIRS = ((0, 1), (0, 2), (1, 2))
SMALLEST = 16  # pixels per side
AT_ONCE = {'cpu': 2**16, 'cuda': 2**24}  # numbers in a tensor of clamped levels
_MARGIN = 4  # rows and columns around the cells, at least the reach of a filter plus a lag

FEATURES = 3 * BLOCK_BINS * sum(size**2 - 1 for size, _ in BLOCKS) + (
    len(FLAT) * 6 * 4 * RESIDUAL_BINS + 2 * 3 * len(LAGS) + 2 * 3 * 4
)


def block_histograms(x: torch.Tensor, band: int) -> torch.Tensor:
    """Histograms, over the image, of the magnitudes of DCT coefficients of overlapping blocks.

    One histogram per frequency of 8x8 and 4x4 blocks and per colour axis, as square roots of the shares in each bin:
    the root makes the variance independent of the count.

    Args:
        x: (B, 3, H, W) in [0, 1], at least 16x16.
        band: pixels processed at once.

    Returns:
        (B, 3 * 78 * 8).
    """
    x = F.conv2d(x, _colour_axes(x.device, x.dtype))
    found = []
    for size, stride in BLOCKS:
        basis = dct_basis(size, x.device, x.dtype)[1:, None]
        up_to: Any = 0
        count = 0
        block_rows = (x.shape[-2] - size) // stride + 1
        for top, bottom in row_bands(x, block_rows * stride, band, stride):
            rows = rows_between(x, top, bottom + size - stride)
            c = F.conv2d(rows.flatten(0, 1)[:, None], basis, stride=stride).flatten(2)
            level = (c.abs() + 0.25).log2() + 2
            up_to = up_to + torch.cat([part.sum(dim=3) for part in _clamped(level, BLOCK_BINS)], dim=1)
            count += c.shape[2]
        up_to = (up_to / count).transpose(1, 2)
        found.append(_roots(up_to.reshape(x.shape[0], 3, *up_to.shape[1:])).flatten(1))
    return torch.cat(found, dim=1)


def residual_statistics(x: torch.Tensor, band: int) -> torch.Tensor:
    """Distribution and correlations of high-pass residuals in the flat parts of the image.

    Where there is little content, an image shows its noise: a perturbation is bounded by eps and has the same size in
    all colours, sensor noise has tails; each has its own correlations between neighbours.

    Args:
        x: (B, 3, H, W) in [0, 1], at least 16x16.
        band: pixels processed at once.

    Returns:
        (B, 1038). For three colour axes, three colours and four high-pass filters: square roots of the histogram of the
        magnitudes, in the flattest 25 % and 60 % of the image. In the flattest 25 %: correlations with neighbours (of
        the axes) and between colours, of the residuals and of their magnitudes.
    """
    cells = _activity(x, band)
    ordered = cells.flatten(1).sort(dim=1).values
    last = torch.arange(ordered.shape[1], device=x.device)[-1:].double()
    limits = [ordered.index_select(1, (last * share).long())[..., None, None] for share in FLAT]
    # (B, 2, rows, columns), of cells of 4x4 pixels that begin at pixel 2
    flat = torch.cat([(cells <= limit).to(x.dtype) for limit in limits], dim=1)
    seen = F.pad(x, [_MARGIN - 2] * 4, mode='reflect')
    size = tuple(4 * side for side in flat.shape[-2:])
    seen = upper_left(seen, size[0] + 2 * _MARGIN, size[1] + 2 * _MARGIN)
    sums: Any = 0
    for top, bottom in row_bands(seen, size[0], band, 4):
        weight = F.interpolate(rows_between(flat, top // 4, bottom // 4), scale_factor=4, mode='nearest')
        sums = sums + _residual_sums(rows_between(seen, top, bottom + 2 * _MARGIN), weight)
    return _of_sums(sums, flat.double().sum(dim=(2, 3)) * 16).to(x.dtype)


@constant_tensor(maxsize=8)
def _colour_axes(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Brightness, red minus green, blue minus green, in grey levels, (3, 3, 1, 1): camera and JPEG noise differ."""
    axes = ((1 / 3, 1 / 3, 1 / 3), (0.5, -0.5, 0.0), (0.0, -0.5, 0.5))
    return 255 * torch.tensor(axes, device=device, dtype=dtype).view(3, 3, 1, 1)


@constant_tensor(maxsize=8)
def _high_pass(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Horizontal and vertical first difference, mixed second difference, and the Laplacian; (4, 1, 3, 3)."""
    filters = (
        ((0, 0, 0), (0, -4, 4), (0, 0, 0)),
        ((0, 0, 0), (0, -4, 0), (0, 4, 0)),
        ((1, -2, 1), (-2, 4, -2), (1, -2, 1)),
        ((0, 1, 0), (1, -4, 1), (0, 1, 0)),
    )
    return torch.tensor(filters, device=device, dtype=dtype)[:, None] / 4


def _activity(x: torch.Tensor, band: int) -> torch.Tensor:
    """Range of the mean brightness of 8x8 pixels around each cell of 4x4, (B, 1, rows, columns).

    Means, so that noise does not count as activity.
    """
    bands = [
        _block_means(rows_between(x, top, bottom + 4).mean(dim=1, keepdim=True))
        for top, bottom in row_bands(x, x.shape[-2] // 4 * 4 - 4, band, 4)
    ]
    means = torch.cat(bands, dim=-2)
    return F.max_pool2d(means, 3, 1, 1) + F.max_pool2d(-means, 3, 1, 1)


def _block_means(x: torch.Tensor) -> torch.Tensor:
    """Means of 8x8 pixels at a stride of 4."""
    if any_size():  # older exporters require that pooling blocks fill the image
        return F.conv2d(x, x.new_full((1, 1, 8, 8), 1 / 64), stride=4)
    return F.avg_pool2d(x, 8, 4)


def _residual_sums(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Sums over a band that the statistics are computed from, (B, number of sums), in double precision."""
    batch = x.shape[0]
    rows, columns = weight.shape[-2:]
    planes = torch.cat([F.conv2d(x, _colour_axes(x.device, x.dtype)), 255 * x], dim=1)
    r = F.conv2d(planes.flatten(0, 1)[:, None], _high_pass(x.device, x.dtype))  # leaves a margin of 3
    r = r.view(batch, 6, 4, *r.shape[-2:])

    def lagged(tensor: torch.Tensor, dy: int = 0, dx: int = 0) -> torch.Tensor:
        return tensor[..., 3 + dy : 3 + dy + rows, 3 + dx : 3 + dx + columns]

    inner = lagged(r).flatten(3).flatten(1, 2)  # (B, 24, pixels)
    level = 6 * (inner.abs() / 8 + 1).log2()
    weights = weight.flatten(2).transpose(1, 2)  # (B, pixels, 2)
    up_to = [part.flatten(1, 2) @ weights for part in _clamped(level, RESIDUAL_BINS)]
    laplacian, colours = r[:, :3, 3], lagged(r[:, 3:])
    pairs = [(lagged(laplacian), lagged(laplacian, *lag)) for lag in LAGS]
    pairs += [(colours[:, i], colours[:, j]) for i, j in COLOUR_PAIRS]
    of_pairs, at_once, flattest = [], _at_once(pairs[0][0]), weights[..., :1]
    for first in range(0, len(pairs), at_once):
        a, b = (torch.cat(side, dim=1).flatten(2) for side in zip(*pairs[first : first + at_once]))
        ab = a * b
        of_pairs.append(torch.cat([each @ flattest for each in (ab, a * a, b * b, ab.abs(), a.abs(), b.abs())], dim=2))
    return torch.cat([torch.cat(part, dim=1).flatten(1) for part in (up_to, of_pairs)], dim=1).double()


def _of_sums(sums: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """The statistics from their sums and the number of pixels, (B, 2)."""
    split = RESIDUAL_BINS * 24 * len(FLAT)
    up_to = sums[:, :split].unflatten(1, (RESIDUAL_BINS, 24, len(FLAT))) / pixels[:, None, None]
    ab, aa, bb, ab_abs, a_abs, b_abs = (sums[:, split:] / pixels[:, :1]).unflatten(1, (-1, 6)).unbind(dim=2)
    # The offset, in grey levels squared, makes the correlation 0 where there is no noise.
    of_values = ab / (aa * bb + 1e-2).sqrt()
    spread = (aa - a_abs.square() + 1e-2) * (bb - b_abs.square() + 1e-2)
    of_magnitudes = (ab_abs - a_abs * b_abs) / spread.sqrt()
    lags = 3 * len(LAGS)
    correlations = [
        each for part in (slice(lags), slice(lags, None)) for each in (of_values[:, part], of_magnitudes[:, part])
    ]
    return torch.cat([_roots(up_to.permute(0, 2, 3, 1)).flatten(1), *correlations], dim=1)


def _clamped(level: torch.Tensor, bins: int) -> Iterator[torch.Tensor]:
    """Levels (B, C, N), clamped from above at 0 to ``bins`` - 1: as (B, some bins, C, N), until all bins are done.

    Few large tensors on a GPU, where every call costs the same; on a CPU as many as a cache holds.
    """
    at_once = _at_once(level)
    if at_once == 1:
        yield from (level.clamp(max=k)[:, None] for k in range(bins))
        return
    for limits in _limits(bins, level.device, level.dtype).split(at_once):
        yield level[:, None].clamp(max=limits)


def _at_once(x: torch.Tensor) -> int:
    """How many tensors like ``x`` to compute with at once."""
    return 1 if any_size() else max(1, AT_ONCE.get(x.device.type, AT_ONCE['cpu']) // x.numel())


@constant_tensor(maxsize=8)
def _limits(bins: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(bins, device=device, dtype=dtype).view(-1, 1, 1)


def _roots(up_to: torch.Tensor) -> torch.Tensor:
    """Square roots of the shares in each bin, from the means of the levels clamped at each bin, (..., bins).

    A value between two bins counts in part in each, so there is a gradient.
    """
    reached = up_to[..., 1:] - up_to[..., :-1]  # means of (level - k).clamp(0, 1), in half the time
    share = F.pad(F.pad(reached, (1, 0), value=1.0), (0, 1))
    return ((share[..., :-1] - share[..., 1:]).clamp(min=0) + 1e-4).sqrt()
