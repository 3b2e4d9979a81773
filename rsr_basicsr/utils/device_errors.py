"""Errors of memory, after which the next image can go on, and of a GPU that this process has lost."""

from __future__ import annotations

import contextlib
import re
import sys
import traceback
from collections.abc import Iterator

from rsr_basicsr.utils.errors import DeviceError, ImageError, RSRError, in_one_line

# By their texts: only PyTorch's allocator for GPUs and Python have a class for it. The others are RuntimeErrors of
# PyTorch's allocator for CPUs (Linux, Windows), cuFFT, cuBLAS, cuSOLVER, the driver, and cv2.error.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|insufficient memory|_ALLOC_FAILED|"
    r'CUFFT_NO_WORKSPACE',
    re.IGNORECASE,
)
# What the libraries say without memory, but for other reasons too (PyTorch, issues 44473, 81620, 108645 and 119420).
_PERHAPS = re.compile(
    r'CUDNN_STATUS_(NOT_SUPPORTED|INTERNAL_ERROR)|CUFFT_INTERNAL_ERROR|CUBLAS_STATUS_NOT_INITIALIZED|'
    r'unable to find an engine|unable to find a valid cuDNN algorithm',
    re.IGNORECASE,
)
_SCARCE = 0.1  # share of a GPU's memory
# cudaGetErrorString of the errors behind which every further call fails, until the process ends.
_LOST = re.compile(
    r'device-side assert triggered|an illegal memory access was encountered|an illegal instruction was encountered|'
    r'unspecified launch failure|the launch timed out and was terminated|misaligned address|hardware stack error|'
    r'operation not supported on global/shared address space|invalid program counter|uncorrectable (ECC|NVLink) error|'
    r'tensor memory not completely freed|MPS client has been terminated'
)
_OF_GPU = re.compile(r'(CUDA|HIP|cuDNN|cuFFT) error')


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: main memory, or that of a GPU."""
    text = _text(error)
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(text):
        return True
    return bool(_PERHAPS.search(text)) and _is_scarce()


def device_lost(error: BaseException) -> bool:
    """Whether an error says that this process cannot use its GPU any more: everything that follows would fail too."""
    text = _text(error)
    if not _OF_GPU.search(text) or out_of_memory(error):
        return False
    return bool(_LOST.search(text)) or not _answers()


def stop_if_lost(error: BaseException) -> None:
    """Stop a run whose next images would all fail.

    Raises:
        DeviceError: the error is one already, or one of :func:`device_lost`.
    """
    if isinstance(error, DeviceError):
        raise error
    if device_lost(error):
        first = str(error).strip().splitlines()[0]  # PyTorch's advice for its developers follows
        raise DeviceError(
            f'the GPU has failed ({first}) and cannot be used by this process any more; run the same command again, '
            'what is finished is kept'
        ) from error


def release(error: BaseException) -> None:
    """Free the memory that a failed computation holds: its tensors live as long as the error and its traceback."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        traceback.clear_frames(following.__traceback__)
        chain.append(following)
        following = following.__cause__ or following.__context__
    torch = sys.modules.get('torch')
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def within_memory(what: str, remedy: str) -> Iterator[None]:
    """Turn running out of memory within the block into one sentence; other errors pass.

    Args:
        what: what did not fit, with the subject: ``a.png, 400x300 pixels``.
        remedy: what the user can do.

    Raises:
        ImageError: memory ran out. What the computation held is freed, so that the next image can go on.
        DeviceError: the GPU is lost.
    """
    try:
        yield
    except Exception as error:
        stop_if_lost(error)
        if not out_of_memory(error):
            raise
        release(error)
        raise ImageError(f'out of memory on {what}; {remedy}') from None


def sentence_of_machine(error: BaseException, remedy: str) -> str | None:
    """One sentence for an error of memory or of the GPU, for a whole command; None for other errors.

    Args:
        error: any.
        remedy: against too little memory.
    """
    try:
        stop_if_lost(error)
    except DeviceError as lost:
        return str(lost)
    if not out_of_memory(error):
        return None
    found = '' if isinstance(error, MemoryError) else f' ({_brief(error)})'
    return f'out of memory{found}; {remedy}'


def _text(error: BaseException) -> str:
    """The message of an error, without names of files; empty for one that is a sentence already."""
    if isinstance(error, RSRError):
        return ''
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _brief(error: BaseException) -> str:
    """The part of a message that names what was asked for, without statistics and advice."""
    text = in_one_line(error)
    found = re.search(r'[Tt]ried to allocate [\d.]+ (bytes|[KMGT]iB)|[A-Z]+_[A-Z_]+', text)
    return found[0] if found else text[:100]


def _is_scarce() -> bool:
    """Whether a GPU that is in use has hardly any memory left for libraries, which do not use PyTorch's cache."""
    import torch

    if not torch.cuda.is_initialized():
        return False
    for index in range(torch.cuda.device_count()):
        if torch.cuda.memory_reserved(index):
            free, total = torch.cuda.mem_get_info(index)
            if free < _SCARCE * total:
                return True
    return False


def _answers() -> bool:
    """Whether the current GPU still works; also true if none is in use."""
    import torch

    try:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
    except Exception:  # a failed GPU returns its error from every call
        return False
    return True
