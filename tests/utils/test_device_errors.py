"""Errors of memory and of the GPU are told from others, by the messages of the libraries that raise them."""

import weakref

import cv2
import numpy as np
import pytest
import torch

from rsr_basicsr.utils import device_errors
from rsr_basicsr.utils.device_errors import device_lost, out_of_memory, release, stop_if_lost, within_memory
from rsr_basicsr.utils.errors import DeviceError, ImageError

ADVICE = (
    '\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be '
    'incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\n'
)
ACCELERATOR = getattr(torch, 'AcceleratorError', RuntimeError)  # since PyTorch 2.8
MEMORY = [
    torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 8.00 GiB'),
    ACCELERATOR(f'CUDA error: out of memory{ADVICE}'),
    RuntimeError('cuFFT error: CUFFT_ALLOC_FAILED'),
    RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`'),
    RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED'),
    RuntimeError("CUDA ran out of memory outside PyTorch's allocator."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        'allocate 41085799096320 bytes. Error code 12 (Cannot allocate memory)'
    ),
    RuntimeError('[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: not enough memory: you tried to'),
    MemoryError(),
    cv2.error('OpenCV(5.0.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 90 bytes'),
    OSError(12, 'Cannot allocate memory'),
]
LOST = [
    ACCELERATOR(f'CUDA error: device-side assert triggered{ADVICE}'),
    RuntimeError(f'CUDA error: an illegal memory access was encountered{ADVICE}'),
    RuntimeError('CUDA error: unspecified launch failure'),
    RuntimeError('CUDA error: uncorrectable ECC error encountered'),
]
NEITHER = [
    RuntimeError('The size of tensor a (3) must match the size of tensor b (4)'),
    ValueError('the output of the network is not a number'),
    RuntimeError('cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous'),
    ACCELERATOR(f'CUDA error: invalid configuration argument{ADVICE}'),
    FileNotFoundError(2, 'No such file or directory', 'out of memory.png'),
    ImageError('CUDA error: misaligned address.png: no such file'),
]


@pytest.mark.parametrize('error', [*MEMORY, *LOST, *NEITHER], ids=lambda error: str(error)[:40])
def test_kinds_of_errors(error):
    assert out_of_memory(error) == (error in MEMORY)
    assert device_lost(error) == (error in LOST)


@pytest.mark.parametrize('allocate', [lambda: torch.empty(2**50), lambda: np.empty(2**60, np.uint8)])
def test_real_allocations(allocate):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    assert out_of_memory(caught.value) and not device_lost(caught.value)


def test_scarce_memory_decides_on_vague_errors(monkeypatch):
    vague = RuntimeError('GET was unable to find an engine to execute this computation')
    assert not out_of_memory(vague)
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'memory_reserved', lambda index: index)  # the second one is in use
    for free, expected in ((2**33, False), (2**28, True)):
        monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda index, free=free: (free if index else 0, 2**34))
        assert out_of_memory(vague) == expected


def test_a_gpu_that_does_not_answer_is_lost(monkeypatch):
    error = RuntimeError('cuDNN error: CUDNN_STATUS_EXECUTION_FAILED')
    assert not device_lost(error)
    monkeypatch.setattr(device_errors, '_answers', lambda: False)
    assert device_lost(error)


def test_lost_gpu_stops_in_one_sentence():
    with pytest.raises(DeviceError) as caught:
        stop_if_lost(LOST[0])
    assert str(caught.value).startswith('the GPU has failed (CUDA error: device-side assert triggered) and cannot be')
    assert '\n' not in str(caught.value)
    stop_if_lost(MEMORY[1])


def test_failed_computation_holds_no_memory():
    held = []

    def compute():
        large = torch.zeros(1000)
        held.append(weakref.ref(large))
        return large + torch.empty(2**50)

    expected = pytest.raises(ImageError, match=r'^out of memory on a\.png; cut it$')
    with expected as caught, within_memory('a.png', 'cut it'):
        compute()
    assert held[0]() is None and caught.value.__context__ is not None


def test_other_errors_pass():
    with pytest.raises(ValueError, match='wrong'), within_memory('a.png', 'cut it'):
        raise ValueError('wrong')


def test_release_frees_what_the_causes_hold():
    class Large:
        pass

    held = []

    def compute():
        large = Large()
        held.append(weakref.ref(large))
        raise RuntimeError('CUDA out of memory')

    def attempt():
        try:
            compute()
        except RuntimeError as error:
            raise ValueError('the image failed') from error

    try:
        attempt()
    except ValueError as error:
        assert held[0]() is not None
        release(error)
        assert held[0]() is None


def test_failed_gpu_stops_a_run_that_goes_on_after_errors():
    with pytest.raises(DeviceError, match='leave it out'):
        stop_if_lost(DeviceError('cuda_graph: true, but Net cannot be recorded; leave it out'))
