"""BasicSR's models with attack augmentation, in BasicSR's model registry."""

from rsr_basicsr.models.attack_augmentation import AttackAugmentation
from rsr_basicsr.models.cdc_model import CDCModel, DefendedCDCModel
from rsr_basicsr.models.defended_model import DefendedRealESRGANModel, DefendedRealESRNetModel, DefendedSRModel

__all__ = ['AttackAugmentation', 'CDCModel', 'DefendedCDCModel', 'DefendedRealESRGANModel', 'DefendedRealESRNetModel',
           'DefendedSRModel']
