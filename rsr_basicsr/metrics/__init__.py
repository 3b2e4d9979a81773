"""Metrics, in BasicSR's metric registry."""

from rsr_basicsr.metrics.stability_metric import calculate_stability

__all__ = ['calculate_stability']
