"""The discrete cosine transform and the geometry of its coefficients, as pure functions.

Everything here works on the last two dimensions of a tensor and on the full height and width: not on 8x8 blocks.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch

# A product with the cached DCT matrix costs O(n) a value, an FFT O(log n) with a large constant: the matrix wins for
# patches, tiles and feature maps, the FFT for large pictures.
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
    return _along_both_axes(x, _dct_matrix, _fft_dct)


def idct2(X: torch.Tensor) -> torch.Tensor:
    """Inverse of :func:`dct2` (the orthonormal DCT-III), with the same shapes and precision."""
    return _along_both_axes(X, lambda *key: _dct_matrix(*key).T, _fft_idct)


@lru_cache(maxsize=64)
def radial_distance(height: int, width: int, device: torch.device = torch.device('cpu')) -> torch.Tensor:
    """Index distance ``D(u, v) = sqrt(u^2 + v^2)`` of each DCT coefficient from the DC corner.

    Returns:
        float32 tensor of shape (height, width). It is cached: do not write to it.
    """
    with torch.inference_mode(False):
        rows = torch.arange(height, dtype=torch.float32, device=device)
        columns = torch.arange(width, dtype=torch.float32, device=device)
        return torch.hypot(rows[:, None], columns[None, :])


def log_spectrum(x: torch.Tensor, floor: float = 1e-6) -> torch.Tensor:
    """Logarithm of the magnitude of the channel-averaged DCT of a picture (Yue et al. 2021).

    Args:
        x: pictures of shape (B, C, H, W).
        floor: what stands in for a coefficient that is exactly zero.

    Returns:
        float32 tensor of shape (B, H, W).
    """
    magnitude = dct2(x).mean(dim=1).abs()
    return torch.where(magnitude == 0, torch.full_like(magnitude, floor), magnitude).log()


def _along_both_axes(x, matrix, fast):
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(dtype)
        height, width = x.shape[-2:]
        x = x @ matrix(width, x.device, dtype).T if width <= _LARGEST_MATRIX else fast(x)
        if height <= _LARGEST_MATRIX:
            return matrix(height, x.device, dtype) @ x
        return fast(x.transpose(-1, -2)).transpose(-1, -2)


@lru_cache(maxsize=64)
def _dct_matrix(n, device, dtype):
    """Orthonormal DCT-II matrix; row k holds the k-th cosine."""
    # A tensor made under inference_mode could never be used in training again, so the cache must not hold one.
    with torch.inference_mode(False):
        k = torch.arange(n, dtype=torch.float64)
        matrix = torch.cos(math.pi * (k[None, :] + 0.5) * k[:, None] / n) * math.sqrt(2 / n)
        matrix[0] /= math.sqrt(2)
        return matrix.to(device=device, dtype=dtype)


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
