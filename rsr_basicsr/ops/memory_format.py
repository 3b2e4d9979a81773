"""The memory format of images and feature maps."""

from __future__ import annotations

import torch

from rsr_basicsr.ops.caching import any_size


def memory_format(x: torch.Tensor) -> torch.memory_format:
    """``channels_last`` where a tensor (B, C, H, W) is stored so and no other way, else ``contiguous_format``."""
    if any_size():  # exporters know one format
        return torch.contiguous_format
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format
