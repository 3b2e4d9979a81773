"""The objective ``perceptual`` with a measure: what it raises, and against what."""

import pytest
import torch
from torch import nn

from rsr_basicsr.attacks import PGD, build_attack
from rsr_basicsr.ops.perceptual import perceptual_measure
from rsr_basicsr.options.attack_blocks import AttackOptions, SetAttackOptions, ValAttackOptions
from rsr_basicsr.options.parsing import parse_block
from rsr_basicsr.utils.errors import OptionsError

pytest.importorskip('piq')


class Sharpening(nn.Module):
    """Bicubic upscaling x2 followed by an unsharp mask: amplifies noise."""

    def forward(self, x):
        large = nn.functional.interpolate(x, scale_factor=2, mode='bicubic')
        return large + 1.5 * (large - nn.functional.avg_pool2d(large, 3, 1, 1))


NET = Sharpening()


def attacked_distance(objective, measure, lq, to=None):
    attack = PGD(eps=4, steps=20, objective=objective, seed=0)
    with torch.no_grad():
        reference = NET(lq) if to is None else to
    adversarial = attack(NET, lq, to)
    with torch.no_grad():
        return perceptual_measure(measure)(NET(adversarial), reference).item()


@pytest.mark.parametrize('measure', ['haarpsi', 'gmsd', 'mdsi', 'vif'])
def test_raises_its_measure_more_than_squared_error(measure, photo):
    own = attacked_distance({'type': 'perceptual', 'measure': measure}, measure, photo)
    assert own > 1.05 * attacked_distance('stability', measure, photo)


def test_attacks_the_distance_to_the_ground_truth(photo):
    original = torch.rand(1, 3, 128, 128).mul(0.2) + nn.functional.interpolate(photo, scale_factor=2).mul(0.8)
    objective = {'type': 'perceptual', 'measure': 'haarpsi', 'to': 'ground_truth'}
    own = attacked_distance(objective, 'haarpsi', photo, original)
    assert own > attacked_distance('ground_truth', 'haarpsi', photo, original)
    with torch.no_grad():
        assert own > perceptual_measure('haarpsi')(NET(photo), original).item()


def test_the_ground_truth_is_asked_for(photo):
    attack = PGD(steps=1, objective={'type': 'perceptual', 'measure': 'haarpsi', 'to': 'ground_truth'})
    assert attack.objective.needs_ground_truth and not attack.objective.needs_random_start
    assert repr(attack.objective) == 'Perceptual(haarpsi, to ground_truth)'
    with pytest.raises(ValueError, match=r'Perceptual\(haarpsi, to ground_truth\) needs target: the high-resolution'):
        attack(NET, photo)
    assert not PGD(objective={'type': 'perceptual', 'measure': 'haarpsi'}).objective.needs_ground_truth


@pytest.mark.parametrize(
    'objective, message',
    [
        ({'measure': 'harpsi'}, "Perceptual: there is no perceptual measure 'harpsi'; did you mean 'haarpsi'"),
        ({'measure': 'vif', 'backbone': 'a.pth'}, 'a.pth is for lpips and lpips_squeeze; vif has no weights'),
        ({'measure': 'vif', 'to': 'clean'}, "Perceptual: to must be one of clean_output, ground_truth, got 'clean'"),
        ({'measure': 'vif', 'distance': max}, 'distance and measure: vif exclude each other'),
    ],
)
def test_objective_exception(objective, message):
    with pytest.raises(ValueError, match=message):
        build_attack({'type': 'PGD', 'objective': {'type': 'perceptual', **objective}})


@pytest.mark.parametrize('model', [AttackOptions, ValAttackOptions])
def test_options(model):
    def parsed(**objective):
        block = {'type': 'PGD', 'eps': 8, 'objective': {'type': 'perceptual', **objective}}
        return parse_block(block, model, 'attack')['objective']

    block = {'type': 'perceptual', 'measure': 'haarpsi', 'to': 'ground_truth'}
    assert parsed(measure='haarpsi', to='ground_truth') == block
    assert parsed() == parsed(measure=None) == 'perceptual'
    for wrong, message in (
        (
            {'measure': 'harpsi'},
            "attack.objective.measure: expected one of lpips, lpips_squeeze, local_contrast, haarpsi, .*'harpsi'",
        ),
        ({'to': 'hr'}, "attack.objective.to: expected one of clean_output, ground_truth, got 'hr'"),
        ({'too': 'hr'}, "attack.objective: unknown key 'too'; did you mean 'to'?"),
    ):
        with pytest.raises(OptionsError, match=message):
            parsed(**wrong)


def test_options_name_the_measure_of_the_machine(tmp_path):
    from lpips_by_hand import save_features, squeezenet_features

    backbone = str(save_features(squeezenet_features(), tmp_path / 's.pth'))
    block = {'type': 'PGD', 'eps': 8, 'objective': {'type': 'perceptual', 'measure': 'auto', 'backbone': backbone}}
    objective = parse_block(block, ValAttackOptions, 'val.attack')['objective']
    assert objective == {'type': 'perceptual', 'measure': 'lpips_squeeze', 'backbone': backbone}
    torch.save({'a': torch.zeros(1)}, backbone)
    from rsr_basicsr.ops.perceptual import forget_measures

    forget_measures()
    with pytest.raises(OptionsError, match='s.pth holds no features .* name another file'):
        parse_block(block, ValAttackOptions, 'val.attack')


def test_a_set_has_no_ground_truth():
    block = {'type': 'PGD', 'objective': {'type': 'perceptual', 'measure': 'gmsd', 'to': 'ground_truth'}}
    with pytest.raises(OptionsError, match='objective.to: expected one of clean_output, got'):
        parse_block(block, SetAttackOptions, 'attacks, number 1')
