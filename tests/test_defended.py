"""Defended architectures: what they compute, what they load, how the gate rules them."""

import copy

import pytest
import torch
from basicsr.archs import build_network
from basicsr.archs.edsr_arch import EDSR
from basicsr.archs.rcan_arch import RCAN
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.archs.srresnet_arch import MSRResNet
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from basicsr.archs.swinir_arch import SwinIR
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn
from torch.nn import functional as F

from rsr_basicsr import MaskPoint, defend, register_defended
from rsr_basicsr.archs import RandomFrequencyMask
from rsr_basicsr.weights import WEIGHTS, load_state

BACKBONES = {
    RRDBNet: dict(num_in_ch=3, num_out_ch=3, num_feat=8, num_block=1, num_grow_ch=4),
    SRVGGNetCompact: dict(num_feat=8, num_conv=2),
    MSRResNet: dict(num_feat=8, num_block=2),
    EDSR: dict(num_in_ch=3, num_out_ch=3, num_feat=8, num_block=1),
    RCAN: dict(num_in_ch=3, num_out_ch=3, num_feat=8, num_group=1, num_block=1, squeeze_factor=2),
    SwinIR: dict(img_size=12, window_size=4, depths=(1,), embed_dim=8, num_heads=(1,), upscale=4,
                 upsampler='pixelshuffle'),
}
BACKBONE_IDS = [cls.__name__ for cls in BACKBONES]


def build(cls, **defense):
    return build_network({'type': f'Defended{cls.__name__}', **BACKBONES[cls], 'defense': defense}).eval()


@pytest.fixture(params=BACKBONES, ids=BACKBONE_IDS)
def backbone(request):
    return request.param


def test_gate_never_is_the_plain_backbone(backbone):
    net, x = build(backbone, gate='never'), torch.rand(2, 3, 12, 12)
    plain = backbone(**BACKBONES[backbone])
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith('defense.')})
    assert torch.equal(net(x), plain.eval()(x))


def test_plain_weights_load_strictly(backbone):
    plain, net = backbone(**BACKBONES[backbone]), build(backbone)
    classifier = copy.deepcopy(net.defense.classifier.state_dict())
    net.load_state_dict(plain.state_dict(), strict=True)
    assert all(torch.equal(net.state_dict()[k], v) for k, v in plain.state_dict().items())
    assert all(torch.equal(net.defense.classifier.state_dict()[k], v) for k, v in classifier.items())


def test_a_damaged_file_does_not_load(backbone):
    net = build(backbone)
    without_one = dict(net.state_dict())
    del without_one['defense.classifier.body.2.bias']
    with pytest.raises(RuntimeError, match='defense.classifier.body.2.bias'):
        net.load_state_dict(without_one)
    with pytest.raises(RuntimeError, match='Missing key'):
        net.load_state_dict({})


def test_real_weights_load_strictly(real_weights):
    options = dict(WEIGHTS['realesr-animevideov3'].network)
    net = build_network({**options, 'type': 'DefendedSRVGGNetCompact'})
    state = load_state(real_weights)
    net.load_state_dict(state, strict=True)
    assert torch.equal(net.body[4].weight, state['body.4.weight'])


def test_gate_is_per_sample(backbone):
    net, x = build(backbone), torch.rand(3, 3, 12, 12)
    with net.defense.forced(False):
        clean = net(x)
    with net.defense.forced(torch.tensor([False, True, False])):
        mixed = net(x)
    torch.testing.assert_close(mixed[[0, 2]], clean[[0, 2]], atol=1e-6, rtol=0)
    assert (mixed[1] - clean[1]).abs().max() > 1e-4


def test_classifier_rules_the_gate():
    net, x = build(SRVGGNetCompact, classifier={'threshold': 1.0}), torch.rand(2, 3, 12, 12)
    assert net.defense.decide(x).tolist() == [True, True] and not torch.equal(net(x), net(x))
    net.defense.threshold = 0.0
    assert net.defense.decide(x).tolist() == [False, False] and torch.equal(net(x), net(x))


def test_rrdbnet_masks_where_the_paper_does():
    net, x = build(RRDBNet, gate='always'), torch.rand(2, 3, 12, 10)
    net.defense.generator = torch.Generator().manual_seed(3)
    output = net(x)

    mask, generator = RandomFrequencyMask(), torch.Generator().manual_seed(3)
    first = net.conv_first(mask(x, generator))
    hooked = net.conv_body._forward_pre_hooks
    net.conv_body._forward_pre_hooks = type(hooked)()
    trunk = net.conv_body(mask(net.body(first), generator))
    features = mask(first + trunk, generator)
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


def test_a_copy_masks_with_its_own_defence(backbone):
    net = build(backbone)
    twin, x = copy.deepcopy(net), torch.rand(1, 3, 12, 12)
    with net.defense.forced(True):
        assert not torch.equal(net(x), net(x))
        twin.defense.gate = 'never'
        assert torch.equal(twin(x), twin(x))


def test_only_parameters_no_buffers(backbone):
    # The moving average of BasicSR copies parameters only.
    assert not list(build(backbone).defense.buffers())


def test_gradients_reach_the_picture_through_the_masks(backbone):
    net, x = build(backbone, gate='always'), torch.rand(1, 3, 12, 12, requires_grad=True)
    net(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_third_party_architecture_in_one_line():
    @register_defended({'last': MaskPoint('layers.-1')})
    @ARCH_REGISTRY.register()
    class ThirdPartyNet(nn.Module):
        def __init__(self, width):
            super(ThirdPartyNet, self).__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1), nn.Conv2d(width, 3, 3, 1, 1))

        def forward(self, x):
            return self.layers(x)

    net = build_network({'type': 'DefendedThirdPartyNet', 'width': 4, 'defense': {'gate': 'always'}})
    assert net.points == ('input', 'last') and isinstance(net, ThirdPartyNet)
    assert net(torch.rand(1, 3, 9, 9)).shape == (1, 3, 9, 9)


def test_defending_twice_is_refused():
    with pytest.raises(TypeError, match='DefendedRRDBNet is defended already'):
        defend(defend(RRDBNet))


def test_unknown_gate_is_refused():
    with pytest.raises(ValueError, match="classifier, always, never, got 'sometimes'"):
        build(MSRResNet, gate='sometimes')
