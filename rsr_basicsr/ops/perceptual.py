"""Learned perceptual distance between images."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from rsr_basicsr.weights.state_dict import load_state


class LPIPS(nn.Module):
    """LPIPS, the learned perceptual distance of Zhang et al. 2018, by its authors' package; see :func:`lpips_distance`.

    Args:
        metric: ``lpips.LPIPS``; is frozen.
    """

    def __init__(self, metric: nn.Module) -> None:
        super().__init__()
        self.metric = metric.eval().requires_grad_(False)

    def forward(self, output: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Distance per sample, (B,), between images (B, 3, H, W) in [0, 1]."""
        return self.metric.to(output.device)(output, reference, normalize=True).flatten()


@functools.cache
def lpips_distance(backbone: str | Path | None = None) -> LPIPS:
    """LPIPS on AlexNet, built once per process.

    Args:
        backbone: file with the weights of torchvision's AlexNet (only ``features.*`` are used); None takes
            torchvision's from torch's cache, and downloads them if missing.

    Raises:
        ValueError: the package ``lpips`` is missing, or the weights cannot be loaded.
    """
    try:
        import lpips
    except ImportError:
        raise ValueError('LPIPS needs the package lpips; pip install lpips, or give a distance of your own') from None
    # AlexNet is initialized at random: a training must draw the same random numbers as without LPIPS.
    with torch.random.fork_rng(devices=[]):
        metric = lpips.LPIPS(net='alex', pnet_rand=True, verbose=False)
    state = _alexnet() if backbone is None else load_state(backbone)
    for part in (metric.net.slice1, metric.net.slice2, metric.net.slice3, metric.net.slice4, metric.net.slice5):
        try:
            part.load_state_dict({key: state[f'features.{key}'].float() for key in part.state_dict()})
        except (KeyError, RuntimeError):
            raise ValueError(f"{backbone} holds no features of torchvision's AlexNet; name another file") from None
    return LPIPS(metric)


def _alexnet() -> Mapping[str, torch.Tensor]:
    from torchvision.models import AlexNet_Weights

    try:
        return AlexNet_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True)
    except OSError as error:
        raise ValueError(
            f'the AlexNet weights of LPIPS cannot be downloaded ({error}); give lpips_distance a file with them'
        ) from None
