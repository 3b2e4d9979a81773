"""Models of trainings on the device meta, where tensors have sizes and no values."""

import torch
from basicsr.utils.registry import MODEL_REGISTRY
from gpu_checks.base import small_training

META = torch.device('meta')


def model_on_meta(model_type='DefendedSRModel', attack=None, **train):
    opt = small_training(0, attack or {}, gan='GAN' in model_type)
    opt.update(l1_gt_usm=False, percep_gt_usm=False, gan_gt_usm=False, queue_size=4)  # of Real-ESRGAN's models
    opt['train'].update(net_d_iters=1, net_d_init_iters=0, **train)
    cls = MODEL_REGISTRY.get(model_type)
    return type(cls.__name__, (cls,), {'device': property(lambda self: META, lambda self, device: None)})(opt)
