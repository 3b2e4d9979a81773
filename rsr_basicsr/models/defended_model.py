"""BasicSR's and Real-ESRGAN's models with attack augmentation."""

from basicsr.models.realesrgan_model import RealESRGANModel
from basicsr.models.realesrnet_model import RealESRNetModel
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY

from rsr_basicsr.models.attack_augmentation import AttackAugmentation


@MODEL_REGISTRY.register()
class DefendedSRModel(AttackAugmentation, SRModel):
    """SRModel with attack augmentation: pairs of low- and high-resolution pictures, pixel and perceptual loss."""


@MODEL_REGISTRY.register()
class DefendedRealESRNetModel(AttackAugmentation, RealESRNetModel):
    """RealESRNetModel with attack augmentation: second-order degradations on the fly, pixel loss."""


@MODEL_REGISTRY.register()
class DefendedRealESRGANModel(AttackAugmentation, RealESRGANModel):
    """RealESRGANModel with attack augmentation: second-order degradations on the fly, GAN training."""

    target_names = ('gt', 'gt_usm')

    def attack_target(self):
        return self.gt if self.opt['l1_gt_usm'] is False else self.gt_usm
