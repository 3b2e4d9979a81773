"""Shared by the benchmark scripts: one pass of an attack, made in several ways, and a count of operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from rsr_basicsr.attacks import PGD
from rsr_basicsr.attacks.graph import GraphedPasses
from rsr_basicsr.attacks.half import weights_in_bf16
from rsr_basicsr.attacks.memory import MemorySaving
from rsr_basicsr.attacks.problem import Problem


def plain_pass(net: nn.Module, lq: torch.Tensor, target: torch.Tensor) -> Callable[[], Any]:
    """Forward pass and gradient of the input by plain autograd, with frozen parameters."""

    def run() -> None:
        x = lq.clone().requires_grad_()
        torch.autograd.grad((net(x) - target).square().sum(), x)

    return run


def attack_pass(
    net: nn.Module,
    lq: torch.Tensor,
    target: torch.Tensor,
    precision: str = 'fp32',
    saves_memory: bool = False,
    casts_once: bool = True,
    graph: bool = False,
) -> Callable[[], Any]:
    """The gradient of a step of PGD.

    Args:
        net: its parameters require no gradient.
        lq: images, (B, 3, H, W).
        target: what outputs are compared with.
        precision: ``fp32`` or ``bf16``.
        saves_memory: by a Python call per convolution, as on CPUs, instead of plain autograd.
        casts_once: in bf16, cast the weights once for two passes, not in each.
        graph: as a recorded CUDA graph.
    """
    problem = Problem(PGD(precision=precision), net, lq, torch.tensor(8 / 255, device=lq.device))
    problem.network = MemorySaving(net) if saves_memory else net
    problem.graphed = GraphedPasses(net, problem.half) if graph else None
    problem.refer_to(target)
    if precision == 'fp32' or not casts_once:
        return lambda: [problem.uphill(lq) for _ in range(2)]

    def run() -> None:
        with weights_in_bf16(net):
            for _ in range(2):
                problem.uphill(lq)

    return run


def operations(function: Callable[[], object]) -> int:
    """The number of operations of a call that compute something."""
    with _Operations() as counter:
        function()
    return counter.count


class _Operations(TorchDispatchMode):
    """Counts operations, without those that only view a tensor differently."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))
