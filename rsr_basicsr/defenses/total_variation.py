"""Total-variation denoising as a defence."""

from __future__ import annotations

import functools

import numpy as np
import torch
from skimage.restoration import denoise_tv_chambolle
from torch import nn

from rsr_basicsr.attacks.adaptive import BPDA
from rsr_basicsr.attacks.checks import expect
from rsr_basicsr.defenses.base import DEFENSE_REGISTRY, InputTransform


@DEFENSE_REGISTRY.register()
class TotalVariation(InputTransform):
    """Minimises the total variation of each image near it (Guo et al., ICLR 2018, without their dropped pixels).

    The minimum is that of Chambolle 2004, found on the CPU. The gradient is that of the identity.

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW) in [0, 1].
        weight: of the total variation against the distance to the image, for values in [0, 1]; above 0 and at
            most 100.

    Shape:
        (B, 3, H, W) in [0, 1] -> as of ``net``.

    Raises:
        ValueError: ``weight`` is out of range.
    """

    def __init__(self, net: nn.Module, *, weight: float = 0.05):
        super().__init__(net)
        self.weight = float(expect('weight', weight, 0, 100, above=True))
        self.denoising = BPDA(functools.partial(denoised, weight=self.weight))

    def transform(self, x):
        return self.denoising(x)


def denoised(x: torch.Tensor, weight: float) -> torch.Tensor:
    """What is left of (B, C, H, W) without its total variation, the same shape, without a gradient."""
    # One by one: when the iteration stops depends on all it is given.
    found = [denoise_tv_chambolle(image, weight=weight, channel_axis=0) for image in x.detach().cpu().numpy()]
    return torch.from_numpy(np.stack(found)).to(x)
