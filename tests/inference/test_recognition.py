"""Networks are inferred from their tensors or from stored options."""

import pytest
import torch
from basicsr.archs import build_network
from torch import nn

from helpers import SMALL_NETWORKS, paired_options, train
from rsr_basicsr.catalog.weights import GENERAL, GENERAL_WEAK_DENOISING, WEIGHTS
from rsr_basicsr.checkpoints import described
from rsr_basicsr.inference import recognition
from rsr_basicsr.inference.recognition import open_denoising, open_network, open_with_options, recognise
from rsr_basicsr.utils.errors import OptionsError, WeightsError
from rsr_basicsr.weights.state_dict import load_state

COMPACT = SMALL_NETWORKS['SRVGGNetCompact']
KINDS = {
    'compact': COMPACT,
    'compact x2': {**COMPACT, 'upscale': 2},
    **{f'RRDBNet x{scale}': {**SMALL_NETWORKS['RRDBNet'], 'num_block': 3, 'scale': scale} for scale in (4, 2, 1)},
}
TYPES = {kind: 'SRVGGNetCompact' if kind.startswith('compact') else 'RRDBNet' for kind in KINDS}


def save(net, path, key='params'):
    torch.save({key: net.state_dict()}, path)
    return str(path)


@pytest.mark.parametrize('defended', [False, True])
@pytest.mark.parametrize('kind', KINDS)
def test_saved_network_is_reopened(kind, defended, tmp_path):
    name = f'{"Defended" * defended}{TYPES[kind]}'
    net = build_network({'type': name, **KINDS[kind], **({'defense': {'gate': 'never'}} if defended else {})}).eval()
    file = save(net, tmp_path / 'net.pth', 'params_ema')
    own, x = open_with_options(file, own_classes=True).net, torch.rand(1, 3, 8, 12)
    assert type(own).__name__ == name
    for found in (own, open_network(file)):  # the second one is of spandrel, where it is installed
        assert not found.training
        if defended:
            assert found.defense.gate == 'classifier'
            found.defense.gate = 'never'
        with torch.no_grad():
            assert torch.equal(found(x), net(x))


@pytest.mark.parametrize('kind', ['ensemble', 'statistics', 'residual', 'paper'])
def test_classifier_type_is_inferred(kind, tmp_path):
    options = {
        **SMALL_NETWORKS['SRVGGNetCompact'],
        'type': 'DefendedSRVGGNetCompact',
        'defense': {'classifier': {'type': kind, 'weights': 'untrained'}},
    }
    net = build_network(options).eval()
    found = open_network(save(net, tmp_path / 'net.pth'))
    x = torch.rand(1, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(found.defense.classifier(x), net.defense.classifier(x))


def test_official_weights_are_recognised(real_weights):
    name = 'realesr-animevideov3'
    assert recognise(torch.load(real_weights, weights_only=True)[WEIGHTS[name].key], name) == WEIGHTS[name].network
    assert type(open_with_options(name, own_classes=True).net).__name__ == 'SRVGGNetCompact'


@pytest.fixture(scope='module')
def trained(pairs, photos, tmp_path_factory):
    """A file from ``rsr train`` whose network and settings cannot be inferred from its tensors."""
    opt = paired_options(pairs, photos=photos, network='DefendedMSRResNet', iterations=1)
    opt['network_g'] = {
        'type': 'DefendedMSRResNet',
        **SMALL_NETWORKS['MSRResNet'],
        'defense': {
            'points': ['trunk'],
            'gate': 'soft',
            'mask': {'keep_radius': [0.3, 0.4]},
            'classifier': {'type': 'residual', 'threshold': 0.7},
        },
    }
    opt['train'].pop('classifier_opt'), opt['train'].pop('optim_classifier')
    with pytest.MonkeyPatch.context() as patch:
        folder = train(opt, tmp_path_factory.mktemp('trained'), patch)
    return folder / 'models' / 'net_g_latest.pth'


def test_trained_file_stores_its_network(trained):
    net = open_network(str(trained))
    assert type(net).__name__ == 'DefendedMSRResNet' and net.mask_points == ('trunk',)
    assert (net.defense.gate, net.defense.threshold, net.defense.mask.keep_radius) == ('soft', 0.7, (0.3, 0.4))
    state = load_state(trained)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    'change, sentence',
    [
        ({'num_feat': 16}, 'does not match the tensors'),
        ({'type': 'DefendedNothing'}, 'is not a registered architecture'),
        ({'type': 'MSRResNet'}, 'is not a defended network'),
        ({'nonsense': 1}, 'cannot be built'),
        ({'defense': {'gate': 'never ever'}}, 'defense.gate: expected one of'),
        ({'defense': {'classifier': {'weights': '/etc/passwd'}}}, 'does not match the tensors'),
    ],
)
def test_stored_network_options_are_checked(change, sentence, trained, tmp_path):
    content = torch.load(trained, weights_only=True)
    content['network_g'].update(change)
    torch.save(content, tmp_path / 'net.pth')
    with pytest.raises(WeightsError, match=sentence):
        open_network(str(tmp_path / 'net.pth'))


def test_other_networks_need_an_options_file(tmp_path, pairs):
    net = build_network({'type': 'DefendedMSRResNet', **SMALL_NETWORKS['MSRResNet']}).eval()
    file, options = save(net, tmp_path / 'net.pth'), tmp_path / 'net.yml'
    with pytest.raises(WeightsError, match='net.pth.*cannot be inferred.*-opt'):
        open_network(file)
    options.write_text(
        'scale: 4\nnetwork_g: {type: DefendedMSRResNet, num_feat: 8, num_block: 1, upscale: 4, '
        'defense: {gate: always}}\n'
    )
    assert open_network(file, str(options)).defense.gate == 'always'
    options.write_text(options.read_text().replace('num_feat: 8', 'num_feat: 16'))
    with pytest.raises(WeightsError, match='weights of another network'):
        open_network(file, str(options))


@pytest.mark.parametrize(
    'state',
    [
        {'weight': torch.zeros(3)},
        {'body.0.weight': torch.zeros(8, 3, 3, 3)},
        {
            f'body.{i}.weight': torch.zeros(s) for i, s in enumerate([(8, 3, 3, 3), (8, 8, 3, 3), (48, 8, 3, 3)])
        },  # no PReLU
        {
            'conv_first.weight': torch.zeros(8, 3, 3, 3),
            'conv_last.weight': torch.zeros(3),
            'body.0.rdb1.conv1.weight': torch.zeros(4, 8, 3, 3),
        },
        nn.Linear(2, 3).state_dict(),
    ],
    ids=lambda state: ', '.join(state)[:30],
)
def test_exception_on_unknown_tensors(state, tmp_path):
    torch.save(state, tmp_path / 'net.pth')
    with pytest.raises(WeightsError, match='cannot be inferred'):
        open_network(str(tmp_path / 'net.pth'))


def test_exception_on_unknown_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionsError, match="there is no file realesr-general, and .* mean 'realesr-general-x4v3'"):
        open_network('realesr-general')
    with pytest.raises(OptionsError, match='none.pth does not exist'):
        open_network('none.pth')


@pytest.mark.parametrize('name', WEIGHTS)
def test_network_of_every_known_file_is_recognised(name):
    with torch.device('meta'):
        state = build_network(dict(WEIGHTS[name].network)).state_dict()
    assert recognise(state, name) == WEIGHTS[name].network


@pytest.mark.parametrize('points', [None, ['all'], ['features']])
def test_mask_points_travel_with_the_file(points, tmp_path):
    """Files of versions whose default was all points do not name them; what is written today always does."""
    defense = {'gate': 'always', 'classifier': {'type': 'paper', 'weights': 'untrained'}}
    options = {'type': 'DefendedSRVGGNetCompact', **COMPACT, 'defense': defense}
    if points:
        options['defense'] = {**defense, 'points': points}
    net = build_network(options)
    assert net.mask_points == {None: ('input',), 'all': ('input', 'trunk', 'upsampler')}.get(
        points and points[0], ('trunk', 'upsampler')
    )
    torch.save({'params': net.state_dict(), 'network_g': described(options)}, tmp_path / 'new.pth')
    assert open_network(str(tmp_path / 'new.pth')).mask_points == net.mask_points
    if points is None:
        torch.save({'params': net.state_dict(), 'network_g': options}, tmp_path / 'old.pth')
        assert open_network(str(tmp_path / 'old.pth')).mask_points == ('input', 'trunk', 'upsampler')


def test_denoising_mixes_the_weights(tmp_path, monkeypatch):
    made = {}
    for seed, name in enumerate([GENERAL, GENERAL_WEAK_DENOISING]):
        torch.manual_seed(seed)
        made[name] = build_network(dict(WEIGHTS[name].network)).state_dict()
        torch.save({'params': made[name]}, tmp_path / f'{name}.pth')
    monkeypatch.setattr(recognition, 'fetch', lambda name: tmp_path / f'{name}.pth')
    for strength in (0, 0.3, 1):
        net = open_denoising(strength)
        for key, found in net.state_dict().items():
            key = key.removeprefix('model.')
            expected = strength * made[GENERAL][key] + (1 - strength) * made[GENERAL_WEAK_DENOISING][key]
            assert torch.allclose(found, expected, atol=1e-7)
    with pytest.raises(OptionsError, match='denoise strength 1.5'):
        open_denoising(1.5)


def test_discriminator_upscales_nothing():
    with pytest.raises(OptionsError, match='is a discriminator'):
        open_network('RealESRGAN_x4plus_netD')


def test_numbers_that_are_no_layers_are_refused(tmp_path):
    state = build_network({'type': 'SRVGGNetCompact', **COMPACT}).state_dict()
    state['body.9.weight.more'] = state.pop('body.2.weight')
    torch.save({'params': state}, tmp_path / 'net.pth')
    with pytest.raises(WeightsError, match='net.pth'):
        open_network(str(tmp_path / 'net.pth'))
