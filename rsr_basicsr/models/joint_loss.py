"""The joint loss: the classifier's loss, added to the backward pass of a network's own training step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn


class ClassifierResult:
    """Logits, (B, 2), and loss of the classifier in one training step, detached; None until the network has run."""

    logits: torch.Tensor | None = None
    loss: torch.Tensor | None = None


@contextlib.contextmanager
def joint_loss(
    net: nn.Module,
    classifier: nn.Module,
    criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    labels: torch.Tensor,
    weight: float,
    trained: bool = True,
) -> Iterator[ClassifierResult]:
    """Add the classifier's loss to the backward pass from the network's output, within the block.

    The classifier sees the images that the network sees, at the network's first pass with gradients. Its loss has no
    gradient with respect to them, so an attack on the training loss sees the losses of the step alone.

    Args:
        net: the network, not wrapped.
        classifier: maps images, (B, 3, H, W), to logits, (B, 2).
        criterion: loss of logits and classes.
        labels: (B,) bool, True where the image is attacked.
        weight: factor of the classifier's loss.
        trained: whether the classifier gets a gradient; else its loss is only computed.
    """
    result, classes = ClassifierResult(), labels.long()  # class 1 is attacked

    def attach(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if result.loss is not None or not torch.is_grad_enabled():
            return None  # once per step, also for a trainer that calls the network twice
        with torch.set_grad_enabled(trained):
            logits = classifier(args[0].detach())
            loss = criterion(logits, classes)
        result.logits, result.loss = logits.detach(), loss.detach()
        if not trained:
            return None
        if isinstance(output, torch.Tensor):
            return _Attached.apply(output, weight * loss)
        parts = (*output[:-1], _Attached.apply(output[-1], weight * loss))
        return type(output)(*parts) if hasattr(output, '_fields') else parts

    handle = net.register_forward_hook(attach)
    try:
        yield result
    finally:
        handle.remove()


class _Attached(torch.autograd.Function):
    """Returns an image unchanged; when the image gets its gradient, a loss gets a gradient of 1."""

    @staticmethod
    def forward(ctx: Any, image: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        ctx.one = torch.ones_like(loss)
        return image.view_as(image)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return gradient, ctx.one
