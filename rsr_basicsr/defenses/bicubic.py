"""The bicubic upscaling of an image at the size of a network's output."""

from __future__ import annotations

import torch

from rsr_basicsr.ops.frequency import without_autocast
from rsr_basicsr.ops.resize import upscaled


def bicubic_like(x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Upscale ``x`` by bicubic interpolation to the size of the network's output for it.

    Args:
        x: images, (B, C, H, W) in [0, 1].
        output: the network's output, (B, C, sH, sW), of a whole scale s.

    Returns:
        As :class:`rsr_basicsr.archs.Interpolation` of that scale, (B, C, sH, sW), in the type of ``x``, but at least
        in single precision.

    Raises:
        ValueError: the output is no whole multiple of ``x`` in size, or its channels differ.
    """
    scale = output.shape[-1] // x.shape[-1]
    if output.shape != (*x.shape[:2], scale * x.shape[-2], scale * x.shape[-1]) or not scale:
        raise ValueError(
            f'the network turns {tuple(x.shape)} into {tuple(output.shape)}, which is no whole multiple of its height '
            'and width; Blend and ClipToBicubic need a network that upscales by a whole factor'
        )
    with without_autocast(x.device):
        return upscaled(x if x.dtype == torch.float64 else x.float(), scale)
