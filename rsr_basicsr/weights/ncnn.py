"""Reads weights of the ncnn runtime: layers as text (``.param``), their numbers as one stream (``.bin``).

Only the layers of converted super-resolution networks are known. Any other layer is refused: skipping one with weights
would shift all later ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from rsr_basicsr.utils.errors import WeightsError

_MAGIC = '7767517'
_WEIGHTLESS = {'BinaryOp', 'Concat', 'Eltwise', 'Input', 'Interp', 'PixelShuffle', 'Split'}
_DTYPES = {0: '<f4', 0x01306B47: '<f2'}  # the tag in front of a convolution's weights


def read_state(param: str, stream: bytes, like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read weights as a state dict, float32.

    Args:
        param: text of the ``.param`` file.
        stream: content of the ``.bin`` file.
        like: a state dict of the network, for the keys, their order and the shapes.

    Raises:
        WeightsError: the stream does not fit the layers, or the layers do not fit ``like``.
    """
    tensors = read_tensors(param, stream)
    if len(tensors) != len(like):
        raise WeightsError(f'the ncnn file holds {len(tensors)} tensors where the network has {len(like)}')
    for tensor, (key, expected) in zip(tensors, like.items()):
        if tensor.shape != expected.shape:
            raise WeightsError(f'the ncnn file has {tuple(tensor.shape)} where {key} is {tuple(expected.shape)}')
    return dict(zip(like, tensors))


def read_tensors(param: str, stream: bytes) -> list[torch.Tensor]:
    """All tensors, float32, in the order of the layers: weight (out, in, h, w), bias (out,), slopes (n,).

    Raises:
        WeightsError: an unknown or malformed layer, or a stream that is shorter or longer than the layers say.
    """
    try:
        return _read_tensors(param, stream)
    except (LookupError, ValueError, ArithmeticError) as error:
        raise WeightsError(f'the layers of the ncnn file cannot be understood ({error!r})') from error


def _read_tensors(param: str, stream: bytes) -> list[torch.Tensor]:
    cursor = _Cursor(stream)
    tensors = []
    for kind, options in _layers(param):
        if kind == 'Convolution':
            tensors += _convolution(options, cursor)
        elif kind == 'PReLU':
            tensors.append(cursor.take('<f4', options['0']))
        elif kind not in _WEIGHTLESS:
            raise WeightsError(f'the ncnn file has a layer of type {kind}, which is not known')
    if cursor.left:
        raise WeightsError(f'the ncnn file has {cursor.left} bytes more than its layers need')
    return tensors


def _layers(param: str) -> Iterator[tuple[str, dict[str, int]]]:
    """Type and whole-number options of each layer; a line reads ``Type name n_in n_out ins.. outs.. key=value..``."""
    magic, counts, *lines = param.strip().splitlines()
    if magic.strip() != _MAGIC or int(counts.split()[0]) != len(lines):
        raise WeightsError(f'the ncnn file does not start with {_MAGIC} and the number of its layers')
    for line in lines:
        kind, _, n_in, n_out, *rest = line.split()
        pairs = (word.split('=') for word in rest[int(n_in) + int(n_out) :])
        yield kind, {key: int(value) for key, value in pairs if value.isdigit()}


def _convolution(options: Mapping[str, int], cursor: _Cursor) -> list[torch.Tensor]:
    out, width, count = options['0'], options['1'], options['6']
    height = options.get('11', width)
    tag = int.from_bytes(cursor.raw(4), 'little')
    if tag not in _DTYPES:
        raise WeightsError(f'the ncnn file has weights of the unknown kind {tag:#010x}; only fp16 and fp32 are known')
    weight = cursor.take(_DTYPES[tag], count)
    if count % (out * height * width):
        raise WeightsError(f'the ncnn file has {count} weights, which make no {out} kernels of {height}x{width}')
    bias = [cursor.take('<f4', out)] if options.get('5') else []
    return [weight.reshape(out, -1, height, width), *bias]


class _Cursor:
    """Takes numbers off the front of a stream."""

    def __init__(self, stream: bytes) -> None:
        self._stream = stream
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes not yet taken."""
        return len(self._stream) - self._at

    def raw(self, size: int) -> bytes:
        """The next ``size`` bytes; skips the padding to a multiple of 4."""
        padded = size + -size % 4
        if padded > self.left:
            raise WeightsError(f'the ncnn file ends {padded - self.left} bytes early')
        chunk = self._stream[self._at : self._at + size]
        self._at += padded
        return chunk

    def take(self, dtype: str, count: int) -> torch.Tensor:
        """The next ``count`` numbers of a NumPy ``dtype``, as float32 (count,)."""
        numbers = np.frombuffer(self.raw(count * np.dtype(dtype).itemsize), dtype)
        return torch.from_numpy(numbers.astype(np.float32))
