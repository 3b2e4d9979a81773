"""Metrics, in BasicSR's metric registry."""

from rsr_basicsr.metrics.lpips_metric import calculate_lpips
from rsr_basicsr.metrics.stability_metric import calculate_gain, calculate_stability, calculate_stability_ssim

__all__ = ['calculate_gain', 'calculate_lpips', 'calculate_stability', 'calculate_stability_ssim']
