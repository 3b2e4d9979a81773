"""Memory of a validation under attack: gradients of whole images, which are larger than the patches of the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from rsr_basicsr.attacks import build_attack
from rsr_basicsr.attacks.base import Attack
from rsr_basicsr.check.step_memory import GIB, RESERVE, LiveBytes
from rsr_basicsr.options.messages import Problems
from rsr_basicsr.options.networks import sketch
from rsr_basicsr.utils.errors import in_one_line

_SIDES = (64, 96)  # pixels; beyond them, memory grows with the area


def note_memory(
    opt: Mapping[str, Any], net: nn.Module, sizes: Mapping[str, tuple[int, int]], problems: Problems
) -> None:
    """Note what attacking the largest image of a validation takes, and warn if it is more than the GPU has.

    Args:
        opt: options that were checked, with a block ``val: attack``.
        net: the network; it stays as it is.
        sizes: (width, height) in pixels of the largest low-resolution image per data set.
        problems: where it is noted.
    """
    # A seed takes the values of the images, which are none on the device meta.
    block = {key: value for key, value in opt['val']['attack'].items() if value is not None and key != 'seed'}
    tile = block.get('tile') or opt['val'].get('tile')
    if not sizes or 'memory' in block or block['type'] in ('Transfer', 'WorstOf'):
        return
    phase = max(sizes, key=lambda name: sizes[name][0] * sizes[name][1])
    width, height = sizes[phase]
    try:
        attack = build_attack({**block, **({'steps': 1} if 'steps' in block else {})})
        taken = _extrapolated(attack, sketch(net), width, height, tile, opt['val'].get('tile_overlap', 0)) / GIB
    except Exception as error:  # a network or a measure may not run on the device meta
        problems.facts.append(f'memory of val.attack: cannot be counted ({in_one_line(error)})')
        return
    how = f'in tiles of {tile} pixels' if tile else 'whole'
    sentence = f'val.attack: the largest image of datasets.{phase}, {width}x{height}, takes {taken:.1f} GiB {how}'
    problems.facts.append(f'memory of {sentence}, counted')
    if torch.cuda.is_available() and opt.get('num_gpu') != 0:
        free, total = (value / GIB for value in torch.cuda.mem_get_info())
        if taken + RESERVE > free:
            problems.warnings.append(
                f'{sentence}, and this GPU has {free:.1f} GiB free of {total:.1f}; it will be attacked in tiles that '
                'fit what is free then. Write val: tile or val: attack: memory to choose them'
            )


def _extrapolated(attack: Attack, net: nn.Module, width: int, height: int, tile: int | None, overlap: int) -> float:
    """Bytes for an image, by area, from two small ones."""
    largest = max(width, height) if tile is None else tile + 2 * overlap
    area = min(largest, width) * min(largest, height)
    small, large = (_peak(attack, net, side) for side in _SIDES)
    per_pixel = (large - small) / (_SIDES[1] ** 2 - _SIDES[0] ** 2)
    return max(small + per_pixel * (area - _SIDES[0] ** 2), 0)


def _peak(attack: Attack, net: nn.Module, side: int) -> int:
    """Peak of the bytes that an attack on an image of that side allocates."""
    lq = torch.zeros(1, 3, side, side, device='meta')
    with torch.no_grad():
        target = net(lq)
    with LiveBytes((*net.parameters(), *net.buffers(), lq, target)) as live:
        before = live.now
        attack.perturb(net.eval(), lq, target)
    return live.peak - before
