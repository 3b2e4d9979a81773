"""How much a network amplifies noise: one measurement, one page."""

from rsr_basicsr.stability.measure import measure_stability
from rsr_basicsr.stability.result import StabilityResult

__all__ = ['StabilityResult', 'measure_stability']
