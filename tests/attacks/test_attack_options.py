"""Arguments, options blocks, images and networks: what is accepted, and the messages for what is not."""

import numpy as np
import pytest
import torch
from quick_attacks import QUICK
from torch import nn

from networks import Affine
from rsr_basicsr import attacks as suite
from rsr_basicsr.attacks import APGD, FGSM, IFGSM, PGD, DetectorAware, Square, Universal, build_attack, worst_of
from rsr_basicsr.attacks.objectives import build_objective

WRONG = [
    (dict(type='FGSMM'), "there is no attack of type 'FGSMM'; did you mean 'FGSM'"),
    (dict(type='PGD', eps=300), '1/255'),
    (dict(type='PGD', steps=0), 'steps'),
    (dict(type='PGD', objective='chaos'), "no objective of type 'chaos'; known are ground_truth, "),
    (dict(type='PGD', quantize='up'), "got 'up'"),
    (dict(type='PGD', quantize='floor', clamp=False), 'quantize: floor needs clamp'),
    (dict(type='FGSM', steps=3), "FGSM has no argument 'steps'"),
    (dict(type='PGD', stepz=3), "did you mean 'steps'"),
    (dict(type='PGD', norm='L1'), "norm must be one of Linf, L2, got 'L1'"),
    (dict(type='Square', norm='L2'), "norm must be one of Linf, got 'L2'"),
    (dict(type='PGD', gate='on'), 'gate must be one of straight_through, always, never'),
    (dict(type='PGD', eot_samples=0), 'expected eot_samples >= 1, a whole number, got 0'),
    (dict(type='PGD', seed=-1), 'expected seed >= 0'),
    (dict(type='PGD', tile=8, memory=1), 'tile: 8 and memory: 1 exclude each other'),
    (dict(type='PGD', memory=0), 'expected memory > 0, got 0'),
    (dict(type='PGD', precision='fp8'), 'fp32, bf16'),
    (dict(type='PGD', random_start=0), 'no gradient at the clean image'),
    (dict(type='BandLimited', band=[0.5, 0.4]), r'0 <= low < high <= 1, got \[0.5, 0.4\]'),
    (dict(type='Square', queries=1), 'queries >= 2'),
    (dict(type='Square', area=0), 'area > 0 and <= 1, got 0'),
    (dict(type='PGD', schedule='cosine'), "schedule must be one of linear, constant, got 'cosine'"),
    (dict(type='IFGSM', schedule='linear'), "IFGSM has no argument 'schedule'"),  # its step is that of the paper
    (dict(type='MIFGSM', decay=-1), 'decay >= 0'),
    (dict(type='Universal', size=0), 'size >= 1'),
    (dict(type='DetectorAware', weights=[]), 'expected weights'),
    (dict(type='PGD', eps='8'), "got '8'"),
    (dict(type='PGD', steps=2.5), 'a whole number, got 2.5'),
    (dict(type='PGD', clamp='no'), 'false or end, got .no'),
    (dict(type='APGD', rho=-3), 'rho >= 0 and <= 1, got -3'),
    (dict(type='PGD', objective=['a']), r"no objective of type \['a'\]"),
    (dict(type='BandLimited', band=0.4), r'band as \[low, high\], got 0.4'),
    (dict(type=['PGD']), r"no attack of type \['PGD'\]"),
    (dict(eps=8), 'the attack block .* has no type; known are IFGSM, FGSM'),
    (dict(type='APGD', step_size=3), "APGD has no argument 'step_size'"),
    (dict(type='WorstOf', attacks=['PGD']), "got 'PGD'"),
    (dict(type='WorstOf', stepz=3, attacks=[{'type': 'PGD'}]), "no attack inside has 'stepz'; did you mean 'steps'"),
    (dict(type='WorstOf', momentum=0.5, attacks=[{'type': 'PGD'}]), "no attack inside has 'momentum'"),
    (dict(type='Transfer', epz=2, source=nn.Identity()), "did you mean 'eps'"),
    ('PGD', "attack as a block with type and arguments, got 'PGD'"),
    (dict(type='Transfer'), 'Transfer needs source'),
    (dict(type='WorstOf'), 'at least one attack'),
    (dict(type='WorstOf', attacks=[{'type': 'PG'}]), "no attack of type 'PG'; did you mean 'PGD'"),
    (dict(type='WorstOf', attacks=[{'objective': name} for name in ('stability', 'ground_truth')]), 'mean different'),
]


@pytest.mark.parametrize('options, message', WRONG, ids=str)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_attack(options)


@pytest.mark.parametrize(
    'lq, target, message',
    [
        (
            torch.zeros(3, 8, 8),
            None,
            r'lq as a tensor of floats \(B, C, H, W\) in \[0, 1\], got torch.float32 \(3, 8, 8\)',
        ),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), None, 'got torch.uint8'),
        (torch.full((1, 3, 8, 8), 255.0), None, 'values from 255 to 255; clamp them, or divide 8-bit'),
        (torch.full((1, 3, 8, 8), torch.nan), None, 'lq holds values that are not numbers'),
        (torch.zeros(0, 3, 8, 8), None, r'lq is empty: \(0, 3, 8, 8\)'),
        (np.zeros((1, 3, 8, 8)), None, 'got float64'),
        (torch.zeros(2, 3, 8, 8), torch.zeros(1, 3, 8, 8), 'as many targets as images, got 1 for 2'),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 16, 16), 'makes 1x3x8x8 of 1x3x8x8, but the target is 1x3x16x16'),
    ],
)
def test_wrong_images_are_refused(lq, target, message):
    with pytest.raises(ValueError, match=message):
        PGD(steps=1, objective='stability')(Affine(torch.ones(1, 3, 1, 1)), lq, target)


class RootOfZero(nn.Module):
    """A network with a finite output and an infinite gradient."""

    def forward(self, x):
        return x + (0 * x).sqrt()


FOLLOW_GRADIENTS = [PGD(steps=1), APGD(steps=2), PGD(steps=1, norm='L2')]
BROKEN = Affine(torch.full((1, 3, 1, 1), torch.nan))


@pytest.mark.parametrize(
    'attack, net',
    [(attack, net) for net in (BROKEN, RootOfZero()) for attack in FOLLOW_GRADIENTS] + [(Square(queries=2), BROKEN)],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else repr(value),
)
def test_a_broken_network_is_named(attack, net):
    with pytest.raises(ValueError, match=f'gradient of {type(net).__name__} is not a number'):
        attack(net, torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize('eps', [torch.tensor([-4.0, 2.0]), torch.tensor([600.0, 2.0]), torch.ones(3), 4.0], ids=str)
def test_wrong_radii_are_refused(eps):
    with pytest.raises(ValueError, match='expected eps (as a tensor with a number for each of 2|in 1/255 units)'):
        PGD(steps=1)(nn.Identity(), torch.rand(2, 3, 8, 8), eps=eps)


def test_wrong_number_of_generators_is_refused():
    with pytest.raises(ValueError, match='one generator per image, got 1 for 2'):
        PGD(steps=1)(nn.Identity(), torch.rand(2, 3, 8, 8), generator=[torch.Generator()])


def test_constructors_refuse_unknown_arguments():
    for wrong in (lambda: FGSM(steps=3), lambda: Universal(seed=1), lambda: PGD(decay=1)):
        with pytest.raises(ValueError, match='has no'):
            wrong()


def test_a_network_of_several_outputs_is_named():
    class Two(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(ValueError, match=r'expected images \(B, C, H, W\) from Two, got tuple'):
        PGD(steps=1)(Two(), torch.rand(1, 3, 8, 8))


def test_inference_mode_is_named():
    with torch.inference_mode(), pytest.raises(ValueError, match='outside torch.inference_mode'):
        PGD(steps=1)(nn.Identity(), torch.rand(1, 3, 8, 8))


def test_a_network_without_a_gradient_is_named():
    class Opaque(nn.Module):
        def forward(self, x):
            return torch.from_numpy(x.detach().numpy() ** 2)

    lq = torch.rand(1, 3, 8, 8)
    with pytest.raises(ValueError, match='the output of Opaque has no gradient .* Square or Transfer'):
        PGD(steps=1)(Opaque(), lq)
    assert not torch.equal(Square(queries=3)(Opaque(), lq), lq)


@pytest.mark.parametrize('objective, what', [('ground_truth', 'the high-resolution'), ('target', 'is to become')])
def test_targets_must_be_given(objective, what, photo):
    with pytest.raises(ValueError, match=f'needs target: .*{what}'):
        IFGSM(objective=objective)(nn.Identity(), photo)


def test_repr_names_what_differs_from_the_defaults():
    assert repr(PGD(eps=4)) == 'PGD(eps=4, steps=10, objective=Stability())'
    assert repr(Square(eps=2, queries=50, seed=1)) == 'Square(eps=2, queries=50, objective=Stability(), seed=1)'
    assert 'attacks' not in repr(worst_of([FGSM(eps=1)])) and 'FGSM(eps=1' in repr(worst_of([FGSM(eps=1)]))


@pytest.mark.parametrize('attack', [*QUICK, DetectorAware(eps=3, steps=2)], ids=repr)
def test_but_changes_only_its_arguments(attack):
    assert repr(attack.but()) == repr(attack)
    assert attack.but(eps=1).eps == 1


def test_inner_blocks_inherit_missing_arguments():
    built = build_attack(
        {
            'type': 'WorstOf',
            'eps': 4,
            'quantize': 'nearest',
            'objective': 'ground_truth',
            'attacks': [{'type': 'PGD', 'steps': 3}, {'type': 'Square', 'queries': 5, 'eps': 2}],
        }
    )
    assert repr(built.attacks[0]) == "PGD(eps=4, steps=3, objective=GroundTruth(), quantize='nearest')"
    assert repr(built.attacks[1]) == "Square(eps=2, queries=5, objective=GroundTruth(), quantize='nearest')"
    transfer = build_attack(
        {'type': 'Transfer', 'eps': 4, 'attack': {'type': 'MIFGSM'}, 'source': {'type': 'Net'}},
        load_network=lambda block: nn.Conv2d(3, 3, 1) if block == {'type': 'Net'} else None,
    )
    assert repr(transfer) == 'Transfer(source=Conv2d, attack=MIFGSM(eps=4, steps=10, objective=Stability()))'


def test_radius_and_settings_reach_every_block():
    deep = build_attack(
        {
            'type': 'WorstOf',
            'eps': 2,
            'steps': 3,
            'tile': 8,
            'attacks': [
                {'type': 'WorstOf', 'attacks': [{'type': 'FGSM'}]},
                {'type': 'Transfer', 'source': nn.Identity()},
                {'type': 'Transfer', 'source': nn.Identity(), 'attack': {'type': 'WorstOf', 'attacks': [{}]}},
                {'type': 'PGD'},
            ],
        }
    )
    inner = [deep.attacks[0].attacks[0], deep.attacks[1].attack, deep.attacks[2].attack.attacks[0], deep.attacks[3]]
    assert [attack.eps for attack in inner] == [2] * 4 and [attack.tile for attack in (deep, *inner)] == [8] * 5
    assert [attack.steps for attack in inner] == [1, 3, 3, 3]
    changed = deep.but(eot_samples=5, gate='always')
    assert changed.eot_samples == changed.attacks[3].eot_samples == 5
    assert changed.attacks[3].gate == 'always' and changed.attacks[1].attack.gate is None


def test_names_of_the_package():
    for name in [
        'FGSM',
        'IFGSM',
        'PGD',
        'MIFGSM',
        'APGD',
        'Square',
        'Universal',
        'Transfer',
        'BandLimited',
        'RandomNoise',
        'build_attack',
        'worst_of',
        'BPDA',
        'DetectorAware',
        'measure',
        'masking_alarms',
    ]:
        assert hasattr(suite, name) and name in suite.__all__
    assert all(build_objective(name) for name in suite.OBJECTIVES if name != 'perceptual')
