"""LPIPS against its definition, with an AlexNet of random weights in a file."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.models import alexnet

from rsr_basicsr.attacks import PGD, Perceptual, RandomNoise
from rsr_basicsr.errors import WeightsError
from rsr_basicsr.perceptual import lpips_distance

lpips = pytest.importorskip('lpips')


@pytest.fixture
def backbone(tmp_path):
    net = alexnet(weights=None)
    torch.save(net.state_dict(), tmp_path / 'alexnet.pth')
    return net.features.eval(), tmp_path / 'alexnet.pth'


def test_against_the_definition(backbone):
    features, path = backbone
    heads = lpips.LPIPS(net='alex', pnet_rand=True, verbose=False).lins  # trained, part of the package
    pair = torch.rand(2, 2, 3, 64, 64)
    shift, scale = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x, y = ((pictures - shift.view(3, 1, 1)) / scale.view(3, 1, 1) for pictures in pair)
    expected = 0
    with torch.no_grad():
        for index, layer in enumerate(features):
            x, y = layer(x), layer(y)
            if index in (1, 4, 7, 9, 11):  # behind each ReLU
                weight = heads[(1, 4, 7, 9, 11).index(index)].model[-1].weight
                difference = (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square()
                expected = expected + F.conv2d(difference, weight).mean(dim=(1, 2, 3))
        torch.testing.assert_close(lpips_distance(path)(*pair), expected, rtol=1e-3, atol=1e-6)


def test_as_the_objective_of_an_attack(backbone, real_network, photo):
    distance = lpips_distance(backbone[1])
    attack = PGD(eps=4, steps=3, objective=Perceptual(distance))
    assert 'Perceptual(LPIPS)' in repr(attack)
    photo = photo[..., :32, :32]
    with torch.no_grad():
        clean, attacked, noise = (real_network(x) for x in (
            photo, attack(real_network, photo), RandomNoise(eps=4)(real_network, photo)))
        assert distance(attacked, clean) > distance(noise, clean)


def test_wrong_backbone_is_named(tmp_path):
    torch.save({'conv.weight': torch.zeros(1)}, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match="other.pth holds no features of torchvision's AlexNet"):
        lpips_distance(tmp_path / 'other.pth')
    with pytest.raises(WeightsError, match='none.pth'):
        lpips_distance(tmp_path / 'none.pth')


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'lpips', None)
    with pytest.raises(ValueError, match='LPIPS needs the package lpips; pip install lpips'):
        PGD(objective='perceptual')
