"""Defended architectures: their weights and the places of their masks."""

import copy

import pytest
import torch
from basicsr.archs import build_network
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.archs.swinir_arch import SwinIR
from basicsr.utils.registry import ARCH_REGISTRY
from defended_networks import BACKBONES, build
from torch import nn
from torch.nn import functional as F

from rsr_basicsr import MaskPoint, defend, register_defended
from rsr_basicsr.archs import CDC
from rsr_basicsr.archs.defended_arch import MaskPlace
from rsr_basicsr.archs.frequency_mask_arch import repeatable_mask
from rsr_basicsr.catalog.weights import WEIGHTS
from rsr_basicsr.ops.frequency import dct2, idct2
from rsr_basicsr.weights.state_dict import load_state


def test_plain_weights_load_strictly(backbone):
    plain, net = backbone(**BACKBONES[backbone]), build(backbone)
    classifier = copy.deepcopy(net.defense.classifier.state_dict())
    net.load_state_dict(plain.state_dict(), strict=True)
    assert all(torch.equal(net.state_dict()[k], v) for k, v in plain.state_dict().items())
    assert all(torch.equal(net.defense.classifier.state_dict()[k], v) for k, v in classifier.items())


def test_damaged_file_is_refused(backbone):
    net = build(backbone)
    without_one = dict(net.state_dict())
    del without_one['defense.classifier.members.1.head.2.bias']
    with pytest.raises(RuntimeError, match='defense.classifier.members.1.head.2.bias'):
        net.load_state_dict(without_one)
    with pytest.raises(RuntimeError, match='Missing key'):
        net.load_state_dict({})


def test_real_weights_load_strictly(real_weights):
    options = dict(WEIGHTS['realesr-animevideov3'].network)
    net = build_network({**options, 'type': 'DefendedSRVGGNetCompact'})
    state = load_state(real_weights)
    net.load_state_dict(state, strict=True)
    assert torch.equal(net.body[4].weight, state['body.4.weight'])


def test_rrdbnet_has_the_papers_masks():
    net, x = build(RRDBNet, gate='always', seed=3), torch.rand(2, 3, 12, 10)
    output = net(x)

    masks = iter([repeatable_mask((0.43, 0.5), 3, place, 12, 10, x.device) for place in range(3)])

    def mask(features):
        return idct2(dct2(features) * next(masks))

    first = net.conv_first(mask(x))
    hooked = net.conv_body._forward_pre_hooks
    net.conv_body._forward_pre_hooks = type(hooked)()
    trunk = net.conv_body(mask(net.body(first)))
    features = mask(first + trunk)
    net.conv_up1._forward_pre_hooks = type(hooked)()
    up = net.lrelu(net.conv_up1(F.interpolate(features, scale_factor=2, mode='nearest')))
    up = net.lrelu(net.conv_up2(F.interpolate(up, scale_factor=2, mode='nearest')))
    expected = net.conv_last(net.lrelu(net.conv_hr(up)))
    torch.testing.assert_close(output, expected)


def test_points_can_be_chosen(backbone):
    seen = []
    net = build(backbone, gate='always', points=['trunk'])
    net.defense.mask.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[1]))
    net(torch.rand(1, 3, 12, 12))
    assert seen == [8]
    with pytest.raises(ValueError, match="no mask point 'tail'; it has input, trunk, upsampler"):
        build(backbone, points=['tail'])


def test_copy_uses_its_own_defence(backbone):
    net = build(backbone)
    copied, x = copy.deepcopy(net), torch.rand(1, 3, 12, 12)
    with net.defense.forced(True):
        assert not torch.equal(net(x), net(x))
        copied.defense.gate = 'never'
        assert torch.equal(copied(x), copied(x))


def test_only_parameters_no_buffers(backbone):
    # BasicSR's moving average copies parameters only.
    assert not list(build(backbone).defense.buffers())


def test_gradients_reach_the_image_through_the_masks(backbone):
    net, x = build(backbone, gate='always'), torch.rand(1, 3, 12, 12, requires_grad=True)
    net(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_third_party_architecture_in_one_line():
    @register_defended({'last': MaskPoint('layers.-1')})
    @ARCH_REGISTRY.register()
    class ThirdPartyNet(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1), nn.Conv2d(width, 3, 3, 1, 1))

        def forward(self, x):
            return self.layers(x)

    net = build_network({'type': 'DefendedThirdPartyNet', 'width': 4, 'defense': {'gate': 'always'}})
    assert net.mask_points == ('input', 'last') and isinstance(net, ThirdPartyNet)
    assert net(torch.rand(1, 3, 9, 9)).shape == (1, 3, 9, 9)


def test_defending_twice_is_refused():
    with pytest.raises(TypeError, match='DefendedRRDBNet is defended already'):
        defend(defend(RRDBNet))


PLACES = {
    RRDBNet: [
        ('input', '', (3, 20, 24)),
        ('trunk', 'conv_body', (8, 20, 24)),
        ('upsampler', 'conv_up1', (8, 20, 24), 2),
    ],
    SwinIR: [
        ('input', '', (3, 20, 24)),
        ('trunk', 'conv_after_body', (8, 20, 24)),
        ('upsampler', 'upsample', (64, 20, 24)),
    ],
    CDC: [
        ('input', '', (3, 20, 24)),
        ('hourglass', 'hourglasses.0', (4, 32, 32)),
        ('inner', 'hourglasses.0.inner', (4, 32, 32)),
        ('hourglass', 'hourglasses.1', (4, 32, 32)),
        ('inner', 'hourglasses.1.inner', (4, 32, 32)),
    ],
}


@pytest.mark.parametrize('cls', PLACES, ids=lambda cls: cls.__name__)
def test_places_of_the_masks(cls):
    net, seen = build(cls, gate='always'), []
    assert net.mask_places(20, 24) == [MaskPlace(*place) for place in PLACES[cls]]
    # They must be the tensors that are masked, in the same order.
    net.defense.mask.register_forward_hook(lambda module, args, output: seen.append(tuple(args[0].shape[1:])))
    net(torch.rand(1, 3, 20, 24))
    assert seen == [place[2] for place in PLACES[cls]]


def test_presets_of_points():
    assert build(RRDBNet, points=['all']).mask_points == build(RRDBNet).mask_points == ('input', 'trunk', 'upsampler')
    assert build(RRDBNet, points=['features']).mask_points == ('trunk', 'upsampler')
    assert build(RRDBNet, points=['input']).mask_points == ('input',) and build(RRDBNet, points=[]).mask_points == ()
    with pytest.raises(ValueError, match='features, trunk names a mask point twice'):
        build(RRDBNet, points=['features', 'trunk'])


@pytest.mark.parametrize(
    'wrong',
    [
        {'decision': 'pixel'},
        {'mask_samples': 0},
        {'seed': -1},
        {'classifier': {'type': 'paper', 'pool_by': 'width'}},
        {'classifier': {'type': 'spectrum'}},
    ],
)
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match='must be|there is no classifier of type'):
        build(RRDBNet, **wrong)
