"""Metrics, in BasicSR's metric registry."""

from rsr_basicsr.metrics.lpips_metric import calculate_lpips
from rsr_basicsr.metrics.published_ssim_metric import calculate_ssim_zero_padded
from rsr_basicsr.metrics.stability_metric import calculate_gain, calculate_stability, calculate_stability_ssim

__all__ = [
    'calculate_gain',
    'calculate_lpips',
    'calculate_ssim_zero_padded',
    'calculate_stability',
    'calculate_stability_ssim',
]
