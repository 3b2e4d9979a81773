"""Attacks on images that may be too large for a GPU."""

from __future__ import annotations

import logging

import torch
from torch import nn

from rsr_basicsr.attacks.base import Attack
from rsr_basicsr.attacks.graph import forget_recordings
from rsr_basicsr.ops.random_streams import random_state, set_random_state
from rsr_basicsr.utils.device_errors import out_of_memory, release

_SHARE = 0.8  # of the free memory, for the activations of a pass
_logger = logging.getLogger('basicsr')  # where the log of a training is


def attack_that_fits(
    attack: Attack, model: nn.Module, lq: torch.Tensor, target: torch.Tensor | None = None
) -> torch.Tensor:
    """Attack images whole, or in tiles of what is free if a GPU runs out of memory.

    Args:
        attack: the attack; one that has ``tile`` or ``memory`` keeps to that.
        model: maps (B, C, H, W) to (B, C, sH, sW).
        lq: the images, (B, C, H, W) in [0, 1].
        target: as in the call of an attack.

    Returns:
        The attacked images, (B, C, H, W).
    """
    before = random_state()
    try:
        return attack(model, lq, target)
    except Exception as error:
        if not (out_of_memory(error) and _can_be_tiled(attack)):
            raise
        forget_recordings()
        release(error)  # what they have kept
        free = free_bytes(lq.device)
        if free is None:
            raise
    set_random_state(before)
    gib = _SHARE * free / 2**30
    _logger.warning(
        f'{type(attack).__name__}: an image of {lq.shape[-1]}x{lq.shape[-2]} does not fit into the GPU whole; it is '
        f'attacked in tiles, as with memory: {gib:.2g}'
    )
    return attack.but(memory=gib, cuda_graph=False)(model, lq, target)


def _can_be_tiled(attack: Attack) -> bool:
    return 'memory' in attack.parameters() and attack.tile is None and attack.memory is None


def free_bytes(device: torch.device) -> int | None:
    """Bytes of a GPU that tensors can take: what is free, and what torch keeps for reuse; None for other devices."""
    if device.type != 'cuda':
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
