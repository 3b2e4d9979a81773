"""Losses, in BasicSR's loss registry."""

from rsr_basicsr.losses.classifier_loss import ClassifierLoss
from rsr_basicsr.losses.component_loss import ComponentLoss, GradientWeightedLoss
from rsr_basicsr.losses.contrast_loss import ContrastL1Loss

__all__ = ['ClassifierLoss', 'ComponentLoss', 'ContrastL1Loss', 'GradientWeightedLoss']
