"""The losses that CDC trains with (Wei et al., ECCV 2020; Yue et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import nn
from torch.nn import functional as F

from rsr_basicsr.ops.caching import constant_tensor

_K = 0.04  # of the Harris response, over blocks of 3x3 pixels
_CORNER, _EDGE = 0.01, -0.001  # thresholds, as shares of the largest response

#: Definitions of luma for the Harris response: weights of R, G and B in [0, 1]
LUMA = {
    'bt601': (65.481, 128.553, 24.966),
    'published': (255 * 0.257, 255 * 0.564, 255 * 0.098),  # BT.601 has 0.504 for G
}


def region_maps(hr: torch.Tensor, luma: str = 'bt601') -> torch.Tensor:
    """Find the flat, edge and corner regions of images, by the Harris response of their luma.

    Args:
        hr: (B, 3, H, W) RGB in [0, 1].
        luma: ``bt601``, or ``published`` for the weights 0.257, 0.564 and 0.098 of the published code, which change
            the region of about 0.1 % of the pixels of photographs.

    Returns:
        (B, 3, H, W), like ``hr``: channels for flat, edge and corner, 1 inside the region; they add up to 1 everywhere.
        An image without structure is flat.

    Raises:
        ValueError: there is no such luma.
    """
    _check_luma(luma)
    response = _harris((hr.detach().float() * _luma_weights(luma, hr.device)).sum(dim=1, keepdim=True))
    largest = response.amax(dim=(2, 3), keepdim=True)
    corner = (response > _CORNER * largest) & (largest > 0)
    edge = (response < _EDGE * largest) & (largest > 0)
    return torch.cat([~corner & ~edge, edge, corner], dim=1).to(hr.dtype)


def _check_luma(luma: str) -> None:
    if luma not in LUMA:
        raise ValueError(f'luma must be one of {", ".join(LUMA)}, got {luma!r}')


def _harris(luma: torch.Tensor) -> torch.Tensor:
    """Harris response, (B, 1, H, W), up to a factor: on the device, since OpenCV's would wait for it in every step."""
    padded = F.pad(luma, [1] * 4, mode='reflect')
    # Sobel by differences: a GPU may round the factors of a convolution to ten bits.
    rows, columns = padded[..., 2:, :] - padded[..., :-2, :], padded[..., 2:] - padded[..., :-2]
    dx = columns[..., :-2, :] + 2 * columns[..., 1:-1, :] + columns[..., 2:, :]
    dy = rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]
    products = F.pad(torch.cat([dx * dx, dy * dy, dx * dy], dim=1), [1] * 4, mode='reflect')
    xx, yy, xy = F.avg_pool2d(products, 3, stride=1).split(1, dim=1)
    return xx * yy - xy * xy - _K * (xx + yy).square()


@constant_tensor(maxsize=8)
def _luma_weights(luma: str, device: torch.device) -> torch.Tensor:
    return torch.tensor(LUMA[luma], device=device).view(3, 1, 1)


@constant_tensor(maxsize=8)
def _sobel(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Horizontal and vertical Sobel operator, (2, 1, 3, 3)."""
    sobel = torch.tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=device, dtype=dtype)
    return torch.stack([sobel, sobel.T])[:, None]


def gradient_weighted_l1(sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    """``mean((1 + 4 dx)(1 + 4 dy) |sr - hr|)``; dx and dy are the absolute differences of the Sobel responses.

    Args:
        sr, hr: (B, C, H, W) in [0, 1].
    """
    channels = hr.shape[1]
    kernels = _sobel(hr.device, hr.dtype).repeat(channels, 1, 1, 1)
    # The Sobel operator is linear: the difference of the responses is the response of the difference.
    change = F.conv2d(sr - hr, kernels, padding=1, groups=channels).abs()
    dx, dy = change[:, 0::2], change[:, 1::2]
    return ((1 + 4 * dx) * (1 + 4 * dy) * (sr - hr).abs()).mean()


@LOSS_REGISTRY.register()
class GradientWeightedLoss(nn.Module):
    """:func:`gradient_weighted_l1` times ``loss_weight``."""

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.loss_weight * gradient_weighted_l1(pred, target)


@LOSS_REGISTRY.register()
class ComponentLoss(nn.Module):
    """L1 of each component image inside its region, plus the gradient-weighted loss of the fused image.

    Args:
        component_weights: weights of the flat, edge and corner image.
        fused_weight: weight of the gradient-weighted loss.
        loss_weight: factor of the sum.
        luma: for the regions; see :func:`region_maps`.

    Raises:
        ValueError: there is no such luma.
    """

    def __init__(
        self,
        component_weights: Sequence[float] = (1, 2, 5),
        fused_weight: float = 1.0,
        loss_weight: float = 1.0,
        luma: str = 'bt601',
    ) -> None:
        super().__init__()
        _check_luma(luma)
        self.luma = luma
        self.component_weights = tuple(component_weights)
        self.fused_weight = fused_weight
        self.loss_weight = loss_weight

    def forward(self, pred: Sequence[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar.

        Args:
            pred: the four images of :class:`rsr_basicsr.archs.cdc_arch.CDCOutput`, each (B, 3, H, W).
            target: the ground truth, (B, 3, H, W) in [0, 1].
        """
        *images, fused = pred
        regions = region_maps(target, self.luma).unbind(dim=1)
        loss = self.fused_weight * gradient_weighted_l1(fused, target)
        for weight, image, region in zip(self.component_weights, images, regions):
            loss = loss + weight * F.l1_loss(image * region.unsqueeze(1), target * region.unsqueeze(1))
        return self.loss_weight * loss
