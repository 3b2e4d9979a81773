"""Losses, in BasicSR's loss registry."""

from rsr_basicsr.losses.classifier_loss import ClassifierLoss

__all__ = ['ClassifierLoss']
