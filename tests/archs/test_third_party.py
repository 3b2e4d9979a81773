"""Architectures of others: names of their own, other layouts at a mask point, calls by keyword, other outputs."""

from collections import namedtuple

import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn
from torch.nn import functional as F

from helpers import SMALL_NETWORKS
from rsr_basicsr import MaskPoint, defend
from rsr_basicsr.options.networks import check_network
from rsr_basicsr.utils.errors import OptionsError

DEFENSE = {'gate': 'always', 'seed': 0, 'classifier': {'type': 'paper', 'weights': 'untrained'}}


class Base(nn.Module):
    """Upscales by 2; ``middle`` sees the features as (B, C, H, W)."""

    def __init__(self, features=8):
        super().__init__()
        self.first, self.middle = nn.Conv2d(3, features, 3, 1, 1), nn.Identity()
        self.last = nn.Conv2d(features, 12, 3, 1, 1)

    def forward(self, x):
        return F.pixel_shuffle(self.last(self.between(self.first(x))), 2)

    def between(self, x):
        return self.middle(x)


class Tokens(Base):
    def between(self, x):
        return self.middle(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)


class HalvedTokens(Base):
    def between(self, x):
        small = F.avg_pool2d(x, 2)
        return F.interpolate(
            self.middle(small.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(small.shape), scale_factor=2
        )


class Halved(Base):
    def between(self, x):
        return F.interpolate(self.middle(F.avg_pool2d(x, 2)), scale_factor=2)


class ChannelsLast(Base):
    def between(self, x):
        return self.middle(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Keyword(Base):
    def between(self, x):
        return self.middle(input=x)


class Never(Base):
    def between(self, x):
        return x


class HasBackbone(Base):
    def __init__(self):
        super().__init__()
        self.backbone, self.points = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def between(self, x):
        return self.middle(self.points(self.backbone(x)))


class HasDefense(Base):
    def __init__(self):
        super().__init__()
        self.defense = nn.Identity()


class HasMethod(Base):
    def mask_places(self):
        return 3


def defended(cls, layout='BCHW'):
    net = defend(cls, {'trunk': MaskPoint('middle', layout=layout)})(defense=dict(DEFENSE)).eval()
    torch.manual_seed(0)
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.2)
    return net


@pytest.mark.parametrize(
    'cls, layout, same',
    [
        (Tokens, 'BLC', Base),
        (HalvedTokens, 'BLC', Halved),
        (ChannelsLast, 'BHWC', Base),
        (Keyword, 'BCHW', Base),
    ],
)
def test_masks_are_those_of_a_network_of_the_usual_layout(cls, layout, same):
    x = torch.rand(2, 3, 16, 24)
    with torch.no_grad():
        output, expected = defended(cls, layout)(x), defended(same)(x)
        plain = defended(cls, layout)
        plain.defense.gate = 'never'
        assert not torch.allclose(plain(x), output, atol=1e-3)
    torch.testing.assert_close(output, expected)
    (place,) = [place for place in defended(cls, layout).mask_places(16, 24) if place.point == 'trunk']
    assert place == next(place for place in defended(same).mask_places(16, 24) if place.point == 'trunk')


def test_gradients_of_a_token_mask_against_finite_differences():
    net = defended(Tokens, 'BLC').double()
    x = torch.rand(1, 3, 6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda image: net(image).sum((2, 3)), x, atol=1e-3, eps=1e-3)


def test_attributes_of_usual_names_are_the_backbones():
    net = defended(HasBackbone)
    assert isinstance(net.backbone, nn.Conv2d) and isinstance(net.points, nn.Conv2d)
    assert net(torch.rand(1, 3, 16, 24)).shape == (1, 3, 32, 48)


@pytest.mark.parametrize(
    'cls, layout, message',
    [
        (Tokens, 'BCHW', r'the input of middle is \(1, 384, 8\), not BCHW of an image of 16x24'),
        (ChannelsLast, 'BCHW', r'the input of middle is \(1, 16, 24, 8\), not BCHW of an image of 16x24'),
        (Base, 'BLC', r'the input of middle is \(1, 8, 16, 24\), not BLC of an image of 16x24'),
        (Never, 'BCHW', 'the network never calls middle'),
    ],
)
@pytest.mark.parametrize('gate', ['always', 'never'])
def test_wrong_points_are_refused_at_the_first_image(cls, layout, message, gate):
    net = defended(cls, layout)
    net.defense.gate = gate
    with pytest.raises(ValueError, match=message):
        net(torch.rand(1, 3, 16, 24))


def test_names_that_the_defence_needs():
    with pytest.raises(ValueError, match='HasDefense has an attribute defense, as its defence; rename it'):
        defended(HasDefense)
    with pytest.raises(TypeError, match='HasMethod has a method or class attribute mask_places'):
        defended(HasMethod)
    with pytest.raises(ValueError, match="layout must be one of BCHW, BHWC, BLC, got 'NHWC'"):
        defended(Base, 'NHWC')


Pair = namedtuple('Pair', 'half image')


@pytest.mark.parametrize('returns', [list, tuple, dict, Pair])
def test_outputs(returns):
    class Other(Base):
        def forward(self, x):
            image = super().forward(x)
            return {list: [image], tuple: (image,), dict: {'out': image}, Pair: Pair(image / 2, image)}[returns]

    net = defended(Other)
    if returns is Pair:
        assert net(torch.rand(2, 3, 16, 24)).image.shape == (2, 3, 32, 48)
        return
    with pytest.raises(ValueError, match=f'Other returns a {returns.__name__}; a network that is defended returns im'):
        net(torch.rand(1, 3, 16, 24))


@pytest.mark.parametrize(
    'cls, message', [(ChannelsLast, 'not BCHW of an image of'), (Never, 'never calls middle'), (Base, None)]
)
def test_options_are_refused_before_a_training(cls, message, monkeypatch):
    monkeypatch.setitem(ARCH_REGISTRY._obj_map, 'Defended', defend(cls, {'trunk': MaskPoint('middle')}))
    options = {'network_g': {'type': 'Defended', 'features': 64}, 'scale': 2}  # of 64 channels, rows of 32 look right
    if message is None:
        check_network(options, 'network_g')
        return
    with pytest.raises(OptionsError, match=message):
        check_network(options, 'network_g')


@pytest.mark.parametrize(
    'window, scale, upsampler, points',
    [
        (7, 4, 'pixelshuffle', None),
        (12, 4, 'pixelshuffle', None),
        (24, 4, 'nearest+conv', None),
        (6, 2, 'pixelshuffledirect', None),
        (8, 1, '', None),
        (7, 1, '', ['input', 'trunk']),
    ],
)
def test_windows_and_upsamplers_of_swinir(window, scale, upsampler, points):
    small = {**SMALL_NETWORKS['SwinIR'], 'window_size': window, 'img_size': 2 * window}
    small.update(upscale=scale, upsampler=upsampler, type='DefendedSwinIR')
    net = check_network(
        {'network_g': {**small, 'defense': {'points': points} if points else {}}, 'scale': scale}, 'network_g'
    )
    assert len(net.mask_places(2 * window, 2 * window)) == len(points or [1, 2, 3])


class Multiples(Base):
    """Takes multiples of 48, without telling."""

    def forward(self, x):
        return super().forward(x.reshape(*x.shape[:2], -1, 48, x.shape[3]).flatten(2, 3)[..., : x.shape[3] // 48 * 48])


def test_side_that_a_network_does_not_tell(monkeypatch):
    monkeypatch.setitem(ARCH_REGISTRY._obj_map, 'Defended', defend(Multiples))
    check_network({'network_g': {'type': 'Defended'}, 'scale': 2}, 'network_g')
    with pytest.raises(OptionsError, match='it upscales by 2, but scale is 3'):
        check_network({'network_g': {'type': 'Defended'}, 'scale': 3}, 'network_g')


class Normed(Base):
    """Normalises one value per channel and image, as DAT does: in training it refuses a single image."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        self.middle.train(False)

    def between(self, x):
        return x + self.norm(self.middle(x).mean((2, 3), keepdim=True))


def test_network_that_refuses_a_single_image_in_training(monkeypatch):
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        Normed()(torch.rand(1, 3, 16, 16))
    monkeypatch.setitem(ARCH_REGISTRY._obj_map, 'Defended', defend(Normed, {'trunk': MaskPoint('middle')}))
    net = check_network({'network_g': {'type': 'Defended'}, 'scale': 2}, 'network_g')
    assert net.norm.training and not net.middle.training  # as the constructor left them
    assert net.norm.num_batches_tracked == 0
