"""``attack_batch``: the attack of a training step as a function, for trainers that are not BasicSR's."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from rsr_basicsr.attacks import build_attack
from rsr_basicsr.options.attack_blocks import AttackOptions
from rsr_basicsr.options.parsing import parse_block, typed
from rsr_basicsr.utils.errors import OptionsError

#: Values of the block that need a trainer around the step
_OF_TRAINERS = {'objective': 'training_loss', 'mode': 'alternating', 'warm_start': True}


class AttackedBatch(NamedTuple):
    """A batch to train on.

    Args:
        lq: clean and attacked images, (N, C, H, W) in [0, 1].
        gt: what their outputs are compared with, (N, C, sH, sW).
        attacked: (N,) bool, which of them are attacked.
    """

    lq: torch.Tensor
    gt: torch.Tensor
    attacked: torch.Tensor


def attack_batch(
    net: nn.Module, lq: torch.Tensor, gt: torch.Tensor, options: Mapping[str, Any], iteration: int | None = None
) -> AttackedBatch:
    """Attack a batch of a training, for any loop: call it before the forward pass of the step.

    Gradients of parameters, and whether they require any, stay as they are. A defended network decides itself on
    masking.

    Args:
        net: maps images (B, C, H, W) in [0, 1] to (B, C, sH, sW); may be wrapped for several devices.
        lq: low-resolution images, (B, C, H, W) in [0, 1].
        gt: the ground truth, (B, C, sH, sW).
        options: the block ``attack`` of an options file, docs/options.md: ``type``, ``eps`` in 1/255, ``mode``
            (``paired`` returns each image clean and attacked, ``mixed`` a share of the batch attacked),
            ``attacked_target``, ``warmup``, ``every``, and what the attack takes.
        iteration: of the training, for ``warmup`` and ``every``, which do nothing without it.

    Raises:
        OptionsError: the block is wrong, or needs BasicSR's trainer: ``mode: alternating``, ``objective:
            training_loss``, ``warm_start``.

    Examples:
        >>> net = nn.Upsample(scale_factor=2, mode='bicubic')
        >>> lq, gt = torch.rand(4, 3, 16, 16), torch.rand(4, 3, 32, 32)
        >>> batch = attack_batch(net, lq, gt, {'type': 'PGD', 'eps': [1, 8], 'steps': 2})
        >>> batch.lq.shape, batch.attacked.sum()
        (torch.Size([8, 3, 16, 16]), tensor(4))
    """
    schedule = _parsed(options)
    size = len(lq)
    clean = torch.zeros(size, dtype=torch.bool, device=lq.device)
    if iteration is not None and iteration % schedule.every:
        return AttackedBatch(lq, gt, clean)
    chosen = torch.arange(size, device=lq.device)
    if schedule.mode == 'mixed':
        chosen = torch.randperm(size, device=lq.device)[: rounded_at_random(schedule.share * size)]
    if not len(chosen):
        return AttackedBatch(lq, gt, clean)
    bare = net.module if isinstance(net, (DataParallel, DistributedDataParallel)) else net
    attacked, target = _attacked(bare, lq[chosen], gt[chosen], schedule, iteration)
    if schedule.mode == 'paired':
        return AttackedBatch(torch.cat([lq, attacked]), torch.cat([gt, target]), torch.cat([clean, ~clean]))
    return AttackedBatch(
        lq.index_copy(0, chosen, attacked), gt.index_copy(0, chosen, target), clean.index_fill(0, chosen, True)
    )


def _attacked(
    net: nn.Module, lq: torch.Tensor, gt: torch.Tensor, schedule: AttackOptions, iteration: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The attacked images, and what their outputs are compared with."""
    attack = build_attack(schedule.arguments)
    output = gt
    if schedule.attacked_target == 'clean_output' or not attack.objective.needs_ground_truth:
        with torch.no_grad():
            output = net(lq)
    reference = gt if attack.objective.needs_ground_truth else output
    attacked = attack.perturb(net, lq, reference, eps=radii(schedule, lq, iteration))
    return attacked, output if schedule.attacked_target == 'clean_output' else gt


def _parsed(options: Mapping[str, Any]) -> AttackOptions:
    schedule = typed(AttackOptions, parse_block(options, AttackOptions, 'attack'))
    for name, value in _OF_TRAINERS.items():
        if getattr(schedule, name) == value:
            raise OptionsError(f'attack.{name}: {str(value).lower()} needs a trainer of BasicSR; write another value')
    return schedule


def radii(schedule: AttackOptions, lq: torch.Tensor, iteration: int | None) -> torch.Tensor:
    """Radius of each sample's ball in 1/255, (B,).

    Args:
        schedule: its range, and over how many iterations it rises.
        lq: the images.
        iteration: of the training; None is beyond the rise.
    """
    low, high = schedule.eps_range
    eps = torch.full((len(lq),), float(low), device=lq.device)
    if high > low:
        eps = eps + (high - low) * torch.rand(len(lq), device=lq.device)
    if iteration is not None and iteration < schedule.warmup:
        eps = eps * (iteration / schedule.warmup)
    return eps


def rounded_at_random(number: float) -> int:
    """The integer below or above, at random, with ``number`` as the mean."""
    return int(number + random.random())
