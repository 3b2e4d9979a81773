"""LPIPS against its definition, with an AlexNet of random weights in a file, and as the objective of an attack."""

import pytest
import torch
from lpips_by_hand import alexnet_features, by_definition, save_features
from torch import nn
from torch.nn import functional as F

from rsr_basicsr.attacks import PGD, Perceptual, RandomNoise, build_attack
from rsr_basicsr.ops.perceptual import perceptual_measure
from rsr_basicsr.options.attack_blocks import AttackOptions, SetAttackOptions, ValAttackOptions
from rsr_basicsr.options.parsing import parse_block
from rsr_basicsr.utils.errors import OptionsError, WeightsError

lpips = pytest.importorskip('lpips')


@pytest.fixture(scope='module')
def backbone(tmp_path_factory):
    """AlexNet's convolutions, and a file with their weights."""
    features, path = alexnet_features(), tmp_path_factory.mktemp('lpips') / 'alexnet.pth'
    return features, save_features(features, path)


def test_against_the_definition(backbone):
    features, path = backbone
    pair = torch.rand(2, 2, 3, 64, 64)
    torch.testing.assert_close(
        perceptual_measure('lpips', path)(*pair), by_definition(features, *pair), rtol=1e-3, atol=1e-6
    )


def test_as_the_objective_of_an_attack(backbone, real_network, photo):
    attack = PGD(eps=4, steps=3, objective={'type': 'perceptual', 'backbone': backbone[1]})
    assert repr(attack) == 'PGD(eps=4, steps=3, objective=Perceptual(lpips))' == repr(attack.but())
    distance = attack.but(steps=1).objective.distance
    photo = photo[..., :32, :32]
    with torch.no_grad():
        clean, attacked, noise = (
            real_network(x) for x in (photo, attack(real_network, photo), RandomNoise(eps=4)(real_network, photo))
        )
        assert distance(attacked, clean) > distance(noise, clean)


def test_wrong_backbone_is_named(tmp_path):
    torch.save({'conv.weight': torch.zeros(1)}, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match="other.pth holds no features of torchvision's AlexNet"):
        perceptual_measure('lpips', tmp_path / 'other.pth')
    with pytest.raises(WeightsError, match='none.pth'):
        perceptual_measure('lpips', tmp_path / 'none.pth')


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'lpips', None)
    with pytest.raises(ValueError, match='the measure lpips needs the package lpips; install the extra metrics'):
        PGD(objective='perceptual')


NET = nn.Upsample(scale_factor=2)
BLOCK = {'type': 'perceptual', 'backbone': 'alexnet.pth'}
ATTACKS_WITH_A_BLOCK = [
    {'type': 'PGD', 'objective': BLOCK},
    {'type': 'Transfer', 'source': NET, 'objective': BLOCK},
    {'type': 'Transfer', 'source': NET, 'attack': {'type': 'PGD', 'objective': BLOCK}},
    {'type': 'WorstOf', 'objective': BLOCK, 'attacks': [{'type': 'PGD'}]},
    {'type': 'WorstOf', 'attacks': [{'type': 'PGD', 'objective': BLOCK}]},
]


@pytest.mark.parametrize('attack', ATTACKS_WITH_A_BLOCK, ids=str)
def test_block_in_place_of_a_name(attack, photo, monkeypatch):
    def edges(output, reference):
        return (output.diff(dim=-1) - reference.diff(dim=-1)).abs().flatten(1).sum(1)

    files = []
    monkeypatch.setattr(
        'rsr_basicsr.attacks.objectives.perceptual_measure', lambda name, file: files.append(file) or edges
    )
    options, lq = dict(eps=4, steps=2, random_start=2, seed=0), photo[..., :16, :16]
    built = build_attack({**attack, **options}).but(quantize='nearest')
    assert set(files) == {'alexnet.pth'} and 'objective=Perceptual(lpips)' in repr(built)
    expected = PGD(objective=Perceptual(edges), quantize='nearest', **options)
    assert torch.equal(built(NET, lq), expected(NET, lq))
    assert BLOCK == {'type': 'perceptual', 'backbone': 'alexnet.pth'}  # options stay as they were


@pytest.mark.parametrize(
    'objective, message',
    [
        (
            {'type': 'perceptual', 'bakbone': 'a'},
            "the objective perceptual has no argument 'bakbone'; did you mean 'backbone'",
        ),
        ({'type': 'stability', 'backbone': 'a'}, "the objective stability has no argument 'backbone'; it takes none"),
        ({'backbone': 'a'}, "the objective block {'backbone.* has no type; known are ground_truth"),
        ({'type': 'perceptual', 'backbone': 'none.pth'}, 'Perceptual: none.pth does not exist'),
        (
            {'type': 'perceptual', 'backbone': 'a', 'distance': F.mse_loss},
            'distance and backbone: a exclude each other',
        ),
    ],
)  # whose names must be the same in every process
def test_wrong_blocks_are_refused(objective, message):
    with pytest.raises(ValueError, match=message) as error:
        build_attack({'type': 'PGD', 'objective': objective})
    assert '\n' not in str(error.value)


def in_attack(objective):
    return parse_block({'type': 'FGSM', 'eps': 8, 'objective': objective}, AttackOptions, 'attack')


def in_validation(objective):
    return parse_block({'type': 'FGSM', 'eps': 8, 'objective': objective}, ValAttackOptions, 'val.attack')


def in_set(objective):
    return parse_block({'type': 'FGSM', 'objective': objective}, SetAttackOptions, 'attacks, number 1')


def inside(objective):
    inner = {'type': 'FGSM', 'objective': objective}
    return parse_block({'type': 'WorstOf', 'eps': 8, 'attacks': [inner]}, AttackOptions, 'attack')['attacks'][0]


@pytest.mark.parametrize(
    'place, where',
    [
        (in_attack, 'attack.objective'),
        (in_validation, 'val.attack.objective'),
        (in_set, 'attacks, number 1.objective'),
        (inside, 'attack.attacks, number 1.objective'),
    ],
)
def test_options_accept_a_name_or_a_block(place, where, tmp_path, monkeypatch):
    (tmp_path / 'alexnet.pth').touch()
    monkeypatch.setenv('HOME', str(tmp_path))
    assert place('perceptual')['objective'] == place({'type': 'perceptual'})['objective'] == 'perceptual'
    assert place({'type': 'perceptual', 'backbone': '~/alexnet.pth'})['objective'] == {
        'type': 'perceptual',
        'backbone': str(tmp_path / 'alexnet.pth'),
    }
    for wrong, message in [
        ('target', f'{where}: expected one of'),
        ({'type': 'target'}, f'{where}.type: expected one of'),
        ({'backbone': '~/alexnet.pth'}, f"{where}: the key 'type' is missing"),
        ({'type': 'perceptual', 'bakbone': 'a'}, f"{where}: unknown key 'bakbone'; did you mean 'backbone'?"),
        ({'type': 'perceptual', 'backbone': 'gone.pth'}, f"{where}.backbone: no such file, got 'gone.pth'"),
    ]:
        with pytest.raises(OptionsError) as error:
            place(wrong)
        assert str(error.value).startswith(message)
