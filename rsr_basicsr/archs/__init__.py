"""Architectures: frequency mask, classifiers, CDC, and defended versions of CDC and of BasicSR's networks."""

from rsr_basicsr.archs.cdc_arch import CDC
from rsr_basicsr.archs.defended_arch import DefenseMixin, MaskPoint, defend, register_defended
from rsr_basicsr.archs.defense import Defense
from rsr_basicsr.archs.ensemble_classifier_arch import EnsembleClassifier
from rsr_basicsr.archs.frequency_classifier_arch import FrequencyClassifier, RRDBFrequencyClassifier
from rsr_basicsr.archs.frequency_mask_arch import RandomFrequencyMask
from rsr_basicsr.archs.interpolation_arch import Interpolation
from rsr_basicsr.archs.residual_classifier_arch import ResidualClassifier
from rsr_basicsr.archs.statistics_classifier_arch import StatisticsClassifier

__all__ = [
    'CDC',
    'Defense',
    'DefenseMixin',
    'EnsembleClassifier',
    'FrequencyClassifier',
    'Interpolation',
    'MaskPoint',
    'RRDBFrequencyClassifier',
    'RandomFrequencyMask',
    'ResidualClassifier',
    'StatisticsClassifier',
    'defend',
    'register_defended',
]
