"""``defend_model(cls)`` adds attack augmentation to a BasicSR model class; registers the defended classes."""

from __future__ import annotations

import importlib

from basicsr.models.esrgan_model import ESRGANModel
from basicsr.models.sr_model import SRModel
from basicsr.models.srgan_model import SRGANModel
from basicsr.models.swinir_model import SwinIRModel
from basicsr.models.video_base_model import VideoBaseModel
from basicsr.utils.registry import MODEL_REGISTRY

from rsr_basicsr.compat import real_esrgan_packages
from rsr_basicsr.models.attack_augmentation import AttackAugmentation
from rsr_basicsr.models.cdc_model import CDCModel


def defend_model(cls: type[SRModel]) -> type[SRModel]:
    """Make the defended version ``Defended<cls>`` of a model class; for networks, see :func:`rsr_basicsr.defend`.

    Its training step is that of ``cls``, on images that :class:`AttackAugmentation` has attacked. It is not
    registered; ``MODEL_REGISTRY.register(defend_model(MyModel))`` does that.

    Args:
        cls: SRModel or a derived class. ``feed_data`` puts batches of images into ``lq`` and ``gt``;
            ``optimize_parameters(current_iter)`` trains ``net_g`` on them, and updates it by ``optimizer_g``.

    Returns:
        The class, derived from :class:`AttackAugmentation` and ``cls``.

    Raises:
        TypeError: ``cls`` is defended already, or does not train on single images.
    """
    if issubclass(cls, AttackAugmentation):
        raise TypeError(f'{cls.__name__} is defended already')
    if not issubclass(cls, SRModel) or issubclass(cls, VideoBaseModel):
        kind = 'works on video' if issubclass(cls, VideoBaseModel) else "is not derived from BasicSR's SRModel"
        raise TypeError(
            f'{cls.__name__} {kind}; for another trainer of single images, call attack_batch in its training step '
            '(docs/training.md, "Your own trainer")'
        )
    return type(
        f'Defended{cls.__name__}',
        (AttackAugmentation, cls),
        {
            '__doc__': f'{cls.__name__} with attack augmentation; see rsr_basicsr.defend_model.',
            '__module__': __name__,
        },
    )


def _registered(cls: type[SRModel], suffix: str | None = None) -> type[SRModel]:
    return MODEL_REGISTRY.register(suffix=suffix)(defend_model(cls))


def _registered_real_esrgan(name: str) -> type[SRModel]:
    """Register the defended version of Real-ESRGAN's class; if both packages have it, BasicSR's under a suffix."""
    *others, chosen = [
        getattr(importlib.import_module(f'{package}.models.{name.lower()[: -len("model")]}_model'), name)
        for package in real_esrgan_packages()
    ]
    for other in others:
        _registered(other, 'basicsr')
    return _registered(chosen)


DefendedSRModel = _registered(SRModel)
DefendedSRGANModel = _registered(SRGANModel)
DefendedESRGANModel = _registered(ESRGANModel)
DefendedSwinIRModel = _registered(SwinIRModel)
DefendedCDCModel = _registered(CDCModel)
DefendedRealESRNetModel = _registered_real_esrgan('RealESRNetModel')
DefendedRealESRGANModel = _registered_real_esrgan('RealESRGANModel')
