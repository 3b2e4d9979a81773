"""The discrete cosine transform and the geometry of its coefficients, as pure functions.

Transforms cover the last two dimensions of a tensor at full height and width, not 8x8 blocks.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch

from rsr_basicsr.ops.caching import any_size, constant_tensor

# A product with the cached DCT matrix costs O(n) per value, an FFT O(log n) with a large constant: the matrix is faster
# for patches, tiles and feature maps, the FFT for large images.
_LARGEST_MATRIX = 768

TensorMap = Callable[[torch.Tensor], torch.Tensor]
MatrixOf = Callable[[int, torch.device, torch.dtype], torch.Tensor]


def dct2(x: torch.Tensor) -> torch.Tensor:
    """Orthonormal 2-D DCT-II over the last two dimensions (Yue et al. 2021).

    Computed in float32 even within autocast, in float64 for float64 input: half precision loses the small
    high-frequency coefficients that matter to the defence.

    Args:
        x: tensor of shape (..., H, W).

    Returns:
        Coefficients of shape (..., H, W), the DC coefficient at (0, 0); float64 for float64 input, else float32.

    Examples:
        >>> dct2(torch.full((1, 3, 4, 4), 0.5))[0, 0, 0]  # an image of one value has a DC coefficient alone
        tensor([2., 0., 0., 0.])
    """
    return _in_full_precision(_transform, x)


def idct2(X: torch.Tensor) -> torch.Tensor:
    """Inverse of :func:`dct2` (the orthonormal DCT-III), with the same shapes and precision.

    Examples:
        >>> x = torch.rand(1, 3, 8, 6)
        >>> torch.allclose(idct2(dct2(x)), x, atol=1e-5)
        True
    """
    return _in_full_precision(_inverse, X)


def filter_dct(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``idct2(dct2(x) * weight)``, with half of the temporary tensors.

    The map is symmetric, so its gradient with respect to ``x`` is the same filter. ``weight`` is a constant without a
    gradient.

    Args:
        x: tensor of shape (B, C, H, W).
        weight: factor per coefficient, (B, 1, H, W) or (1, 1, H, W).

    Returns:
        The filtered tensor, (B, C, H, W), in the precision of :func:`dct2`.
    """
    if torch.compiler.is_compiling() or any_size():  # compilers plan the memory themselves
        return idct2(dct2(x) * weight)
    return _in_full_precision(lambda full: _Filter.apply(full, weight.to(full.dtype)), x)


@constant_tensor(maxsize=16)
def dct_basis(n: int, device: torch.device = torch.device('cpu'), dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Basis images of the orthonormal DCT of n x n blocks, (n * n, n, n), the constant one first.

    Cached: do not write to it.
    """
    matrix = _dct_matrix(n, device, dtype)
    return torch.einsum('ia,jb->ijab', matrix, matrix).reshape(n * n, n, n)


@constant_tensor(maxsize=16)
def radial_distance(height: int, width: int, device: torch.device = torch.device('cpu')) -> torch.Tensor:
    """Index distance ``D(u, v) = sqrt(u^2 + v^2)`` of each DCT coefficient from the DC corner.

    Returns:
        float32 tensor of shape (height, width). Cached: do not write to it.
    """
    rows = torch.arange(height, dtype=torch.float32, device=device)
    columns = torch.arange(width, dtype=torch.float32, device=device)
    if any_size():  # exporters do not know hypot
        return (rows[:, None].square() + columns[None, :].square()).sqrt()
    return torch.hypot(rows[:, None], columns[None, :])


def log_spectrum(x: torch.Tensor, floor: float = 1e-6) -> torch.Tensor:
    """Logarithm of the magnitude of the channel-averaged DCT of an image (Yue et al. 2021).

    The gradient is that of the logarithm where a magnitude is above the floor, zero elsewhere.

    Args:
        x: images of shape (B, C, H, W).
        floor: lower bound of the magnitudes. Without it, coefficients that should be zero are rounding noise, whose
            logarithm depends on the precision, the size and the machine.

    Returns:
        Tensor of shape (B, H, W); float64 for float64 input, else float32.
    """
    return _in_full_precision(_channel_mean_dct, x).abs().clamp(min=floor).log()


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Context in which autocast is off."""
    # The device meta has no autocast, and refuses to switch it off.
    nothing_to_do = device.type == 'meta' or any_size()
    return contextlib.nullcontext() if nothing_to_do else torch.autocast(device.type, enabled=False)


def _in_full_precision(function: TensorMap, x: torch.Tensor) -> torch.Tensor:
    with without_autocast(x.device):
        return function(x if x.dtype == torch.float64 else x.float())


def _transform(x: torch.Tensor) -> torch.Tensor:
    return _along_both_axes(x, _dct_matrix, _inverse_dct_matrix, _fft_dct)


def _inverse(X: torch.Tensor) -> torch.Tensor:
    return _along_both_axes(X, _inverse_dct_matrix, _dct_matrix, _fft_idct)


def _channel_mean_dct(x: torch.Tensor) -> torch.Tensor:
    """Mean over the channels of their DCTs, (B, H, W), with less rounding noise than computing it so."""
    # Rounding the DC coefficient of a bright image leaks more than 1e-6 into all others. So a constant is subtracted
    # before the transform and added back to that coefficient alone. Subtracting the first pixel makes a flat image
    # exactly zero; subtracting the mean keeps the rest small where that pixel differs from the others.
    first = x.detach()[:, :, :1, :1]
    grey = (x - first).mean(dim=1)
    mean = grey.detach().mean(dim=(-2, -1), keepdim=True)
    spectrum = _transform(grey - mean)
    at_dc = radial_distance(*x.shape[-2:], x.device) == 0
    return torch.where(at_dc, spectrum + (first.mean(dim=1) + mean) * _dc_of_ones(grey), spectrum)


def _dc_of_ones(x: torch.Tensor) -> torch.Tensor:
    """DC coefficient of an image of ones of the size of ``x``, (B, H, W): a scalar."""
    if any_size():  # where the size is symbolic
        return torch.ones_like(x[:1]).sum().sqrt()
    return x.new_full((), math.sqrt(x.shape[-2] * x.shape[-1]))


def _along_both_axes(x: torch.Tensor, left: MatrixOf, right: MatrixOf, fast: TensorMap) -> torch.Tensor:
    """``left @ x @ right`` for small sizes; the same by ``fast`` along axes that are large."""
    height, width = x.shape[-2:]
    if any_size():
        return _by_plain_products(x, left(height, x.device, x.dtype), right(width, x.device, x.dtype))
    x = x @ right(width, x.device, x.dtype) if width <= _LARGEST_MATRIX else fast(x)
    if height <= _LARGEST_MATRIX:
        return left(height, x.device, x.dtype) @ x
    return fast(x.transpose(-1, -2)).transpose(-1, -2)


def _by_plain_products(x: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """``left @ x @ right`` for symbolic sizes: older exporters know ``mm``, but not every case of ``@``."""
    height, width = x.shape[-2:]
    x = torch.mm(x.reshape(-1, width), right).view(x.shape).transpose(-1, -2)
    x = torch.mm(x.reshape(-1, height), left.T).view(x.shape)
    return x.transpose(-1, -2)


class _Filter(torch.autograd.Function):
    """The computation of :func:`filter_dct`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight)
        if max(x.shape[-2:]) > _LARGEST_MATRIX:
            return _inverse(_transform(x).mul_(weight))
        return _filter_by_matrices(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        with without_autocast(gradient.device):  # the backward pass may run inside it
            return _Filter.apply(gradient, *ctx.saved_tensors), None


def _filter_by_matrices(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Four matrix products between two buffers: allocating each result would add a third to the time."""
    batch, channels, height, width = x.shape
    planes = batch * channels
    rows, rows_inverse = (
        matrix(height, x.device, x.dtype).expand(planes, height, height)
        for matrix in (_dct_matrix, _inverse_dct_matrix)
    )
    first = torch.mm(x.reshape(-1, width), _inverse_dct_matrix(width, x.device, x.dtype))
    second = torch.bmm(rows, first.view(planes, height, width))
    second.view_as(x).mul_(weight)
    torch.bmm(rows_inverse, second, out=first.view(planes, height, width))
    torch.mm(first, _dct_matrix(width, x.device, x.dtype), out=second.view(-1, width))
    return second.view_as(x)


@constant_tensor(maxsize=32)
def _dct_matrix(n: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Orthonormal DCT-II matrix; row k holds the k-th cosine."""
    if any_size():
        k = torch.arange(n, device=device)
        period = 4 * k[-1:] + 4
        # Integers up to the last step, for which single precision then suffices.
        matrix = torch.cos((2 * k[None, :] + 1) * k[:, None] % period * (2 * math.pi) / period).to(dtype)
        return matrix / matrix.square().sum(dim=1, keepdim=True).sqrt()
    k = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(math.pi * (k[None, :] + 0.5) * k[:, None] / n) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix.to(device=device, dtype=dtype)


@constant_tensor(maxsize=32)
def _inverse_dct_matrix(n: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Transpose of :func:`_dct_matrix`, contiguous: batched products would copy one that is not."""
    return _dct_matrix(n, device, dtype).T.contiguous()


def _twiddle(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors that turn an FFT of length n into an orthonormal DCT, and their magnitudes, both (n,)."""
    n = x.shape[-1]
    k = torch.arange(n, dtype=x.dtype, device=x.device)
    scale = torch.full_like(k, math.sqrt(2 / n))
    scale[:1].fill_(math.sqrt(1 / n))  # scale[0] = ... copies from the host
    return torch.polar(scale, -math.pi * k / (2 * n)), scale


def _fft_dct(x: torch.Tensor) -> torch.Tensor:
    """DCT-II of the last dimension by one FFT of the same length (Makhoul, 1980)."""
    even, odd = x[..., ::2], x[..., 1::2].flip(-1)
    twiddle, _ = _twiddle(x)
    return (torch.fft.fft(torch.cat([even, odd], dim=-1)) * twiddle).real


def _fft_idct(X: torch.Tensor) -> torch.Tensor:
    """Inverse of :func:`_fft_dct`, by the same reordering."""
    n = X.shape[-1]
    twiddle, scale = _twiddle(X)
    unscaled = X / scale
    mirrored = torch.cat([torch.zeros_like(X[..., :1]), unscaled[..., 1:].flip(-1)], dim=-1)
    spectrum = torch.complex(unscaled, -mirrored) * (twiddle / scale).conj()
    v = torch.fft.ifft(spectrum).real
    x = torch.empty_like(v)
    half = (n + 1) // 2
    x[..., ::2], x[..., 1::2] = v[..., :half], v[..., half:].flip(-1)
    return x
