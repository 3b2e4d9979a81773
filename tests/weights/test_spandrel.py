"""Networks that BasicSR does not have, through the commands and attacks, compared with spandrel itself."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs.rrdbnet_arch import RRDBNet
from spandrel_files import NETWORKS, build, descriptor_of, save
from torch import nn

from rsr_basicsr.attacks import PGD
from rsr_basicsr.attacks.memory import MemorySaving
from rsr_basicsr.cli import main
from rsr_basicsr.defenses import Blend
from rsr_basicsr.inference.recognition import open_network
from rsr_basicsr.utils.errors import WeightsError
from rsr_basicsr.weights.spandrel_network import SpandrelNetwork, as_network, spandrel_network

pytest.importorskip('spandrel')


@pytest.fixture(scope='module', params=NETWORKS)
def file(request, tmp_path_factory):
    """A weight file of each network; the scale is in the table of networks."""
    return save(build(request.param), tmp_path_factory.mktemp(request.param) / f'{request.param}.pth')


@pytest.fixture
def net(file):
    return open_network(file)


def test_output_is_that_of_spandrel(file, net):
    x = torch.rand(1, 3, 19, 22)  # a size that windows do not fit
    with torch.no_grad():
        assert torch.equal(net(x).clamp(0, 1), descriptor_of(file)(x))
        assert net(x).shape[-2:] == (19 * net.scale, 22 * net.scale)


def test_batches_and_gradients_are_right(net):
    """The gradient against a finite difference, by autograd and by what attacks use to save memory."""
    net = net.double()
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(x)

    def loss(images):
        return (net(images) ** 2).sum()

    # The images of a batch are independent.
    assert torch.allclose(net(x)[1:], net(x[1:]), rtol=1e-9, atol=1e-9)
    step = 1e-6
    with torch.no_grad():
        expected = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    for module in (net, MemorySaving(net)):
        (gradient,) = torch.autograd.grad((module(x) ** 2).sum(), x)
        assert float((gradient * direction).sum() / expected) == pytest.approx(1, abs=1e-3)


def test_attack_moves_more_than_noise(file, net):
    x = torch.rand(1, 3, 20, 20)
    attacked = PGD(eps=8, steps=5, seed=0)(net, x)
    assert (attacked - x).abs().max() <= 8 / 255 + 1e-6
    noisy = (x + torch.randn_like(x).sign() * 8 / 255).clamp(0, 1)
    with torch.no_grad():
        moved = [(net(images) - net(x)).square().mean() for images in (attacked, noisy)]
    assert moved[0] > moved[1] or 'PLKSR' in file  # with random weights it repeats pixels, which noise moves as far
    # A descriptor is attacked as the network in it, which spandrel itself runs without gradients.
    assert torch.equal(PGD(eps=8, steps=5, seed=0)(descriptor_of(file), x), attacked)
    blended = Blend(descriptor_of(file), alpha=0.5)
    assert blended(x).shape == net(x).shape


def test_upscale_and_stability_take_any_network(file, photo, tmp_path, capsys):
    (tmp_path / 'in').mkdir()
    image = (photo[0, :, :24, :32].permute(1, 2, 0).numpy()[..., ::-1] * 255).round().astype(np.uint8)
    cv2.imwrite(str(tmp_path / 'in' / 'photo.png'), image)
    command = ['upscale', str(tmp_path / 'in'), '-n', file, '-o', str(tmp_path / 'out'), '--device', 'cpu']
    assert main([*command, '--suffix', 'out']) == 0
    written = cv2.imread(str(tmp_path / 'out' / 'photo_out.png'))[..., ::-1]
    x = torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1)[None] / 255
    expected = (descriptor_of(file)(x)[0].permute(1, 2, 0).numpy() * 255).round()
    assert np.abs(written - expected).max() <= 1
    capsys.readouterr()
    out = str(tmp_path / 'stability')
    options = ['--eps', '8', '--steps', '2', '--crop', '16', '--device', 'cpu']
    assert main(['stability', file, str(tmp_path / 'in'), '-o', out, *options]) == 0
    assert 'bicubic' in capsys.readouterr().out


def test_grey_networks_upscale_each_channel(tmp_path):
    net = RRDBNet(1, 1, 4, num_feat=8, num_block=1, num_grow_ch=32).eval()
    found = open_network(save(net, tmp_path / 'grey.pth'))
    x = torch.rand(2, 3, 9, 10)
    with torch.no_grad():
        assert torch.allclose(found(x), torch.cat([net(x[:, c : c + 1]) for c in range(3)], dim=1), atol=1e-6)


def test_plain_files_give_the_same_with_and_without_spandrel(tmp_path, monkeypatch):
    net = RRDBNet(3, 3, 4, num_feat=8, num_block=1, num_grow_ch=32).eval()
    file, x = save(net, tmp_path / 'net.pth'), torch.rand(1, 3, 12, 16)
    found = open_network(file)
    assert isinstance(found, SpandrelNetwork) and found.architecture == 'ESRGAN'
    monkeypatch.setattr('rsr_basicsr.inference.recognition.has_spandrel', lambda: False)
    own = open_network(file)
    assert isinstance(own, RRDBNet)
    with torch.no_grad():
        assert torch.allclose(found(x), own(x), atol=1e-6)


def _under_old_names(state, trunk):
    """The names of the first ESRGAN release, or those of BSRGAN and RealSR."""
    if trunk:
        names = {'conv_body': 'trunk_conv', 'body.': 'RRDB_trunk.', 'conv_up': 'upconv', 'conv_hr': 'HRconv'}
        names['.rdb'] = '.RDB'
        for old, new in names.items():
            state = {key.replace(old, new): value for key, value in state.items()}
        return state
    top = {'conv_first': 'model.0', 'conv_up1': 'model.3', 'conv_up2': 'model.6', 'conv_hr': 'model.8'}
    top |= {'conv_last': 'model.10', 'conv_body': 'model.1.sub.1'}
    found = {}
    for key, value in state.items():
        name, _, rest = key.partition('.')
        if name == 'body':
            key = re.sub(r'body\.(\d+)\.rdb(\d)\.conv(\d)\.', r'model.1.sub.\1.RDB\2.conv\3.0.', key)
        else:
            key = f'{top[name]}.{rest}'
        found[key] = value
    return found


@pytest.mark.parametrize('trunk', [False, True])
def test_names_of_earlier_releases(trunk, tmp_path, monkeypatch):
    net, x = RRDBNet(3, 3, 4, num_feat=64, num_block=1, num_grow_ch=32).eval(), torch.rand(1, 3, 12, 16)
    torch.save(_under_old_names(net.state_dict(), trunk), tmp_path / 'old.pth')
    with torch.no_grad():
        assert torch.allclose(open_network(str(tmp_path / 'old.pth'))(x), net(x), atol=1e-6)
    monkeypatch.setattr('rsr_basicsr.inference.recognition.has_spandrel', lambda: False)
    with pytest.raises(WeightsError, match=r'names of .*, which spandrel reads; pip install spandrel'):
        open_network(str(tmp_path / 'old.pth'))


@pytest.mark.parametrize('wrap', ['params-ema', 'state_dict', 'model_state_dict', 'netG.', 'module.netG.'])
def test_wrappers_of_other_trainers(wrap, tmp_path):
    net, x = build('SPAN'), torch.rand(1, 3, 12, 16)
    state = net.state_dict()
    if wrap.endswith('.'):
        torch.save({f'{wrap}{key}': value for key, value in state.items()}, tmp_path / 'net.pth')
    else:
        torch.save({'epoch': 3, 'optimizer': {'lr': 1e-4}, wrap: state}, tmp_path / 'net.pth')
    with torch.no_grad():
        assert torch.equal(open_network(str(tmp_path / 'net.pth'))(x), net(x))


def test_unknown_networks_are_refused_in_one_sentence(tmp_path):
    file = save(nn.Sequential(nn.Conv2d(3, 12, 3), nn.PixelShuffle(2)), tmp_path / 'own.pth')
    with pytest.raises(
        WeightsError, match='cannot be inferred from these weights, spandrel .* does not know it'
    ) as error:
        open_network(file)
    assert '\n' not in str(error.value)
    # Keys of SPAN with tensors of another size.
    state = {key: torch.zeros(3) for key in build('SPAN').state_dict()}
    with pytest.raises(WeightsError, match='spandrel cannot build it') as error:
        spandrel_network(state, 'odd.pth')
    assert '\n' not in str(error.value) and len(str(error.value)) < 450


def test_networks_for_other_purposes_are_refused(tmp_path):
    defended = {'defense.keep_radius': torch.ones(2), 'body.0.weight': torch.ones(1)}
    with pytest.raises(WeightsError, match='holds a defended network'):
        spandrel_network(defended, 'net.pth')
    descriptor = descriptor_of(save(build('SPAN'), tmp_path / 'net.pth'))
    descriptor._purpose = 'FaceSR'
    with pytest.raises(WeightsError, match='SPAN is a network for FaceSR'):
        as_network(descriptor)


def test_without_spandrel_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    file = save(build('SAFMN'), tmp_path / 'net.pth')
    for module in ('rsr_basicsr.weights.spandrel_network', 'rsr_basicsr.inference.recognition'):
        monkeypatch.setattr(f'{module}.has_spandrel', lambda: False)
    with pytest.raises(WeightsError, match=r'pip install spandrel to recognise others'):
        open_network(file)
    with pytest.raises(WeightsError, match='spandrel recognises its network, but is not installed'):
        spandrel_network(build('SAFMN').state_dict(), file)


def test_initial_numbers_are_left_alone(tmp_path):
    file = save(build('DAT'), tmp_path / 'net.pth')
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    open_network(file)
    assert torch.equal(torch.rand(4), expected)


def test_anything_else_is_left_alone():
    net = nn.Conv2d(3, 3, 1)
    assert as_network(net) is net
