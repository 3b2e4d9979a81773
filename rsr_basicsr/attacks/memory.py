"""Convolutions that keep nothing of their input for the way back."""

from __future__ import annotations

import contextlib
import numbers

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class InputGradientOnly(TorchFunctionMode):
    """Within the block 2-D convolutions by weights that ask for no gradient forget their input.

    The gradient of the input needs the weights alone, but autograd keeps the input all the same, in case the weights
    asked for theirs (Bhatia and Dangel 2024). In RRDBNet, which concatenates what it has before each convolution,
    these inputs are three quarters of what is kept. The results are the same.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.conv2d, F.conv2d) and _forgets(*args, **kwargs):
            return _conv2d(*args, **kwargs)
        return func(*args, **kwargs)


def _forgets(input, weight, bias=None, stride=1, padding=0, *args, **kwargs):
    return (
        torch.is_grad_enabled()
        and input.requires_grad
        and not weight.requires_grad
        and not isinstance(padding, str)
        and not (bias is not None and bias.requires_grad)
        and input.dim() == 4
        and not weight.is_complex()
    )


def _conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return _Convolution.apply(input, weight, bias, *map(_pair, (stride, padding, dilation)), groups)


class _Convolution(torch.autograd.Function):
    """The convolution, with a gradient of the input only."""

    @staticmethod
    def forward(ctx, input, weight, bias, stride, padding, dilation, groups):
        output = F.conv2d(input, weight, bias, stride, padding, dilation, groups)
        # One number in the shape of the input: checkpointing, which may run the convolution a second time outside of
        # the block, then meets tensors of the same number and shape.
        ctx.save_for_backward(input.new_zeros(1).expand(input.shape), weight)
        ctx.settings, ctx.layout, ctx.groups = (stride, padding, dilation), _memory_format(input), groups
        return output

    @staticmethod
    def backward(ctx, gradient):
        input, weight = ctx.saved_tensors
        # Of the input only size and layout are looked at. Under autocast the convolution ran in a lower precision.
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


def _pair(value):
    return (int(value),) * 2 if isinstance(value, numbers.Integral) else tuple(value) * (2 if len(value) == 1 else 1)


def _memory_format(x):
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


class Sparing(nn.Module):
    """A network whose passes are :class:`InputGradientOnly`.

    The block is around each pass, not around the whole attack: tiles pass once more on the way back, which may be
    another thread.
    """

    def __init__(self, module):
        super().__init__()
        self.module = module
        modules = module.modules() if isinstance(module, nn.Module) else ()
        # What torch.compile makes plans its memory itself.
        self.compiled = any(hasattr(part, '_orig_mod') for part in modules)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with contextlib.nullcontext() if self.compiled else InputGradientOnly():
            return self.module(x)
