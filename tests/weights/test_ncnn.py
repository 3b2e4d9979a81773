"""Weights converted from ncnn to the last byte."""

import struct

import pytest
import torch

from rsr_basicsr.utils.errors import WeightsError
from rsr_basicsr.weights import ncnn

FP16, FP32 = struct.pack('<I', 0x01306B47), struct.pack('<I', 0)


def param(*layers):
    return '\n'.join(['7767517', f'{len(layers)} {len(layers)}', *layers]) + '\n'


def test_ncnn_tensors():
    text = param(
        'Input            in       0 1 data',
        'Split            split    1 2 data data_0 data_1',
        'Convolution      c0       1 1 data_0 1 0=1 1=3 4=1 5=1 6=9 9=2 -23310=1,2.000000e-01',
        'PReLU            p0       1 1 1 2 0=2',
        'Convolution      c1       1 1 2 3 0=2 1=1 5=1 6=6',
        'Convolution      c2       1 1 3 4 0=1 1=3 11=2 5=0 6=6',
        'BinaryOp         add      2 1 4 data_1 out',
    )
    stream = (
        FP16
        + struct.pack('<9e', *range(9))
        + b'\xff\xff'
        + struct.pack('<f', 0.1)  # nine halves: two bytes padding
        + struct.pack('<2f', 0.25, -1)
        + FP32
        + struct.pack('<6f', *range(6))
        + struct.pack('<2f', 7, 8)
        + FP16
        + struct.pack('<6e', *range(6))
    )
    tensors = ncnn.read_tensors(text, stream)
    expected = [
        torch.arange(9.0).reshape(1, 1, 3, 3),
        torch.tensor([0.1]),
        torch.tensor([0.25, -1]),
        torch.arange(6.0).reshape(2, 3, 1, 1),
        torch.tensor([7.0, 8.0]),
        torch.arange(6.0).reshape(1, 1, 2, 3),
    ]
    assert len(tensors) == len(expected)
    for tensor, wanted in zip(tensors, expected):
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, wanted)


ONE_CONVOLUTION = param('Convolution c 1 1 a b 0=1 1=1 5=1 6=1')


@pytest.mark.parametrize(
    'text, stream, reason',
    [
        (ONE_CONVOLUTION, FP32 + bytes(12), '4 bytes more'),
        (ONE_CONVOLUTION, FP32 + bytes(9), '1 bytes more'),
        (ONE_CONVOLUTION, FP32 + bytes(7), 'ends 1 bytes early'),
        (ONE_CONVOLUTION, b'', 'early'),
        (ONE_CONVOLUTION, struct.pack('<I', 0x000D4B38) + bytes(8), 'unknown kind 0x000d4b38'),
        (param('Convolution c 1 1 a b 0=2 1=3 5=0 6=9'), FP32 + bytes(36), 'make no 2 kernels of 3x3'),
        (param('PReLU p 1 1 a b 0=2'), bytes(4), 'early'),
        (param('InnerProduct i 1 1 a b 0=1 1=1 2=1'), FP32 + bytes(8), 'InnerProduct'),
        (ONE_CONVOLUTION.replace('7767517', '7767516'), FP32 + bytes(8), 'does not start'),
        (ONE_CONVOLUTION.replace('1 1\n', '2 2\n', 1), FP32 + bytes(8), 'does not start'),
        ('', b'', 'cannot be understood'),
        (param('Convolution'), FP32 + bytes(8), 'cannot be understood'),
        (param('Convolution c 1 1 a b 1=1 5=1 6=1'), FP32 + bytes(8), 'cannot be understood'),
        (param('Convolution c 1 1 a b 0=0 1=1 6=1'), FP32 + bytes(4), 'cannot be understood'),
    ],
)
def test_ncnn_refuses(text, stream, reason):
    with pytest.raises(WeightsError, match=reason):
        ncnn.read_tensors(text, stream)


def test_ncnn_state_follows_the_network():
    stream = FP32 + struct.pack('<2f', 3, 4)
    state = ncnn.read_state(ONE_CONVOLUTION, stream, torch.nn.Conv2d(1, 1, 1).state_dict())
    assert {k: v.flatten().tolist() for k, v in state.items()} == {'weight': [3.0], 'bias': [4.0]}
    with pytest.raises(WeightsError, match=r'weight is \(1, 2, 1, 1\)'):
        ncnn.read_state(ONE_CONVOLUTION, stream, torch.nn.Conv2d(2, 1, 1).state_dict())
    with pytest.raises(WeightsError, match='2 tensors where the network has 1'):
        ncnn.read_state(ONE_CONVOLUTION, stream, torch.nn.Conv2d(1, 1, 1, bias=False).state_dict())
