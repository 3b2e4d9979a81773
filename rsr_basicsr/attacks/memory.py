"""Convolutions that do not keep their input for the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from rsr_basicsr.ops.memory_format import memory_format

Sizes = int | Sequence[int]


class InputGradientOnly(TorchFunctionMode):
    """Within the block, 2-D convolutions with frozen weights do not keep their input for the backward pass.

    The gradient with respect to the input needs the weights only, but autograd keeps the input anyway, in case the
    weights need theirs (Bhatia and Dangel 2024). In RRDBNet, which concatenates features before each convolution,
    these inputs are three quarters of what is kept. The results are the same.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.conv2d, F.conv2d) and _needs_no_input(*args, **kwargs):
            return _conv2d(*args, **kwargs)
        return func(*args, **kwargs)


def _needs_no_input(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Sizes = 1,
    padding: str | Sizes = 0,
    *args: Any,
    **kwargs: Any,
) -> bool:
    return (
        torch.is_grad_enabled()
        and input.requires_grad
        and not weight.requires_grad
        and not isinstance(padding, str)
        and not (bias is not None and bias.requires_grad)
        and input.dim() == 4
        and not weight.is_complex()
    )


def _conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> torch.Tensor:
    return _Convolution.apply(input, weight, bias, *map(_pair, (stride, padding, dilation)), groups)


class _Convolution(torch.autograd.Function):
    """The convolution, with a gradient with respect to the input only."""

    @staticmethod
    def forward(
        ctx: Any,
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
    ) -> torch.Tensor:
        output = F.conv2d(input, weight, bias, stride, padding, dilation, groups)
        # One number, expanded to the shape of the input: checkpointing may run the convolution a second time outside
        # the block, and then expects saved tensors of the same number and shape.
        ctx.save_for_backward(input.new_empty(1).expand(input.shape), weight)
        ctx.settings, ctx.layout, ctx.groups = (stride, padding, dilation), memory_format(input), groups
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        input, weight = ctx.saved_tensors
        # Only size and layout of the input count here. Under autocast the convolution ran in a lower precision.
        stand_in = torch.empty(input.shape, dtype=gradient.dtype, device=gradient.device, memory_format=ctx.layout)
        result = torch.ops.aten.convolution_backward(
            gradient,
            stand_in,
            weight.to(gradient.dtype),
            None,
            *ctx.settings,
            False,
            (0, 0),
            ctx.groups,
            (True, False, False),
        )[0]
        return result.to(input.dtype), None, None, None, None, None, None


def _pair(value: Sizes) -> tuple[int, ...]:
    if isinstance(value, Sequence):
        return tuple(value) * (2 if len(value) == 1 else 1)
    return (int(value),) * 2


def is_compiled(module: nn.Module) -> bool:
    """Whether a network, or a part of it, is compiled by torch.compile."""
    parts = module.modules() if isinstance(module, nn.Module) else ()
    return any(hasattr(part, '_orig_mod') or getattr(part, 'compiled_pass', None) is not None for part in parts)


class MemorySaving(nn.Module):
    """A network whose passes run inside :class:`InputGradientOnly`.

    The block encloses each pass, not the whole attack: tiles are computed again in the backward pass, possibly in
    another thread.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.compiled = is_compiled(module)  # torch.compile plans the memory of its networks itself

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with contextlib.nullcontext() if self.compiled else InputGradientOnly():
            return self.module(x)
