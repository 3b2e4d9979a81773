"""The gradient of a model's own training loss with respect to its low-resolution images, without an update."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from basicsr.models.sr_model import SRModel
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map

from rsr_basicsr.attacks.problem import untouched
from rsr_basicsr.utils.errors import OptionsError


def gradient_of_step(
    model: SRModel, step: Callable[[], None], lq: torch.Tensor, precision: str = 'fp32'
) -> torch.Tensor:
    """Run a training step up to its first update, and return the gradient of its loss with respect to its input.

    The gradient is that of the sum of all losses of the step. Weights, buffers and optimizers are unchanged. Networks
    run without their DistributedDataParallel wrapper, so processes do not communicate.

    Args:
        model: the model; its step reads ``model.lq`` and calls ``optimizer.step()`` after the backward pass.
        step: the step, such as BasicSR's ``optimize_parameters``. It must train the generator first.
        lq: low-resolution images, (B, C, H, W), in place of ``model.lq``.
        precision: of the generator's forward pass, ``fp32`` or ``bf16``.

    Returns:
        The gradient, (B, C, H, W).

    Raises:
        OptionsError: the step has no loss that depends on ``model.lq``, or updates weights by other means.
    """
    leaf = lq.detach().requires_grad_()
    # A copy: leaves do not allow in-place operations, which some networks begin with.
    stand_ins: dict[str, Any] = {'lq': leaf.clone()}
    for name, value in vars(model).items():
        if isinstance(value, torch.optim.Optimizer):
            stand_ins[name] = _NoUpdate(value)
        elif isinstance(value, DistributedDataParallel):
            stand_ins[name] = value.module
    with contextlib.ExitStack() as stack:
        stack.enter_context(_replaced(model, stand_ins))
        for name, value in vars(model).items():
            if isinstance(value, nn.Module) and name.startswith('net_'):
                stack.enter_context(untouched(value))
        stack.enter_context(forward_in(precision, model.net_g))
        try:
            step()
        except _UpdateReached:
            pass
        else:
            raise OptionsError(
                'attack.objective: training_loss needs a trainer that updates its weights by '
                f'optimizer_g, {type(model).__name__} does not; write ground_truth_l1'
            )
    if leaf.grad is None:
        raise OptionsError(
            f'attack.objective: training_loss, but the first loss of {type(model).__name__} does not '
            'depend on lq; write ground_truth_l1'
        )
    return leaf.grad


def iteration_of_generator(train: Mapping[str, Any]) -> int:
    """An iteration in which a GAN trains its generator.

    Args:
        train: block ``train`` of the options, for ``net_d_iters`` and ``net_d_init_iters``.
    """
    return train.get('net_d_iters', 1) * (train.get('net_d_init_iters', 0) + 1)


class _UpdateReached(Exception):
    """A training step has reached its first update."""


class _NoUpdate:
    """Replaces an optimizer and ends the step where the weights would change."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)

    def zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """Keep the gradients: the classifier accumulates them over the steps of a batch."""

    def step(self, *args: Any, **kwargs: Any) -> None:
        raise _UpdateReached


@contextlib.contextmanager
def _replaced(model: SRModel, stand_ins: dict[str, Any]) -> Iterator[None]:
    """Replace attributes of a model within the block."""
    kept = {name: getattr(model, name) for name in stand_ins}
    vars(model).update(stand_ins)
    try:
        yield
    finally:
        vars(model).update(kept)


@contextlib.contextmanager
def forward_in(precision: str, net: nn.Module) -> Iterator[None]:
    """Run the forward pass of a network in a precision within the block; its outputs are float32."""
    if precision == 'fp32':
        yield
        return
    plain = net.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(args[0].device.type, torch.bfloat16):
            return tree_map(lambda output: output.float(), plain(*args, **kwargs))

    net.forward = forward
    try:
        yield
    finally:
        del net.forward
