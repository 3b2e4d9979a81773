"""Models in BasicSR's registry: BasicSR's models with attack augmentation, CDC, and training of a classifier."""

from rsr_basicsr.models.attack_augmentation import AttackAugmentation
from rsr_basicsr.models.batch_attack import AttackedBatch, attack_batch
from rsr_basicsr.models.cdc_model import CDCModel
from rsr_basicsr.models.defended_model import (
    DefendedCDCModel,
    DefendedESRGANModel,
    DefendedRealESRGANModel,
    DefendedRealESRNetModel,
    DefendedSRGANModel,
    DefendedSRModel,
    DefendedSwinIRModel,
    defend_model,
)
from rsr_basicsr.models.frequency_classifier_model import FrequencyClassifierModel

__all__ = [
    'AttackAugmentation',
    'AttackedBatch',
    'CDCModel',
    'DefendedCDCModel',
    'DefendedESRGANModel',
    'DefendedRealESRGANModel',
    'DefendedRealESRNetModel',
    'DefendedSRGANModel',
    'DefendedSRModel',
    'DefendedSwinIRModel',
    'FrequencyClassifierModel',
    'attack_batch',
    'defend_model',
]
