"""A training step never waits for the device: run where reading a value is an error, with every transfer noted."""

import pytest
import torch
from basicsr.archs import build_network
from basicsr.losses import build_loss
from meta_models import META, model_on_meta
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Transfers(TorchDispatchMode):
    """Fails where a tensor goes from the host to the device or back, for which the host would wait."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        devices = {x.device.type for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)}
        scalars_are_arguments = torch.Tag.pointwise in func.tags  # numbers on the host, as in x * 2
        assert len(devices) < 2 or scalars_are_arguments, f'{func} between {devices}'
        return result


def run_step(model, iteration):
    model.lq, model.gt = torch.zeros(4, 3, 16, 16, device=META), torch.zeros(4, 3, 64, 64, device=META)
    model.gt_usm = model.gt
    model.optimize_parameters(iteration)


ATTACK_BLOCKS = [
    *({'mode': mode} for mode in ('mixed', 'paired', 'alternating')),
    {'eps': 8},
    {'type': 'PGD', 'norm': 'L2'},
    {'masked': 0.5},
    {'attacked_target': 'clean_output', 'objective': 'stability'},
    {'warm_start': True},
    {'restarts': 2},
    {'quantize': 'nearest'},
    {'start_coarseness': 1.5, 'zero_mean': 'image'},
    {'objective': 'training_loss', 'type': 'IFGSM'},
    *({'type': name} for name in ('IFGSM', 'MIFGSM', 'APGD', 'FGSM')),
]


@pytest.mark.parametrize('attack', ATTACK_BLOCKS, ids=str)
def test_no_step_waits(attack):
    model = model_on_meta(attack=attack)
    run_step(model, 1)  # fills the caches of constants
    with Transfers():
        run_step(model, 10)


@pytest.mark.parametrize('name', ['DefendedSRGANModel', 'DefendedRealESRNetModel', 'DefendedRealESRGANModel'])
@pytest.mark.parametrize('train', [{}, {'train_classifier': True}], ids=str)
def test_no_step_of_a_gan_waits(name, train):
    model = model_on_meta(name, **train)
    run_step(model, 1)
    with Transfers():
        run_step(model, 10)


def test_pretrained_target_does_not_wait():
    model = model_on_meta(target='pretrained')
    model._start_net = build_network(model.opt['network_g']).to(META).eval()  # its gate is that of the classifier
    run_step(model, 1)
    with Transfers():
        run_step(model, 10)


def test_regions_of_cdc_do_not_wait():
    target = torch.zeros(2, 3, 64, 64, device=META)
    loss = build_loss({'type': 'ComponentLoss'})
    loss([target] * 4, target)
    with Transfers():
        loss([target] * 4, target)


def test_reading_a_value_is_an_error_here():
    """What the other tests rely on."""
    with pytest.raises(RuntimeError, match='meta'):
        torch.zeros(1, device=META).item()
    with pytest.raises(AssertionError, match='between'), Transfers():
        torch.zeros(1).to(META)
