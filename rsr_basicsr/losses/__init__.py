"""Losses, in BasicSR's loss registry."""

from rsr_basicsr.losses.classifier_loss import ClassifierLoss
from rsr_basicsr.losses.component_loss import ComponentLoss, GradientWeightedLoss
from rsr_basicsr.losses.spectrum_loss import SpectrumL1Loss

__all__ = ['ClassifierLoss', 'ComponentLoss', 'GradientWeightedLoss', 'SpectrumL1Loss']
