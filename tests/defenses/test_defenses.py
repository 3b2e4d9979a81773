"""What every baseline defence does, also under attack, and building them from options."""

import math

import pytest
import torch
from defense_cases import AS_IT_IS, SIZES, honest, seeded
from torch import nn

from networks import DefendedGain
from rsr_basicsr.attacks import PGD, RandomNoise
from rsr_basicsr.defenses import (
    DEFENSE_REGISTRY,
    JPEG,
    BitDepth,
    Blend,
    ClipToBicubic,
    Gaussian,
    InputTransform,
    LowPass,
    Median,
    MedianSmoothing,
    RandomResizePad,
    SelfEnsemble,
    TotalVariation,
    build_defense,
)
from rsr_basicsr.ops.tiled import defenses, upscale

EVERY = pytest.mark.parametrize(
    'cls',
    [
        JPEG,
        BitDepth,
        Median,
        Gaussian,
        TotalVariation,
        RandomResizePad,
        LowPass,
        SelfEnsemble,
        MedianSmoothing,
        Blend,
        ClipToBicubic,
    ],
)


@EVERY
@SIZES
def test_shape_gradient_and_empty_state_dict(cls, size):
    inner = honest()
    net, x = cls(inner), torch.rand(2, 3, *size)
    before = x.clone()
    output = net(x.requires_grad_())
    assert output.shape == (2, 3, 2 * size[0], 2 * size[1]) and output.dtype == torch.float32
    (gradient,) = torch.autograd.grad(output.square().sum(), x)
    assert torch.equal(x, before) and gradient.isfinite().all() and (gradient.flatten(1) != 0).any(1).all()
    assert set(net.state_dict()) == {f'net.{key}' for key in inner.state_dict()}
    assert [*net.parameters()] == [*inner.parameters()] and not [*net.buffers()]


@EVERY
def test_samples_are_independent(cls):
    net, x = cls(honest()), torch.rand(3, 3, 17, 14)
    other = torch.cat([x[:1], torch.rand(2, 3, 17, 14)])
    assert torch.equal(seeded(5, net, x)[0], seeded(5, net, other)[0])
    if cls not in (RandomResizePad, MedianSmoothing):
        torch.testing.assert_close(net(x)[1:2], net(x[1:2]))


@EVERY
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_keeps_the_precision(cls, dtype):
    net, x = cls(AS_IT_IS), torch.rand(1, 3, 9, 12)
    output = seeded(5, net, x.to(dtype))
    assert output.dtype == dtype
    if cls is not MedianSmoothing and (cls is not JPEG or dtype == torch.float64):  # other noise, another code
        torch.testing.assert_close(output.float(), seeded(5, net, x), atol=0.04, rtol=0)
    with torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(seeded(5, net, x), seeded(5, net, x.contiguous(memory_format=torch.channels_last)))


@EVERY
def test_an_inner_defence_is_found_and_decides(cls, photo):
    inner = DefendedGain(defense={'gate': 'classifier', 'seed': 1}).eval()
    net, x = cls(inner), photo[..., :24, :24]
    assert defenses(net) == [inner.defense]
    assert upscale(net, x, tile=16).shape == (1, 3, 48, 48)
    assert PGD(eps=4, steps=1, gate='always')(net, x).shape == x.shape


@EVERY
def test_attacks_go_through(cls, photo):
    torch.manual_seed(2)
    net, lq = cls(honest()).eval(), photo[..., :24, :24]

    def loss(attack):  # the same random numbers for both images: the rest is the effect of the attack
        attacked = attack(net, lq)
        with torch.no_grad():
            return sum((seeded(s, net, attacked) - seeded(s, net, lq)).square().mean().item() for s in range(4))

    # No perturbation moves bicubic upscaling much further than noise does.
    margin = 1.05 if cls in (Blend, ClipToBicubic) else 2
    assert loss(PGD(eps=8, steps=6)) > margin * loss(RandomNoise(eps=8))


@EVERY
@pytest.mark.parametrize('value', [0.0, 1.0, 0.4])
def test_an_image_of_one_colour_is_unchanged(cls, value):
    x = torch.full((1, 3, 12, 15), value)
    tolerance = 8 / 255 if cls is MedianSmoothing else 1 / 62 if cls is BitDepth else 1 / 510 + 1e-5
    torch.testing.assert_close(seeded(1, cls(AS_IT_IS), x), x, atol=tolerance, rtol=0)


def test_build_defense():
    net = honest()
    built = build_defense({'type': 'RandomResizePad', 'scale': [0.9, 1.2], 'padding': 4}, net)
    assert isinstance(built, RandomResizePad) and built.net is net
    assert 'scale=(0.9, 1.2), padding=4' in repr(built)
    for name in DEFENSE_REGISTRY.keys():
        assert type(build_defense({'type': name}, net)).__name__ == name


@pytest.mark.parametrize(
    'options, sentence',
    [
        ('JPEG', "expected defence as a block with type and arguments, got 'JPEG'"),
        ({}, 'the defence block {} has no type; known are BitDepth, Blend, ClipToBicubic'),
        ({'type': 'jpeg'}, "no defence of type 'jpeg'; did you mean 'JPEG'?"),
        ({'type': ['JPEG']}, 'no defence of type'),
        ({'type': 'JPEG', 'qualty': 3}, "JPEG has no argument 'qualty'; did you mean 'quality'?"),
        ({'type': 'JPEG', 'net': 3}, "JPEG has no argument 'net'; it takes quality"),
        ({'type': 'SelfEnsemble', 'copies': 3}, "SelfEnsemble has no argument 'copies'; it takes none"),
        ({'type': 'JPEG', 'quality': 0}, 'expected quality >= 1 and <= 100, a whole number, got 0'),
        ({'type': 'JPEG', 'quality': 50.5}, 'got 50.5'),
        ({'type': 'BitDepth', 'bits': 9}, 'expected bits >= 1 and <= 8'),
        ({'type': 'BitDepth', 'bits': True}, 'got True'),
        ({'type': 'Median', 'size': 4}, 'expected size to be odd, got 4; take 3 or 5'),
        ({'type': 'Gaussian', 'sigma': 0}, 'expected sigma > 0 and <= 100, got 0'),
        ({'type': 'Gaussian', 'sigma': 'much'}, "got 'much'"),
        ({'type': 'TotalVariation', 'weight': -1}, 'expected weight > 0 and <= 100, got -1'),
        ({'type': 'RandomResizePad', 'scale': 1.1}, 'expected scale as two numbers'),
        ({'type': 'RandomResizePad', 'scale': [1.1, 1.0]}, 'swap them'),
        ({'type': 'RandomResizePad', 'scale': [0, 1]}, 'expected each of scale > 0'),
        ({'type': 'RandomResizePad', 'padding': -1}, 'expected padding >= 0'),
        ({'type': 'LowPass', 'keep_radius': [0.5, 1.5]}, 'expected each of keep_radius >= 0 and <= 1, got 1.5'),
        ({'type': 'LowPass', 'keep_radius': [0.5, math.nan]}, 'got nan'),
        ({'type': 'MedianSmoothing', 'sigma': -1}, 'expected sigma in 1/255 units >= 0'),
        ({'type': 'MedianSmoothing', 'copies': 0}, 'expected copies >= 1'),
    ],
)
def test_build_defense_exception(options, sentence):
    with pytest.raises(ValueError) as error:
        build_defense(options, honest())
    assert sentence in str(error.value) and '\n' not in str(error.value)


@pytest.fixture
def registered():
    """The registry; what a test adds is removed afterwards."""
    before = set(DEFENSE_REGISTRY.keys())
    yield DEFENSE_REGISTRY
    for name in set(DEFENSE_REGISTRY.keys()) - before:
        del DEFENSE_REGISTRY._obj_map[name]


def test_defences_of_users(registered):
    @registered.register()
    class Dim(InputTransform):
        def __init__(self, net, *, factor):
            super().__init__(net)
            self.factor = factor

        def transform(self, x):
            return self.factor * x

    @registered.register()
    class HarderJPEG(JPEG):
        def __init__(self, net, *, less=10, **common):
            super().__init__(net, **common)
            self.quality -= less

    @registered.register()
    def twice(net, times=2):
        return nn.Sequential(*[net] * times)

    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(build_defense({'type': 'Dim', 'factor': 0.5}, AS_IT_IS)(x), x / 2)
    assert build_defense({'type': 'HarderJPEG', 'quality': 50, 'less': 20}, AS_IT_IS).quality == 30
    assert len(build_defense({'type': 'twice', 'times': 3}, AS_IT_IS)) == 3
    for options, sentence in (
        ({'type': 'Dim'}, 'Dim needs factor; add'),
        ({'type': 'twice', 'time': 3}, "did you mean 'times'"),
        ({'type': 'HarderJPEG', 'qualit': 3}, "HarderJPEG has no argument 'qualit'; did you mean 'quality'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            build_defense(options, AS_IT_IS)
