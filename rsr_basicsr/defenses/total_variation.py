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
    """Denoises each image by total-variation minimisation (Guo et al., ICLR 2018, without their dropped pixels).

    The minimisation is that of Chambolle 2004, on the CPU. The gradient is that of the identity.

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW) in [0, 1].
        weight: weight of the total variation relative to the distance to the image, for values in [0, 1]; above 0 and
            at most 100.

    Shape:
        (B, 3, H, W) in [0, 1] -> as of ``net``.

    Raises:
        ValueError: ``weight`` is out of range.
    """

    def __init__(self, net: nn.Module, *, weight: float = 0.05) -> None:
        super().__init__(net)
        self.weight = float(expect('weight', weight, 0, 100, above=True))
        self.denoising = BPDA(functools.partial(denoised, weight=self.weight))

    def transform(self, x: torch.Tensor) -> torch.Tensor:
        return self.denoising(x)


def denoised(x: torch.Tensor, weight: float) -> torch.Tensor:
    """Total-variation denoising of (B, C, H, W), the same shape, without a gradient."""
    # One by one: the stopping criterion depends on all values that the iteration is given.
    images = [denoise_tv_chambolle(image, weight=weight, channel_axis=0) for image in x.detach().cpu().numpy()]
    return torch.from_numpy(np.stack(images)).to(x)
