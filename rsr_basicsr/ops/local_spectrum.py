"""Local spectrum difference: a measure of sharpness that tells texture from stripes, as a loss."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.transforms.functional import rgb_to_grayscale

from rsr_basicsr.ops.frequency import dct_basis

_BLOCK, _STRIDE = 8, 4  # of the block DCT, in pixels
_WINDOW = 3  # blocks per side over which a spectrum is local
_FLOOR = 50.0  # squared DCT coefficients, in grey levels: below about 7 levels a band is not visible


class LocalSpectrum(nn.Module):
    """How much the energy in each band of a block DCT differs from that of a reference, wherever its details are.

    As :class:`rsr_basicsr.ops.local_contrast.LocalContrast`, in 63 bands instead of two: the distance is the mean of
    ``|ln((c + f) / (r + f))| / 2`` over places and bands, with the energies ``c`` and ``r`` of the two images in a
    window of 3x3 blocks and a floor ``f``. A loss in two bands is satisfied by a checkerboard, whose contrast is all in
    one frequency; here each band has its own share to meet.

    Shape:
        output, reference: (B, 3, H, W) in [0, 1], sides of at least 8 pixels -> (B,).

    Examples:
        >>> image = torch.rand(1, 3, 32, 32)
        >>> blurred = F.avg_pool2d(image, 3, stride=1, padding=1)
        >>> bool(LocalSpectrum()(blurred, image) > LocalSpectrum()(image, image))
        True
    """

    def forward(self, output: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Distance per sample, (B,)."""
        ratio = (_energies(output) + _FLOOR) / (_energies(reference) + _FLOOR)
        return ratio.log().abs().flatten(1).mean(1) / 2


def _energies(images: torch.Tensor) -> torch.Tensor:
    """Mean squared coefficients per band and window, (B, 63, h, w)."""
    grey = rgb_to_grayscale(images) * 255
    bands = dct_basis(_BLOCK, grey.device, grey.dtype)[1:].unsqueeze(1)
    # Reflected, so that the rim counts as much as the rest.
    blocks = F.conv2d(F.pad(grey, [_STRIDE] * 4, mode='reflect'), bands, stride=_STRIDE)
    return F.avg_pool2d(blocks.square(), _WINDOW, stride=1)
