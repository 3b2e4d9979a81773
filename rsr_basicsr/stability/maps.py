"""Instability maps: where the output of a network moves under attack, as a heat map over the output."""

from __future__ import annotations

import cv2
import numpy as np

_OPACITY = 0.7  # of the heat map over the grey output
_MID_GREY = 128
_QUANTILE = 99  # per cent of the pixels that the scale covers; a few extreme ones would take most of it


def smoothed(change: np.ndarray, sigma: float) -> np.ndarray:
    """The root of the local mean square of a change, Gaussian-weighted.

    Args:
        change: RMS change of each pixel, float32 (H, W).
        sigma: of the weights, in pixels.
    """
    return np.sqrt(cv2.GaussianBlur(np.square(change), (0, 0), sigma, borderType=cv2.BORDER_REFLECT))


def top_of_scale(maps: list[np.ndarray]) -> int:
    """The gain at the end of a scale for all maps: 1, or a multiple of 2.

    Args:
        maps: local gains, float32 (H, W) each.
    """
    most = float(np.percentile(np.concatenate([each.ravel() for each in maps]), _QUANTILE))
    return 1 if most <= 1 else 2 * int(np.ceil(most / 2))


def heat_map(gains: np.ndarray, top: float, output: np.ndarray) -> np.ndarray:
    """The map over the grey output, BGR uint8 (H, W, 3).

    Args:
        gains: local gains, float32 (H, W).
        top: the gain drawn in the brightest colour.
        output: clean output, BGR uint8 (H, W, 3).
    """
    return _blended(gains / top, cv2.cvtColor(output, cv2.COLOR_BGR2GRAY))


def scale_bar(width: int = 256, height: int = 12) -> np.ndarray:
    """The colours from 0 to the end of the scale, over mid grey, BGR uint8 (height, width, 3)."""
    ramp = np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))
    return _blended(ramp, np.full((height, width), _MID_GREY, np.uint8))


def _blended(shares: np.ndarray, grey: np.ndarray) -> np.ndarray:
    levels = np.clip(shares * 255, 0, 255).round().astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)
    return cv2.addWeighted(colours, _OPACITY, cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), 1 - _OPACITY, 0)
