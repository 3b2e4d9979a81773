"""The Gaussian blur as a defence."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.transforms.functional import gaussian_blur

from rsr_basicsr.attacks.checks import expect
from rsr_basicsr.defenses.base import DEFENSE_REGISTRY, InputTransform
from rsr_basicsr.defenses.padding import reflect_pad


@DEFENSE_REGISTRY.register()
class Gaussian(InputTransform):
    """Blurs each image with a Gaussian, one of the smoothing filters of Xu et al., NDSS 2018.

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW) in [0, 1].
        sigma: standard deviation of the Gaussian in pixels, above 0 and at most 100; the kernel ends at 4 sigma.

    Shape:
        (B, 3, H, W) in [0, 1] -> as of ``net``.

    Raises:
        ValueError: ``sigma`` is out of range.
    """

    def __init__(self, net: nn.Module, *, sigma: float = 1.0) -> None:
        super().__init__(net)
        self.sigma = float(expect('sigma', sigma, 0, 100, above=True))

    def transform(self, x: torch.Tensor) -> torch.Tensor:
        return blurred(x, self.sigma)


def blurred(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of (B, C, H, W), the same shape; the border is mirrored."""
    reach = max(int(4 * sigma + 0.5), 1)
    height, width = x.shape[-2:]
    # Padded here: gaussian_blur itself refuses images smaller than its kernel.
    smooth = gaussian_blur(reflect_pad(x, *[reach] * 4), [2 * reach + 1] * 2, [sigma] * 2)
    return smooth[..., reach : reach + height, reach : reach + width]
