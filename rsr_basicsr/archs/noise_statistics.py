"""Numbers that describe the noise in an image, at native resolution: what a small classifier can decide by.

Both functions here sum over the image, so that they mean the same in an image of any size, take a large one in
bands of rows with the same result, and have a gradient.
"""

from __future__ import annotations

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
SMALLEST = 16  # pixels a side
_MARGIN = 4  # rows and columns around what is looked at, no less than a filter and a lag reach

FEATURES = 3 * BLOCK_BINS * sum(size**2 - 1 for size, _ in BLOCKS) + (
    len(FLAT) * 6 * 4 * RESIDUAL_BINS + 2 * 3 * len(LAGS) + 2 * 3 * 4
)


def block_histograms(x: torch.Tensor, band: int) -> torch.Tensor:
    """How the magnitudes of the DCT coefficients of overlapping blocks are distributed over the image.

    For each frequency of 8x8 and 4x4 blocks and each colour axis, the square roots of the shares in each bin: the root
    makes the noise of a count the same whatever the count.

    Args:
        x: (B, 3, H, W) in [0, 1], at least 16x16.
        band: pixels that are worked on at once.

    Returns:
        (B, 3 * 78 * 8).
    """
    x = F.conv2d(x, _colour_axes(x.device, x.dtype))
    found = []
    for size, stride in BLOCKS:
        basis = dct_basis(size, x.device, x.dtype)[1:, None]
        up_to, count = 0, 0
        block_rows = (x.shape[-2] - size) // stride + 1
        for top, bottom in row_bands(x, block_rows * stride, band, stride):
            rows = rows_between(x, top, bottom + size - stride)
            c = F.conv2d(rows.flatten(0, 1)[:, None], basis, stride=stride).flatten(2)
            level = (c.abs() + 0.25).log2() + 2
            up_to = up_to + torch.stack([level.clamp(max=k).sum(dim=2) for k in range(BLOCK_BINS)], dim=-1)
            count += c.shape[2]
        found.append(_roots(up_to.view(x.shape[0], 3, *up_to.shape[1:]) / count).flatten(1))
    return torch.cat(found, dim=1)


def residual_statistics(x: torch.Tensor, band: int) -> torch.Tensor:
    """How the differences of neighbouring pixels are distributed in the flat parts of the image, and go together.

    Where there is little content, an image shows its noise: a perturbation is bounded by eps and has the same size in
    all colours, the noise of a sensor has tails; either has its own correlations over the neighbourhood.

    Args:
        x: (B, 3, H, W) in [0, 1], at least 16x16.
        band: pixels that are worked on at once.

    Returns:
        (B, 1038): of three colour axes and three colours and of four high-pass filters, the square roots of a
        histogram of the magnitudes in the flattest quarter and in 60 % of the image; in the quarter,
        correlations with neighbours (of the axes) and between colours, of the residuals and of their magnitudes.
    """
    cells = _activity(x, band)
    ordered = cells.flatten(1).sort(dim=1).values
    last = torch.arange(ordered.shape[1], device=x.device)[-1:].double()
    limits = [ordered.index_select(1, (last * share).long())[..., None, None] for share in FLAT]
    flat = [(cells <= limit).to(x.dtype) for limit in limits]
    flat = torch.cat(flat, dim=1)  # (B, 2, rows, columns), of cells of 4x4 pixels that begin at pixel 2
    seen = F.pad(x, [_MARGIN - 2] * 4, mode='reflect')
    size = tuple(4 * side for side in flat.shape[-2:])
    seen = upper_left(seen, size[0] + 2 * _MARGIN, size[1] + 2 * _MARGIN)
    sums = 0
    for top, bottom in row_bands(seen, size[0], band, 4):
        weight = F.interpolate(rows_between(flat, top // 4, bottom // 4), scale_factor=4, mode='nearest')
        sums = sums + _residual_sums(rows_between(seen, top, bottom + 2 * _MARGIN), weight)
    return _of_sums(sums, flat.double().sum(dim=(2, 3)) * 16).to(x.dtype)


@constant_tensor(maxsize=8)
def _colour_axes(device, dtype):
    """Brightness, red against green, blue against green, in grey levels: noise of cameras and of JPEG differs there."""
    axes = ((1 / 3, 1 / 3, 1 / 3), (0.5, -0.5, 0.0), (0.0, -0.5, 0.5))
    return 255 * torch.tensor(axes, device=device, dtype=dtype).view(3, 3, 1, 1)


@constant_tensor(maxsize=8)
def _high_pass(device, dtype):
    """Difference to the right, to the one below, of both orders both ways, and the Laplacian; (4, 1, 3, 3)."""
    filters = (
        ((0, 0, 0), (0, -4, 4), (0, 0, 0)),
        ((0, 0, 0), (0, -4, 0), (0, 4, 0)),
        ((1, -2, 1), (-2, 4, -2), (1, -2, 1)),
        ((0, 1, 0), (1, -4, 1), (0, 1, 0)),
    )
    return torch.tensor(filters, device=device, dtype=dtype)[:, None] / 4


def _activity(x, band):
    """How much the mean brightness of 8x8 pixels changes around each cell of 4x4, (B, 1, rows, columns).

    Means, since noise must not make a flat place an active one.
    """
    means = [
        _block_means(rows_between(x, top, bottom + 4).mean(dim=1, keepdim=True))
        for top, bottom in row_bands(x, x.shape[-2] // 4 * 4 - 4, band, 4)
    ]
    means = torch.cat(means, dim=-2)
    return F.max_pool2d(means, 3, 1, 1) + F.max_pool2d(-means, 3, 1, 1)


def _block_means(x):
    """Of 8x8 pixels, every 4."""
    if any_size():  # older exporters want to know whether the blocks fill the image
        return F.conv2d(x, x.new_full((1, 1, 8, 8), 1 / 64), stride=4)
    return F.avg_pool2d(x, 8, 4)


def _residual_sums(x, weight):
    """What statistics are made of, summed over a band, (B, number of sums), in double precision."""
    batch, rows, columns = x.shape[0], *weight.shape[-2:]
    planes = torch.cat([F.conv2d(x, _colour_axes(x.device, x.dtype)), 255 * x], dim=1)
    r = F.conv2d(planes.flatten(0, 1)[:, None], _high_pass(x.device, x.dtype))  # three rows around the cells are left
    r = r.view(batch, 6, 4, *r.shape[-2:])

    def lagged(tensor, dy=0, dx=0):
        return tensor[..., 3 + dy : 3 + dy + rows, 3 + dx : 3 + dx + columns]

    inner = lagged(r).flatten(3).flatten(1, 2)  # (B, 24, pixels)
    level = 6 * (inner.abs() / 8 + 1).log2()
    weights = weight.flatten(2).transpose(1, 2)  # (B, pixels, 2)
    found = [torch.stack([torch.bmm(level.clamp(max=k), weights) for k in range(RESIDUAL_BINS)], dim=1)]
    flattest = weight[:, :1]
    laplacian, colours = r[:, :3, 3], r[:, 3:]
    for a, b in [(lagged(laplacian), lagged(laplacian, *lag)) for lag in LAGS] + [
        (lagged(colours[:, i]), lagged(colours[:, j])) for i, j in ((0, 1), (0, 2), (1, 2))
    ]:
        found += [
            (value * flattest).flatten(2).sum(dim=2)
            for value in (a * b, a.square(), b.square(), (a * b).abs(), a.abs(), b.abs())
        ]
    return torch.cat([each.flatten(1).double() for each in found], dim=1)


def _of_sums(sums, pixels):
    """The statistics of these sums; ``pixels``: (B, 2)."""
    split = RESIDUAL_BINS * 24 * len(FLAT)
    up_to = sums[:, :split].unflatten(1, (RESIDUAL_BINS, 24, len(FLAT))) / pixels[:, None, None]
    found = [_roots(up_to.permute(0, 2, 3, 1)).flatten(1)]
    means = sums[:, split:] / pixels[:, :1]
    for width, count in ((3, len(LAGS)), (4, 3)):
        ab, aa, bb, ab_abs, a_abs, b_abs = means[:, : 6 * width * count].view(-1, count, 6, width).unbind(dim=2)
        means = means[:, 6 * width * count :]
        # A hundredth of a grey level squared: what has no noise has no correlation.
        found.append((ab / (aa * bb + 1e-2).sqrt()).flatten(1))
        spread = (aa - a_abs.square() + 1e-2) * (bb - b_abs.square() + 1e-2)
        found.append(((ab_abs - a_abs * b_abs) / spread.sqrt()).flatten(1))
    return torch.cat(found, dim=1)


def _roots(up_to):
    """Square roots of the shares in each bin, of the means of the levels up to each bin, (..., bins).

    A number on its way from one bin to the next counts in part, so that there is a gradient.
    """
    reached = up_to[..., 1:] - up_to[..., :-1]  # the means of (level - k).clamp(0, 1), in half the time
    share = F.pad(F.pad(reached, (1, 0), value=1.0), (0, 1))
    return ((share[..., :-1] - share[..., 1:]).clamp(min=0) + 1e-4).sqrt()
