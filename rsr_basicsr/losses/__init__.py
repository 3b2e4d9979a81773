"""Losses, in BasicSR's loss registry."""

from rsr_basicsr.losses.classifier_loss import ClassifierLoss
from rsr_basicsr.losses.component_loss import ComponentLoss, GradientWeightedLoss

__all__ = ['ClassifierLoss', 'ComponentLoss', 'GradientWeightedLoss']
