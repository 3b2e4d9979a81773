"""Architectures: the frequency mask, the classifier, CDC, and the defended twins of it and of BasicSR's networks."""

from rsr_basicsr.archs.block_spectrum_classifier_arch import BlockSpectrumClassifier
from rsr_basicsr.archs.cdc_arch import CDC
from rsr_basicsr.archs.defended_arch import Defense, DefenseMixin, MaskPoint, defend, register_defended
from rsr_basicsr.archs.frequency_classifier_arch import FrequencyClassifier
from rsr_basicsr.archs.frequency_mask_arch import RandomFrequencyMask
from rsr_basicsr.archs.residual_classifier_arch import ResidualClassifier

__all__ = ['BlockSpectrumClassifier', 'CDC', 'Defense', 'DefenseMixin', 'FrequencyClassifier', 'MaskPoint',
           'RandomFrequencyMask', 'ResidualClassifier',
           'defend', 'register_defended']
