"""The baseline defences against independent implementations, and against attacks."""

import functools
import io
import math

import cv2
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import torch
from basicsr.utils import DiffJPEG
from PIL import Image
from skimage.restoration import denoise_tv_chambolle
from torch import nn
from torch.nn import functional as F

from networks import DefendedGain
from rsr_basicsr.archs import RandomFrequencyMask
from rsr_basicsr.attacks import PGD, RandomNoise
from rsr_basicsr.defenses import (
    DEFENSE_REGISTRY,
    JPEG,
    BitDepth,
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
    'cls', [JPEG, BitDepth, Median, Gaussian, TotalVariation, RandomResizePad, LowPass, SelfEnsemble, MedianSmoothing]
)
SIZES = pytest.mark.parametrize('size', [(8, 8), (13, 22), (37, 20)])
AS_IT_IS = nn.Identity()


def honest():
    """A small network of random filters that upscales by 2, where attacks reach several times the loss of noise."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2), nn.LeakyReLU(0.2), nn.Conv2d(8, 3, 5, padding=2), nn.Upsample(None, 2)
    )


def bilinear(scale):
    return functools.partial(F.interpolate, scale_factor=scale, mode='bilinear')


def seeded(seed, net, x):
    torch.manual_seed(seed)
    return net(x)


def pixels(x):
    """(1, 3, H, W) in [0, 1] -> uint8 (H, W, 3)."""
    return (x[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


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

    assert loss(PGD(eps=8, steps=6)) > 2 * loss(RandomNoise(eps=8))


@EVERY
@pytest.mark.parametrize('value', [0.0, 1.0, 0.4])
def test_an_image_of_one_colour_is_unchanged(cls, value):
    x = torch.full((1, 3, 12, 15), value)
    tolerance = 8 / 255 if cls is MedianSmoothing else 1 / 62 if cls is BitDepth else 1 / 510 + 1e-5
    torch.testing.assert_close(seeded(1, cls(AS_IT_IS), x), x, atol=tolerance, rtol=0)


@SIZES
@pytest.mark.parametrize('quality', [10, 75, 100])
def test_jpeg_against_reference(photo, size, quality):
    x = photo[..., : size[0], : size[1]]
    file = io.BytesIO()
    Image.fromarray(pixels(x)).save(file, 'JPEG', quality=quality)
    expected = np.asarray(Image.open(file)).astype(int)
    found = JPEG(AS_IT_IS, quality=quality)(x)
    levels = found * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    difference = np.abs(pixels(found).astype(int) - expected)
    assert difference.mean() < 0.5 and difference.max() <= 8  # decoders may round differently


def test_jpeg_of_a_batch_against_opencv(photo):
    x = torch.cat([photo, photo.flip(-1), photo.roll(5, 1)])[..., :40, :48]
    found = JPEG(AS_IT_IS, quality=30)(x)
    for one, coded in zip(x.split(1), found.split(1)):
        code = cv2.imencode('.jpg', cv2.cvtColor(pixels(one), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 30])[1]
        assert np.array_equal(pixels(coded), cv2.cvtColor(cv2.imdecode(code, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))


@pytest.mark.parametrize('quality', [30, 90])
def test_the_gradient_through_jpeg_is_that_of_the_surrogate(photo, quality):
    x, direction = photo[..., :32, :48].clone().requires_grad_(), torch.randn(1, 3, 32, 48)
    found, expected = (
        torch.autograd.grad((coded * direction).sum(), x)[0]
        for coded in (JPEG(AS_IT_IS, quality=quality)(x), DiffJPEG(differentiable=True)(x, quality))
    )
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected)


def test_the_surrogate_of_jpeg_does_not_affect_other_instances():
    x = torch.rand(1, 3, 16, 16, requires_grad=True)
    other = DiffJPEG(differentiable=False)
    tables = [(p, p.device, p.requires_grad) for p in other.parameters()]
    JPEG(AS_IT_IS).to(torch.float64)(x).sum().backward()
    assert all(
        p.requires_grad is asks and p.device == device and p.dtype == torch.float32 and p.grad is None
        for p, device, asks in tables
    )


@pytest.mark.parametrize('bits', [1, 5, 8])
def test_bit_depth_rounds_to_levels(bits):
    x, levels = torch.rand(2, 3, 9, 12), 2**bits - 1
    found = BitDepth(AS_IT_IS, bits=bits)(x).numpy()
    np.testing.assert_allclose(found, np.floor(x.numpy() * levels + 0.5) / levels, atol=1e-6)
    assert len(np.unique(found)) <= 2**bits


@SIZES
@pytest.mark.parametrize('filter_size', [3, 5, 19])  # the largest reaches further than the smallest image
def test_median_filter(size, filter_size):
    x = torch.rand(2, 3, *size)
    expected = scipy.ndimage.median_filter(x.numpy(), size=(1, 1, filter_size, filter_size), mode='mirror')
    assert np.array_equal(Median(AS_IT_IS, size=filter_size)(x).numpy(), expected)


@SIZES
@pytest.mark.parametrize('sigma', [0.05, 1.0, 3.3])
def test_gaussian_blur(size, sigma):
    x = torch.rand(2, 3, *size)
    expected = scipy.ndimage.gaussian_filter(x.double().numpy(), (0, 0, sigma, sigma), mode='mirror', truncate=4)
    np.testing.assert_allclose(Gaussian(AS_IT_IS, sigma=sigma)(x).numpy(), expected, atol=1e-5)


def test_total_variation_denoises_each_image(photo):
    x = torch.cat([photo, torch.rand_like(photo)])[..., :20, :31]
    found = TotalVariation(AS_IT_IS, weight=0.1)(x)
    for one, denoised in zip(x, found):
        expected = denoise_tv_chambolle(one.permute(1, 2, 0).numpy(), weight=0.1, channel_axis=2)
        np.testing.assert_allclose(denoised.permute(1, 2, 0).numpy(), expected, atol=1e-6)
    steps = [(y.diff(dim=-1).abs().sum() + y.diff(dim=-2).abs().sum()).item() for y in (found, x)]
    assert steps[0] < 0.8 * steps[1]


@pytest.mark.parametrize('cls', [BitDepth, TotalVariation])
def test_gradient_of_the_identity(cls):
    x, direction = torch.rand(1, 3, 9, 12, requires_grad=True), torch.randn(1, 3, 9, 12)
    assert torch.equal(torch.autograd.grad((cls(AS_IT_IS)(x) * direction).sum(), x)[0], direction)


@pytest.mark.parametrize('cls', [Median, Gaussian, LowPass, RandomResizePad, SelfEnsemble, MedianSmoothing])
def test_gradients_of_their_own(cls):
    x = (0.2 + 0.6 * torch.rand(1, 2, 5, 6, dtype=torch.float64)).requires_grad_()
    net = cls(AS_IT_IS)
    if isinstance(net, MedianSmoothing):
        net.sigma = 2.0
    assert torch.autograd.gradcheck(lambda y: seeded(3, net, y), x, eps=1e-7, atol=1e-5, fast_mode=True)


@pytest.mark.parametrize('keep_radius', [(0.43, 0.50), (0.0, 0.3), (0.2, 0.2)])
@pytest.mark.parametrize('size', [(8, 8), (24, 33), (48, 48)])
def test_low_pass_keeps_as_much_as_the_random_mask(keep_radius, size):
    kept = LowPass(AS_IT_IS, keep_radius=keep_radius)(scipy_idct(torch.ones(1, 1, *size)))
    kept = scipy.fft.dctn(kept.numpy(), norm='ortho', axes=(-2, -1))[0, 0]
    np.testing.assert_allclose(kept, kept.round(), atol=1e-4)
    kept = kept.round().astype(bool)
    masks = RandomFrequencyMask(keep_radius).draw(torch.zeros(1500, 1, *size)).sum((1, 2, 3)).double()
    assert abs(kept.sum() - masks.mean()) <= 0.5 + 4 * masks.std() / math.sqrt(len(masks))
    distance = np.hypot(*np.mgrid[: size[0], : size[1]])
    assert distance[kept].max() <= distance[~kept].min() + 1e-6


def scipy_idct(X):
    return torch.from_numpy(scipy.fft.idctn(X.numpy(), norm='ortho', axes=(-2, -1)))


def test_low_pass_does_not_change_what_it_keeps(photo):
    x = photo[..., :37, :50]
    before, after = (scipy.fft.dctn(y.numpy(), norm='ortho', axes=(-2, -1)) for y in (x, LowPass(AS_IT_IS)(x)))
    distance = np.hypot(*np.mgrid[:37, :50])
    low, high = distance < 0.55 * distance.max(), distance > 0.75 * distance.max()
    np.testing.assert_allclose(after[..., low], before[..., low], atol=1e-4)
    np.testing.assert_allclose(after[..., high], 0, atol=1e-4)


def test_self_ensemble_is_equivariant():
    net, x = SelfEnsemble(honest()), torch.rand(2, 3, 9, 14)
    for turn in (lambda y: y.flip(-1), lambda y: y.flip(-2), lambda y: y.mT, lambda y: y.rot90(1, (-2, -1))):
        torch.testing.assert_close(net(turn(x)), turn(net(x)))
        assert not torch.allclose(net.net(turn(x)), turn(net.net(x)), atol=1e-3)


def test_self_ensemble_is_the_mean_of_eight():
    seen = []
    weight = torch.arange(24.0).view(1, 1, 4, 6)

    def net(x):
        seen.append([*x.flatten().tolist(), x.shape[-1]])
        return x * (weight if x.shape == weight.shape else weight.mT)

    x = torch.rand(1, 1, 4, 6)
    array, w = x[0, 0].numpy(), weight[0, 0].numpy()
    turned = [w, w[::-1], w[:, ::-1], w[::-1, ::-1]]  # twice each: once by way of an upright image
    torch.testing.assert_close(SelfEnsemble(net)(x)[0, 0], torch.from_numpy(array * sum(turned) / 4))
    assert len(set(map(tuple, seen))) == 8


@pytest.mark.parametrize('copies', [1, 4, 5])
def test_median_smoothing_is_the_median_over_copies(copies):
    inner, x = honest(), torch.rand(2, 3, 9, 11)
    found = seeded(7, MedianSmoothing(inner, sigma=20, copies=copies), x)
    torch.manual_seed(7)
    noisy = [(x + 20 / 255 * torch.randn(x.shape)).clamp(0, 1) for _ in range(copies)]
    expected = np.median([inner(one).detach().numpy() for one in noisy], axis=0)
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-6)


def test_noise_has_the_given_deviation():
    noise = MedianSmoothing(AS_IT_IS, sigma=4, copies=1)(torch.full((1, 3, 100, 100), 0.5)) - 0.5
    assert noise.std().item() * 255 == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize('mode', ['nearest', 'bicubic'])
@pytest.mark.parametrize('scale, padding', [((1, 1), 8), ((1, 1), 0), ((1, 1), 30)])
def test_padding_alone_changes_nothing_away_from_the_border(photo, mode, scale, padding):
    net, x = nn.Upsample(scale_factor=3, mode=mode), photo[..., :21, :18].repeat(2, 1, 1, 1)
    output = RandomResizePad(net, scale=scale, padding=padding)(x)
    torch.testing.assert_close(output[..., 9:-9, 9:-9], net(x)[..., 9:-9, 9:-9], atol=1e-5, rtol=0)


@pytest.mark.parametrize('scale', [(1.0, 1.1), (1.4, 1.4), (0.6, 0.8)])
@pytest.mark.parametrize('times', [1, 2, 3])
def test_resizing_does_not_shift(scale, times):
    # A shift by half an output pixel raises or lowers a slope by at least 0.5 / times.
    height, width = 40, 51
    slope = (torch.arange(height)[:, None] + 2.0 * torch.arange(width)).expand(4, 3, height, width) / 200
    found, expected = (
        net(slope)[..., 8 * times : -8 * times, 8 * times : -8 * times] * 200
        for net in (RandomResizePad(bilinear(times), scale=scale), bilinear(times))
    )
    assert (found - expected).mean((1, 2, 3)).abs().max() < 0.02 / times
    assert (found - expected).abs().max() < 0.1


def test_random_resizing_is_drawn_for_each_sample_and_call(photo):
    net, x = RandomResizePad(honest()), photo[..., :30, :30].repeat(3, 1, 1, 1)
    first, second, again = seeded(1, net, x), net(x), seeded(1, net, x)
    assert torch.equal(first, again) and not torch.allclose(first, second)
    assert not torch.allclose(first[0], first[1]) and not torch.allclose(first[1], first[2])


def test_the_padded_size_is_fixed_and_even_if_the_image_is():
    seen = []
    net = RandomResizePad(lambda x: seen.append(tuple(x.shape)) or x)
    for _ in range(8):
        net(torch.rand(3, 3, 64, 80))
    assert set(seen) == {(3, 3, 80, 96)}


def test_fractional_scales_are_refused():
    with pytest.raises(ValueError, match='whole number'):
        RandomResizePad(nn.Upsample(scale_factor=1.5))(torch.rand(1, 3, 9, 9))


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
        ({}, 'the defence block {} has no type; known are BitDepth, Gaussian, JPEG'),
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
