"""Metrics, in BasicSR's metric registry."""

from rsr_basicsr.metrics.consistency_metric import calculate_lr_consistency
from rsr_basicsr.metrics.perceptual_metric import (
    calculate_lpips,
    calculate_perceptual,
    calculate_perceptual_stability,
)
from rsr_basicsr.metrics.published_ssim_metric import calculate_ssim_zero_padded
from rsr_basicsr.metrics.stability_metric import calculate_gain, calculate_stability, calculate_stability_ssim, rms_gain

__all__ = [
    'calculate_gain',
    'calculate_lpips',
    'calculate_lr_consistency',
    'calculate_perceptual',
    'calculate_perceptual_stability',
    'calculate_ssim_zero_padded',
    'calculate_stability',
    'calculate_stability_ssim',
    'rms_gain',
]
