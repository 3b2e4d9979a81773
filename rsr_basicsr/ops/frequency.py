"""The discrete cosine transform and the geometry of its coefficients, as pure functions.

Everything here works on the last two dimensions of a tensor and on the full height and width: not on 8x8 blocks.
"""

from __future__ import annotations

import contextlib
import math

import torch

from rsr_basicsr.ops.caching import any_size, constant_tensor

# A product with the cached DCT matrix costs O(n) a value, an FFT O(log n) with a large constant: the matrix wins for
# patches, tiles and feature maps, the FFT for large images.
_LARGEST_MATRIX = 768


def dct2(x: torch.Tensor) -> torch.Tensor:
    """Orthonormal 2-D DCT-II over the last two dimensions (Yue et al. 2021).

    Computed in float32 whatever autocast says, in float64 for float64 input: half precision loses the small
    high-frequency coefficients the defence is about.

    Args:
        x: tensor of shape (..., H, W).

    Returns:
        Coefficients of shape (..., H, W), the DC coefficient at (0, 0); float64 for float64 input, else float32.
    """
    return _in_full_precision(_transform, x)


def idct2(X: torch.Tensor) -> torch.Tensor:
    """Inverse of :func:`dct2` (the orthonormal DCT-III), with the same shapes and precision."""
    return _in_full_precision(_inverse, X)


def filter_dct(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``idct2(dct2(x) * weight)``, with half of its temporary tensors.

    The map is symmetric, so that its gradient with respect to ``x`` is the same filter again. ``weight`` is a
    constant: no gradient flows into it.

    Args:
        x: tensor of shape (B, C, H, W).
        weight: factor of each coefficient, (B, 1, H, W) or (1, 1, H, W).

    Returns:
        The filtered tensor, (B, C, H, W), in the precision of :func:`dct2`.
    """
    if torch.compiler.is_compiling() or any_size():  # which plans the memory itself
        return idct2(dct2(x) * weight)
    return _in_full_precision(lambda full: _Filter.apply(full, weight.to(full.dtype)), x)


@constant_tensor(maxsize=16)
def dct_basis(n: int, device: torch.device = torch.device('cpu'), dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The basis images of the orthonormal DCT of blocks of n x n, (n * n, n, n), the constant one first.

    It is cached: do not write to it.
    """
    matrix = _dct_matrix(n, device, dtype)
    return torch.einsum('ia,jb->ijab', matrix, matrix).reshape(n * n, n, n)


@constant_tensor(maxsize=16)
def radial_distance(height: int, width: int, device: torch.device = torch.device('cpu')) -> torch.Tensor:
    """Index distance ``D(u, v) = sqrt(u^2 + v^2)`` of each DCT coefficient from the DC corner.

    Returns:
        float32 tensor of shape (height, width). It is cached: do not write to it.
    """
    rows = torch.arange(height, dtype=torch.float32, device=device)
    columns = torch.arange(width, dtype=torch.float32, device=device)
    if any_size():  # which no exporter has hypot for
        return (rows[:, None].square() + columns[None, :].square()).sqrt()
    return torch.hypot(rows[:, None], columns[None, :])


def log_spectrum(x: torch.Tensor, floor: float = 1e-6) -> torch.Tensor:
    """Logarithm of the magnitude of the channel-averaged DCT of an image (Yue et al. 2021).

    The gradient is that of the logarithm where a magnitude is above the floor, and zero where it is below.

    Args:
        x: images of shape (B, C, H, W).
        floor: magnitudes below it count as this one. What should be zero is rounding noise otherwise, whose logarithm
            depends on the precision, the size and the machine.

    Returns:
        Tensor of shape (B, H, W); float64 for float64 input, else float32.
    """
    return _in_full_precision(_channel_mean_dct, x).abs().clamp(min=floor).log()


def without_autocast(device: torch.device):
    """Context in which nothing is computed in half precision by autocast."""
    # The device meta has none, and refuses to be told to do without.
    nothing_to_do = device.type == 'meta' or any_size()
    return contextlib.nullcontext() if nothing_to_do else torch.autocast(device.type, enabled=False)


def _in_full_precision(function, x):
    with without_autocast(x.device):
        return function(x if x.dtype == torch.float64 else x.float())


def _transform(x):
    return _along_both_axes(x, _dct_matrix, _inverse_dct_matrix, _fft_dct)


def _inverse(X):
    return _along_both_axes(X, _inverse_dct_matrix, _dct_matrix, _fft_idct)


def _channel_mean_dct(x: torch.Tensor) -> torch.Tensor:
    """The mean over the channels of the DCT of each, (B, H, W), with less rounding noise than that mean has."""
    # Rounding the DC coefficient of a bright image leaks more than 1e-6 into all others. So a constant is taken out
    # before the transform and put back into that coefficient alone. The first pixel makes what is left of a flat image
    # exactly zero; the mean keeps the rest small where that pixel is unlike the others.
    first = x.detach()[:, :, :1, :1]
    grey = (x - first).mean(dim=1)
    mean = grey.detach().mean(dim=(-2, -1), keepdim=True)
    spectrum = _transform(grey - mean)
    at_dc = radial_distance(*x.shape[-2:], x.device) == 0
    return torch.where(at_dc, spectrum + (first.mean(dim=1) + mean) * _dc_of_ones(grey), spectrum)


def _dc_of_ones(x: torch.Tensor) -> torch.Tensor:
    """The DC coefficient of an image of ones of the size of ``x``, (B, H, W): a scalar."""
    if any_size():  # where the size is no number
        return torch.ones_like(x[:1]).sum().sqrt()
    return x.new_full((), math.sqrt(x.shape[-2] * x.shape[-1]))


def _along_both_axes(x, left, right, fast):
    """``left @ x @ right`` where the matrices are small, and what computes the same where they are not."""
    height, width = x.shape[-2:]
    if any_size():
        return _by_plain_products(x, left(height, x.device, x.dtype), right(width, x.device, x.dtype))
    x = x @ right(width, x.device, x.dtype) if width <= _LARGEST_MATRIX else fast(x)
    if height <= _LARGEST_MATRIX:
        return left(height, x.device, x.dtype) @ x
    return fast(x.transpose(-1, -2)).transpose(-1, -2)


def _by_plain_products(x, left, right):
    """``left @ x @ right`` of matrices of unknown size: older exporters take ``mm``, not the cases of ``@``."""
    height, width = x.shape[-2:]
    x = torch.mm(x.reshape(-1, width), right).view(x.shape).transpose(-1, -2)
    x = torch.mm(x.reshape(-1, height), left.T).view(x.shape)
    return x.transpose(-1, -2)


class _Filter(torch.autograd.Function):
    """The computation of :func:`filter_dct`."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(weight)
        if max(x.shape[-2:]) > _LARGEST_MATRIX:
            return _inverse(_transform(x).mul_(weight))
        return _filter_by_matrices(x, weight)

    @staticmethod
    def backward(ctx, gradient):
        with without_autocast(gradient.device):  # the backward pass may run inside it
            return _Filter.apply(gradient, *ctx.saved_tensors), None


def _filter_by_matrices(x, weight):
    """Four matrix products between two buffers: fresh memory would cost a third of the time."""
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
def _dct_matrix(n, device, dtype):
    """Orthonormal DCT-II matrix; row k holds the k-th cosine."""
    if any_size():
        k = torch.arange(n, device=device)
        period = 4 * k[-1:] + 4
        # Whole numbers up to the last step, which single precision then suffices for.
        matrix = torch.cos((2 * k[None, :] + 1) * k[:, None] % period * (2 * math.pi) / period).to(dtype)
        return matrix / matrix.square().sum(dim=1, keepdim=True).sqrt()
    k = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(math.pi * (k[None, :] + 0.5) * k[:, None] / n) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix.to(device=device, dtype=dtype)


@constant_tensor(maxsize=32)
def _inverse_dct_matrix(n, device, dtype):
    """Transpose of :func:`_dct_matrix`, contiguous: products of many small matrices copy one that is not."""
    return _dct_matrix(n, device, dtype).T.contiguous()


def _twiddle(x):
    """``exp(-i pi k / 2n) / sqrt(2n)`` with the orthonormal scale of the DC term, for an FFT of length n."""
    n = x.shape[-1]
    k = torch.arange(n, dtype=x.dtype, device=x.device)
    scale = torch.full_like(k, math.sqrt(2 / n))
    scale[0] = math.sqrt(1 / n)
    return torch.polar(scale, -math.pi * k / (2 * n)), scale


def _fft_dct(x):
    """DCT-II of the last dimension by one FFT of the same length (Makhoul, 1980)."""
    even, odd = x[..., ::2], x[..., 1::2].flip(-1)
    twiddle, _ = _twiddle(x)
    return (torch.fft.fft(torch.cat([even, odd], dim=-1)) * twiddle).real


def _fft_idct(X):
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
