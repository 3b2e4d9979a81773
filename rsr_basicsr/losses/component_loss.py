"""The losses that CDC trains with (Wei et al., ECCV 2020; Yue et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from basicsr.utils.color_util import rgb2ycbcr_pt
from basicsr.utils.registry import LOSS_REGISTRY
from torch import nn
from torch.nn import functional as F

_BLOCK, _APERTURE, _K = 3, 3, 0.04  # of the Harris response
_CORNER, _EDGE = 0.01, -0.001  # thresholds, as shares of the largest response
_PUBLISHED = (0.257, 0.564, 0.098)  # of R, G and B; BT.601 has 0.504 for G

#: Definitions of luma for the Harris response
LUMA = ('bt601', 'published')


def region_maps(hr: torch.Tensor, luma: str = 'bt601') -> torch.Tensor:
    """Find the flat, edge and corner regions of images, by the Harris response of their luma.

    Args:
        hr: (B, 3, H, W) RGB in [0, 1].
        luma: ``bt601``, or ``published`` for the weights 0.257, 0.564 and 0.098 of the published code, which change
            the region of about 0.1 % of the pixels of photographs.

    Returns:
        (B, 3, H, W) float on the device of ``hr``: channels for flat, edge and corner, 1 inside the region; they add
        up to 1 everywhere. An image without structure is flat.

    Raises:
        ValueError: there is no such luma.
    """
    _check_luma(luma)
    maps = torch.from_numpy(np.stack([_regions(image) for image in _luma(hr.detach().float(), luma).cpu().numpy()]))
    return maps.to(hr.device, hr.dtype, non_blocking=True)


def _check_luma(luma: str) -> None:
    if luma not in LUMA:
        raise ValueError(f'luma must be one of {", ".join(LUMA)}, got {luma!r}')


def _luma(rgb: torch.Tensor, luma: str) -> torch.Tensor:
    """Luma (B, H, W) of (B, 3, H, W) in [0, 1], about [16, 235]. The offset of 16 does not affect the regions."""
    if luma == 'published':
        return torch.einsum('bchw,c->bhw', rgb * 255, rgb.new_tensor(_PUBLISHED)) + 16
    return rgb2ycbcr_pt(rgb, y_only=True)[:, 0] * 255


def _regions(luma: np.ndarray) -> np.ndarray:
    response = cv2.cornerHarris(luma, _BLOCK, _APERTURE, _K)
    largest = response.max()
    corner, edge = response > _CORNER * largest, response < _EDGE * largest
    if largest <= 0:
        corner, edge = np.zeros_like(corner), np.zeros_like(edge)
    return np.stack([~corner & ~edge, edge, corner]).astype(np.float32)


def gradient_weighted_l1(sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    """``mean((1 + 4 dx)(1 + 4 dy) |sr - hr|)``; dx and dy are the absolute differences of the Sobel responses.

    Args:
        sr, hr: (B, C, H, W) in [0, 1].
    """
    sobel = hr.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    channels = hr.shape[1]
    kernels = torch.stack([sobel, sobel.T]).unsqueeze(1).repeat(channels, 1, 1, 1)
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
