"""Defended architectures: outputs, weights, and the gate."""

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
from rsr_basicsr.archs import CDC
from rsr_basicsr.archs.defended_arch import MaskPlace
from rsr_basicsr.archs.frequency_mask_arch import repeatable_mask
from rsr_basicsr.attacks import IFGSM
from rsr_basicsr.ops.frequency import dct2, idct2
from rsr_basicsr.weights.official import WEIGHTS
from rsr_basicsr.weights.state_dict import load_state

BACKBONES = {
    RRDBNet: dict(num_in_ch=3, num_out_ch=3, num_feat=8, num_block=1, num_grow_ch=4),
    SRVGGNetCompact: dict(num_feat=8, num_conv=2),
    MSRResNet: dict(num_feat=8, num_block=2),
    EDSR: dict(num_in_ch=3, num_out_ch=3, num_feat=8, num_block=1),
    RCAN: dict(num_in_ch=3, num_out_ch=3, num_feat=8, num_group=1, num_block=1, squeeze_factor=2),
    SwinIR: dict(
        img_size=12, window_size=4, depths=(1,), embed_dim=8, num_heads=(1,), upscale=4, upsampler='pixelshuffle'
    ),
}
SMALL_CDC = dict(num_feat=4, num_hourglass=2)
BACKBONE_IDS = [cls.__name__ for cls in BACKBONES]


def build(cls, **defense):
    options = BACKBONES.get(cls, SMALL_CDC)
    return build_network({'type': f'Defended{cls.__name__}', **options, 'defense': defense}).eval()


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


def test_gate_is_per_sample(backbone):
    net, x = build(backbone), torch.rand(3, 3, 12, 12)
    with net.defense.forced(False):
        clean = net(x)
    with net.defense.forced(torch.tensor([False, True, False])):
        mixed = net(x)
    torch.testing.assert_close(mixed[[0, 2]], clean[[0, 2]], atol=1e-6, rtol=0)
    assert (mixed[1] - clean[1]).abs().max() > 1e-4


def test_classifier_controls_the_gate():
    net, x = build(SRVGGNetCompact, classifier={'threshold': 1.0}), torch.rand(2, 3, 12, 12)
    assert net.defense.attacked(x).tolist() == [True, True] and not torch.equal(net(x), net(x))
    net.defense.threshold = 0.0
    assert net.defense.attacked(x).tolist() == [False, False] and torch.equal(net(x), net(x))


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
    assert net.points == ('input', 'last') and isinstance(net, ThirdPartyNet)
    assert net(torch.rand(1, 3, 9, 9)).shape == (1, 3, 9, 9)


def test_defending_twice_is_refused():
    with pytest.raises(TypeError, match='DefendedRRDBNet is defended already'):
        defend(defend(RRDBNet))


class Identity(nn.Module):
    """Identity backbone, so that the output of the defence can be written out."""

    def forward(self, x):
        return x


def masked_identity(x, place=0, seed=0):
    return idct2(dct2(x) * repeatable_mask((0.43, 0.5), seed, place, *x.shape[-2:], x.device))


def threshold_between(net, x):
    """A threshold that flags some of the images and not others."""
    return net.defense.classifier.clean_probability(x).sort().values[1:3].mean().item()


@pytest.mark.parametrize('gate', ['classifier', 'soft', 'always', 'never'])
@pytest.mark.parametrize('cls', [*BACKBONES, CDC], ids=lambda cls: cls.__name__)
def test_seeded_output_is_independent_of_the_batch(cls, gate):
    net = build(cls, gate=gate, seed=7, mask_samples=2)
    x = torch.rand(4, 3, 16, 24)
    with torch.no_grad():
        net.defense.threshold = threshold_between(net, x)
        together = net(x)
        for index in range(4):
            assert torch.equal(net(x[index : index + 1]), together[index : index + 1])
        assert torch.equal(net(x[1:3]), together[1:3]) and torch.equal(net(x.flip(0)), together.flip(0))
        if gate == 'classifier':
            attacked = net.defense.attacked(x)
            assert attacked.any() and not attacked.all()
            assert torch.equal(net.defense.attacked(x[:1]), attacked[:1])


def test_seeded_real_network_is_independent_of_the_batch(real_network):
    net = build_network(
        {**WEIGHTS['realesr-animevideov3'].network, 'type': 'DefendedSRVGGNetCompact', 'defense': {'seed': 0}}
    ).eval()
    net.load_state_dict(real_network.state_dict())
    x = torch.rand(3, 3, 24, 24)
    with torch.no_grad():
        net.defense.threshold = threshold_between(net, x)
        together = net(x)
        assert all(torch.equal(net(x[i : i + 1]), together[i : i + 1]) for i in range(3))


def test_masks_depend_on_the_seed():
    net, x = build(RRDBNet, gate='always', seed=1), torch.rand(1, 3, 16, 16)
    first = net(x)
    assert torch.equal(net(x), first)
    net.defense.seed = 2
    assert not torch.equal(net(x), first)
    net.train()  # a network must not learn to fill in one mask
    assert not torch.equal(net(x), net(x))


def test_batch_decides_by_its_mean():
    net, x = build(SRVGGNetCompact, decision='batch'), torch.rand(4, 3, 16, 16)
    clean = net.defense.classifier.clean_probability(x).detach().double().numpy()
    net.defense.threshold = ((clean.mean() + clean.max()) / 2).item()
    assert net.defense.attacked(x).tolist() == [True] * 4 and not (clean < net.defense.threshold).all()
    net.defense.threshold = ((clean.mean() + clean.min()) / 2).item()
    assert net.defense.attacked(x).tolist() == [False] * 4 and (clean < net.defense.threshold).any()


def test_soft_gate_blends_by_the_probability():
    net, x = defend(Identity)(defense={'gate': 'soft', 'seed': 0}).eval(), torch.rand(3, 3, 16, 20)
    share = (1 - net.defense.classifier.clean_probability(x)).view(-1, 1, 1, 1)
    assert share.min() > 0.1 and share.max() < 0.9
    torch.testing.assert_close(net(x), (1 - share) * x + share * masked_identity(x))


def test_mask_samples_are_averaged():
    net, x = defend(Identity)(defense={'gate': 'always', 'seed': 0, 'mask_samples': 3}).eval(), torch.rand(1, 3, 16, 20)
    expected = sum(masked_identity(x, place) for place in range(3)) / 3
    torch.testing.assert_close(net(x), expected)
    net.defense.seed = None
    assert (net(x) - x).square().mean() < (defend(Identity)(defense={'gate': 'always'})(x) - x).square().mean()


def test_unmasked_images_are_bitwise_unchanged_by_averaging():
    net, x = defend(Identity)(defense={'mask_samples': 3}).eval(), torch.rand(4, 3, 16, 20)
    with net.defense.forced(torch.tensor([True, False, True, False])):
        output = net(x)
    assert torch.equal(output[[1, 3]], x[[1, 3]]) and not torch.allclose(output[[0, 2]], x[[0, 2]], atol=1e-3)


@pytest.mark.parametrize('seed', [None, 0])
def test_decisions_of_another_number_of_images_are_refused(seed):
    net, x = defend(Identity)(defense={'seed': seed}).eval(), torch.rand(4, 3, 16, 20)
    with net.defense.forced(torch.tensor([True])):
        assert net(x).shape == x.shape
    with pytest.raises(RuntimeError), net.defense.forced(torch.tensor([True, False])):
        net(x)


@pytest.mark.parametrize('decision', ['image', 'batch'])
def test_nan_image_counts_as_attacked(decision):
    net = defend(Identity)(defense={'decision': decision, 'classifier': {'threshold': 0.0}}).eval()
    x = torch.rand(2, 3, 16, 16)
    assert not net.defense.attacked(x).any()
    x[0, 0, 0, 0] = torch.nan
    assert net.defense.attacked(x).tolist() == [True, decision == 'batch']


def test_forced_decisions_nest():
    net, x = defend(Identity)(defense={'gate': 'never', 'seed': 0}).eval(), torch.rand(1, 3, 16, 20)
    with net.defense.forced(True):
        with net.defense.forced(False):
            assert torch.equal(net(x), x)
        torch.testing.assert_close(net(x), masked_identity(x))
    assert torch.equal(net(x), x)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_gradients_and_attacks_inside_autocast(dtype):
    net, x = build(RRDBNet, gate='always', seed=0), torch.rand(1, 3, 16, 16, requires_grad=True)
    (expected,) = torch.autograd.grad(net(x).sum(), x)
    with torch.autocast('cpu', dtype=dtype):
        (gradient,) = torch.autograd.grad(net(x).float().sum(), x)
        attacked = IFGSM(eps=4, steps=2)(net, x)
    assert (gradient - expected).norm() < 0.1 * expected.norm()
    assert (attacked - x).abs().max() > 1 / 255


@pytest.mark.parametrize('threshold', [0.0, 1.0], ids=['shut', 'open'])
def test_gradient_straight_through_the_gate(threshold):
    undecided = {'type': 'paper', 'weights': 'untrained', 'threshold': threshold}
    net = defend(Identity)(defense={'seed': 0, 'classifier': undecided}).eval().double()
    x = torch.rand(1, 3, 12, 12, dtype=torch.float64, requires_grad=True)
    v, direction = torch.randn_like(x), torch.randn_like(x)
    plain = net(x)
    with net.defense.straight_through():
        output = net(x)
    torch.testing.assert_close(output, plain, rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad((output * v).sum(), x)

    with torch.no_grad():
        # The path itself, with its masks or without, and P(attacked) by a finite difference.
        path = masked_identity(direction) if threshold else direction
        step = 1e-5
        p = [1 - net.defense.classifier.clean_probability(x + sign * step * direction) for sign in (1, -1)]
        steered = (p[0] - p[1]) / (2 * step) * ((masked_identity(x) - x) * v).sum()
        expected = (path * v).sum() + steered
    assert steered.abs() > 1e-6
    torch.testing.assert_close((gradient * direction).sum(), expected.squeeze(), rtol=1e-4, atol=1e-6)


def test_no_gradient_through_a_gate_that_is_not_used():
    net = defend(Identity)(defense={'seed': 0, 'classifier': {'threshold': 1.0}}).eval()
    x, v = torch.rand(1, 3, 12, 12, requires_grad=True), torch.randn(1, 3, 12, 12)
    (gradient,) = torch.autograd.grad((net(x) * v).sum(), x)
    torch.testing.assert_close(gradient, masked_identity(v))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('gate', ['classifier', 'always'])
def test_half_precision_is_close_to_float32(backbone, gate, dtype):
    net, x = build(backbone, gate=gate, seed=0, classifier={'threshold': 1.0}), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        expected = net(x)
        with torch.autocast('cpu', dtype=dtype):
            output = net(x)
    assert torch.isfinite(output).all()
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=1e-2)


def test_half_precision_of_real_weights_is_close(real_network):
    net = build_network(
        {
            **WEIGHTS['realesr-animevideov3'].network,
            'type': 'DefendedSRVGGNetCompact',
            'defense': {'seed': 0, 'gate': 'always'},
        }
    ).eval()
    net.load_state_dict(real_network.state_dict())
    x = F.interpolate(torch.rand(1, 3, 6, 6), size=24, mode='bicubic').clamp(0, 1)

    def error(dtype):
        with torch.no_grad(), torch.autocast('cpu', dtype=dtype):
            output = net(x).float()
        assert torch.isfinite(output).all()
        return (output - expected).abs()

    with torch.no_grad():
        expected = net(x)
    assert error(torch.float16).max() < 1e-2
    # bfloat16 has steps of 1/256 near white, and the backbone alone goes a little beyond 1e-2 in its worst pixel.
    assert error(torch.bfloat16).square().mean().sqrt() < 1e-2
    bfloat16 = error(torch.bfloat16).max()
    net.defense.gate = 'never'
    with torch.no_grad():
        expected = net(x)
    assert bfloat16 < 2 * error(torch.bfloat16).max()


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
    assert build(RRDBNet, points=['all']).points == build(RRDBNet).points == ('input', 'trunk', 'upsampler')
    assert build(RRDBNet, points=['features']).points == ('trunk', 'upsampler')
    assert build(RRDBNet, points=['input']).points == ('input',) and build(RRDBNet, points=[]).points == ()
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
    with pytest.raises(ValueError, match='must be'):
        build(RRDBNet, **wrong)


def test_unknown_gate_is_refused():
    with pytest.raises(ValueError, match="classifier, soft, always, never, got 'sometimes'"):
        build(MSRResNet, gate='sometimes')
