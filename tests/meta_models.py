"""Models of trainings on the device meta, where tensors have sizes and no values."""

import torch
from basicsr.utils.registry import MODEL_REGISTRY

META = torch.device('meta')


def model_on_meta(model_type='DefendedSRModel', attack=None, **train):
    opt = {
        'name': 'waiting',
        'is_train': True,
        'dist': False,
        'rank': 0,
        'world_size': 1,
        'scale': 4,
        'path': {},
        'l1_gt_usm': False,
        'percep_gt_usm': False,
        'gan_gt_usm': False,
        'queue_size': 4,
        'num_gpu': 0,
        'logger': {'print_freq': 10},
        'network_g': {'type': 'DefendedSRVGGNetCompact', 'num_feat': 4, 'num_conv': 1},
        'attack': {'type': 'PGD', 'eps': [1, 8], **(attack or {})},
        'train': {
            'ema_decay': 0.999,
            'optim_g': {'type': 'Adam', 'lr': 1e-4},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [100]},
            'pixel_opt': {'type': 'L1Loss'},
            **train,
        },
    }
    if 'GAN' in model_type:
        opt['network_d'] = {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 4}
        opt['train'].update(
            optim_d={'type': 'Adam', 'lr': 1e-4},
            gan_opt={'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.1},
            net_d_iters=1,
            net_d_init_iters=0,
        )
    cls = MODEL_REGISTRY.get(model_type)
    return type(cls.__name__, (cls,), {'device': property(lambda self: META, lambda self, device: None)})(opt)
