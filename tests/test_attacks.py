"""What all attacks share: invariants, repeatability, batches, options, refusals, cost."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from networks import Affine, Along, DefendedGain, Dense
from rsr_basicsr import attacks as suite
from rsr_basicsr.attacks import (
    APGD,
    ATTACKS,
    FGSM,
    IFGSM,
    MIFGSM,
    PGD,
    BandLimited,
    DetectorAware,
    RandomNoise,
    Square,
    Transfer,
    Universal,
    build_attack,
    worst_of,
)
from rsr_basicsr.attacks.memory import InputGradientOnly
from rsr_basicsr.attacks.objectives import build_objective
from rsr_basicsr.attacks.problem import Problem

QUICK = [
    FGSM(eps=4), IFGSM(eps=4, steps=3), MIFGSM(eps=4, steps=3), PGD(eps=4, steps=3), APGD(eps=4, steps=4),
    BandLimited(eps=4, steps=3), Universal(eps=4, steps=2, size=24), Square(eps=4, queries=5), RandomNoise(eps=4),
    PGD(eps=2.5, steps=3, norm='L2'), PGD(eps=2.5, steps=2, restarts=2), worst_of([FGSM(eps=4), RandomNoise(eps=4)]),
    Transfer(source=nn.Upsample(scale_factor=4), eps=4, steps=2)]


@pytest.mark.parametrize('quantize', ['none', 'nearest', 'floor'])
@pytest.mark.parametrize('attack', QUICK, ids=repr)
def test_invariants(attack, quantize, real_network, photo):
    attack, photo = attack.but(quantize=quantize), photo[..., :32, :32]
    real_network.train()
    before = {name: value.clone() for name, value in real_network.state_dict().items()}
    attacked = attack(real_network, photo)
    delta = attacked - photo
    size = delta.square().mean().sqrt() if getattr(attack, 'norm', 'Linf') == 'L2' else delta.abs().max()
    assert 0 < size <= attack.eps / 255 + 1e-6
    assert attacked.min() >= 0 and attacked.max() <= 1
    assert not attacked.requires_grad and attacked.dtype == photo.dtype
    if quantize != 'none':
        np.testing.assert_allclose(attacked * 255, (attacked * 255).round(), atol=1e-4)
    assert real_network.training
    assert all(p.grad is None and p.requires_grad for p in real_network.parameters())
    assert all(torch.equal(before[name], value) for name, value in real_network.state_dict().items())
    real_network.eval()


def test_statistics_of_a_network_in_training_stay():
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Dropout(0.5)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    PGD(steps=2)(net, torch.rand(2, 3, 8, 8))
    assert net.training and all(module.training for module in net)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_frozen_parameters_stay_frozen(photo):
    net = Affine(torch.ones(1, 3, 1, 1)).requires_grad_(False)
    PGD(steps=2)(net, photo)
    assert not net.weight.requires_grad


def test_gradient_against_finite_differences():
    net = nn.Conv2d(3, 3, 3, padding=1).double()
    x, reference = torch.rand(1, 3, 5, 5).double(), torch.rand(1, 3, 5, 5).double()
    problem = Problem(IFGSM(objective='ground_truth'), net, x, torch.tensor(1 / 255))
    problem.refer_to(reference)
    gradient, _ = problem.gradient(x)
    step = torch.zeros_like(x)
    step[0, 1, 2, 3] = 1e-6
    difference = problem.damage(x + step) - problem.damage(x - step)
    assert gradient[0, 1, 2, 3].item() == pytest.approx(difference.item() / 2e-6, rel=1e-6)


def test_without_the_clamp_pictures_leave_the_value_range_but_not_the_ball():
    net, lq = Affine(torch.ones(1, 3, 4, 4)), torch.ones(1, 3, 4, 4)
    options = dict(eps=8, steps=2, objective='ground_truth')
    torch.testing.assert_close(IFGSM(**options, clamp=False)(net, lq, lq - 1), lq + 8 / 255)
    assert IFGSM(**options)(net, lq, lq - 1).max() == 1


SEEDED = [attack for attack in QUICK if not isinstance(attack, (Universal, Transfer, suite.WorstOf))]


@pytest.mark.parametrize('attack', SEEDED, ids=repr)
def test_with_a_seed_a_picture_has_one_result_in_any_batch(attack, real_network, photo):
    attack, small = attack.but(seed=3), photo[..., :24, :24]
    batch = torch.cat([small, small.flip(-1), photo[..., 8:32, 8:32]])
    together = attack(real_network, batch)
    torch.manual_seed(99)
    assert torch.equal(attack(real_network, batch[2:])[0], together[2])
    assert torch.equal(attack(real_network, batch.flip(0)), together.flip(0))
    if not isinstance(attack, Square) and attack.objective.needs_random_start:
        assert not torch.equal(attack.but(seed=4)(real_network, batch[2:])[0], together[2])


def test_a_seed_leaves_the_random_numbers_of_the_program_alone(photo):
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    PGD(steps=1, seed=5)(nn.Identity(), photo)
    assert torch.equal(torch.rand(2), expected)


def test_a_seed_covers_the_masks(photo):
    net = DefendedGain(defense={'gate': 'always'}).eval()
    attack = PGD(eps=4, steps=2, seed=1)
    assert torch.equal(attack(net, photo), attack(net, photo))
    assert not torch.equal(net(photo), net(photo))


@pytest.mark.parametrize('attack', [attack for attack in SEEDED if not attack.restarts > 1], ids=repr)
def test_with_a_generator_for_each_sample_the_batch_does_not_matter(attack):
    # In float64, where products of one and of two rows round alike enough for no sign to flip.
    net, lq = Dense(height=8, width=8), torch.rand(3, 3, 8, 8, dtype=torch.float64)
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    together = attack(net, lq, generator=generators)
    alone = attack(net, lq[1:2], generator=[torch.Generator().manual_seed(1)])
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-7)


def test_repeatable_with_a_generator(real_network, photo):
    first, second = (PGD(eps=4, steps=2)(real_network, photo, generator=torch.Generator().manual_seed(1))
                     for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize('attack', QUICK, ids=repr)
def test_eps_of_each_sample(attack):
    lq = torch.full((3, 3, 24, 24), 0.5)
    eps = torch.tensor([0.0, 2.0, 6.0])
    delta = attack(DefendedGain(defense={'gate': 'never'}), lq, eps=eps) - lq
    size = delta.square().flatten(1).mean(1).sqrt() if getattr(attack, 'norm', '') == 'L2' else \
        delta.abs().flatten(1).amax(1)
    assert size[0] == 0
    assert (size <= eps / 255 + 1e-6).all() and (size[1:] > eps[1:] / 255 * 0.5).all()


def test_restarts_keep_the_worst_of_each_sample(real_network, photo):
    batch, attack = torch.cat([photo, photo.flip(-1)])[..., :32, :32], RandomNoise(eps=8)
    singles = [attack(real_network, batch, generator=generator)
               for generator in [torch.Generator().manual_seed(0)] for _ in range(5)]
    kept = attack.but(restarts=5)(real_network, batch, generator=torch.Generator().manual_seed(0))
    damages = torch.stack([damage(real_network, single, batch) for single in singles])
    torch.testing.assert_close(damage(real_network, kept, batch), damages.amax(0))


def damage(net, attacked, lq):
    with torch.no_grad():
        return (net(attacked) - net(lq)).square().flatten(1).sum(1)


class Valley(suite.Objective):
    """Damage that peaks 3/255 above the reference, so that a step of 8/255 from there overshoots."""

    needs_target = True

    def __call__(self, output, reference):
        return -(output - reference - 3 / 255).square().flatten(1).sum(1)


@pytest.mark.parametrize('keep_best, expected', [(True, 0), (False, 8)])
def test_keep_best_returns_the_worst_picture_met(keep_best, expected):
    net, lq = Affine(torch.ones(1, 3, 4, 4)), torch.full((1, 3, 4, 4), 0.5)
    attack = PGD(eps=8, steps=3, step_size=8, random_start=0, keep_best=keep_best, objective=Valley())
    torch.testing.assert_close(attack(net, lq, lq), lq + expected / 255)


def test_works_inside_no_grad(real_network, photo):
    with torch.no_grad():
        attacked = IFGSM(eps=8, steps=2)(real_network, photo)
    assert damage(real_network, attacked, photo) > 0


def test_the_targeted_attack_comes_nearer_to_the_picture(real_network, photo):
    target = torch.zeros(1, 3, 256, 256)
    inputs = (photo, RandomNoise(eps=8)(real_network, photo),
              PGD(eps=8, steps=5, objective='target')(real_network, photo, target))
    with torch.no_grad():
        before, noise, error = ((real_network(x) - target).square().mean() for x in inputs)
    assert error < 0.95 * before < noise


def test_any_distance_can_be_the_objective(real_network, photo):
    def edges(output, reference):
        return (output.diff(dim=-1) - reference.diff(dim=-1)).abs().flatten(1).mean(1)

    photo = photo[..., :32, :32]
    clean = real_network(photo).detach()
    attacked = PGD(eps=4, steps=10, objective=suite.Perceptual(edges))(real_network, photo)
    noise = RandomNoise(eps=4)(real_network, photo)
    with torch.no_grad():
        assert edges(real_network(attacked), clean) > 1.5 * edges(real_network(noise), clean)
    with pytest.raises(ValueError, match=r'needs one distance a sample, got \(\) for 2'):
        PGD(steps=1, objective=suite.Perceptual(lambda a, b: (a - b).mean()))(nn.Identity(), photo.repeat(2, 1, 1, 1))


WRONG = [
    (dict(type='FGSMM'), 'FGSM, IFGSM'), (dict(type='PGD', eps=300), '1/255'), (dict(type='PGD', steps=0), 'steps'),
    (dict(type='PGD', objective='chaos'), 'ground_truth'), (dict(type='PGD', quantize='up'), "got 'up'"),
    (dict(type='PGD', quantize='floor', clamp=False), 'quantize: floor needs clamp'),
    (dict(type='FGSM', steps=3), "FGSM has no 'steps'"), (dict(type='PGD', stepz=3), "did you mean 'steps'"),
    (dict(type='PGD', norm='L1'), "norm must be one of Linf, L2, got 'L1'"),
    (dict(type='Square', norm='L2'), "norm must be one of Linf, got 'L2'"),
    (dict(type='PGD', gate='on'), 'gate must be one of straight_through, always, never'),
    (dict(type='PGD', draws=0), 'expected draws >= 1, a whole number, got 0'),
    (dict(type='PGD', seed=-1), 'expected seed >= 0'),
    (dict(type='PGD', tile=8, memory=1), 'tile: 8 and memory: 1 exclude each other'),
    (dict(type='PGD', memory=0), 'expected memory > 0, got 0'), (dict(type='PGD', precision='fp8'), 'fp32, bf16'),
    (dict(type='PGD', random_start=0), 'no gradient at the clean picture'),
    (dict(type='BandLimited', band=[0.5, 0.4]), r'0 <= low < high <= 1, got \[0.5, 0.4\]'),
    (dict(type='Square', queries=1), 'queries >= 2'), (dict(type='Square', area=0), 'area > 0 and <= 1, got 0'),
    (dict(type='MIFGSM', decay=-1), 'decay >= 0'), (dict(type='Universal', size=0), 'size >= 1'),
    (dict(type='DetectorAware', weights=[]), 'expected weights'), (dict(type='PGD', eps='8'), "got '8'"),
    (dict(type='PGD', steps=2.5), 'a whole number, got 2.5'), (dict(type='PGD', clamp='no'), "true or false, got 'no'"),
    (dict(type='APGD', rho=-3), 'rho >= 0 and <= 1, got -3'), (dict(type='PGD', objective=['a']), 'objective must be'),
    (dict(type='BandLimited', band=0.4), r'band as \[low, high\], got 0.4'), (dict(type=['PGD']), "got \\['PGD'\\]"),
    (dict(type='APGD', step_size=3), "APGD has no 'step_size'"), (dict(type='WorstOf', attacks=['PGD']), "got 'PGD'"),
    (dict(type='WorstOf', stepz=3, attacks=[{'type': 'PGD'}]), "no attack inside has 'stepz'; did you mean 'steps'"),
    (dict(type='WorstOf', momentum=0.5, attacks=[{'type': 'PGD'}]), "no attack inside has 'momentum'"),
    (dict(type='Transfer', epz=2, source=nn.Identity()), "did you mean 'eps'"),
    ('PGD', "an attack block, .* got 'PGD'"),
    (dict(type='Transfer'), 'Transfer needs source'),
    (dict(type='WorstOf'), 'at least one attack'), (dict(type='WorstOf', attacks=[{'type': 'PG'}]), "got 'PG'"),
    (dict(type='WorstOf', attacks=[{'objective': name} for name in ('stability', 'ground_truth')]), 'mean different'),
]


@pytest.mark.parametrize('options, message', WRONG, ids=str)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_attack(options)


@pytest.mark.parametrize('lq, target, message', [
    (torch.zeros(3, 8, 8), None, r'lq as a tensor of floats \(B, C, H, W\) in \[0, 1\], got torch.float32 \(3, 8, 8\)'),
    (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), None, 'got torch.uint8'),
    (torch.full((1, 3, 8, 8), 255.0), None, 'values from 255 to 255; clamp them, or divide 8-bit'),
    (torch.full((1, 3, 8, 8), torch.nan), None, 'lq holds values that are not numbers'),
    (torch.zeros(0, 3, 8, 8), None, r'lq is empty: \(0, 3, 8, 8\)'), (np.zeros((1, 3, 8, 8)), None, 'got float64'),
    (torch.zeros(2, 3, 8, 8), torch.zeros(1, 3, 8, 8), 'as many targets as pictures, got 1 for 2'),
    (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 16, 16), 'makes 1x3x8x8 of 1x3x8x8, but the target is 1x3x16x16'),
])
def test_wrong_pictures_are_refused(lq, target, message):
    with pytest.raises(ValueError, match=message):
        PGD(steps=1, objective='stability')(Affine(torch.ones(1, 3, 1, 1)), lq, target)


class RootOfZero(nn.Module):
    """Of finite output, and a gradient that is not."""

    def forward(self, x):
        return x + (0 * x).sqrt()


@pytest.mark.parametrize('attack', [PGD(steps=1), APGD(steps=2), Square(queries=2), PGD(steps=1, norm='L2')], ids=repr)
@pytest.mark.parametrize('net', [Affine(torch.full((1, 3, 1, 1), torch.nan)), RootOfZero()], ids=['output', 'gradient'])
def test_a_broken_network_is_named(attack, net):
    if isinstance(net, RootOfZero) and attack.uses != 'gradients':
        pytest.skip('it asks for no gradient')
    with pytest.raises(ValueError, match=f'gradient of {type(net).__name__} is not a number'):
        attack(net, torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize('eps', [torch.tensor([-4.0, 2.0]), torch.tensor([600.0, 2.0]), torch.ones(3), 4.0], ids=str)
def test_wrong_radii_are_refused(eps):
    with pytest.raises(ValueError, match='expected eps (as a tensor with a number for each of 2|in 1/255 units)'):
        PGD(steps=1)(nn.Identity(), torch.rand(2, 3, 8, 8), eps=eps)


def test_wrong_number_of_generators_is_refused():
    with pytest.raises(ValueError, match='one generator a picture, got 1 for 2'):
        PGD(steps=1)(nn.Identity(), torch.rand(2, 3, 8, 8), generator=[torch.Generator()])


def test_constructors_refuse_what_the_attack_does_not_have():
    for wrong in (lambda: FGSM(steps=3), lambda: Universal(seed=1), lambda: PGD(decay=1)):
        with pytest.raises(ValueError, match='has no'):
            wrong()


def test_a_network_of_several_outputs_is_named():
    class Two(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(ValueError, match=r'expected pictures \(B, C, H, W\) from Two, got tuple'):
        PGD(steps=1)(Two(), torch.rand(1, 3, 8, 8))


def test_inference_mode_is_named():
    with torch.inference_mode(), pytest.raises(ValueError, match='outside torch.inference_mode'):
        PGD(steps=1)(nn.Identity(), torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize('attack', [PGD(eps=4, steps=2), Square(eps=4, queries=3)], ids=repr)
def test_networks_that_write_to_their_input(attack):
    net, lq = nn.Sequential(nn.Hardtanh(0.3, 0.7, inplace=True), Dense(height=8, width=8)), torch.rand(2, 3, 8, 8)
    before = lq.clone()
    assert (attack(net, lq) - before).abs().max() <= 4 / 255 + 1e-6
    assert torch.equal(lq, before)


class Counter(nn.Module):
    """Counts its passes in buffers, one replaced and one written to."""

    def __init__(self):
        super().__init__()
        self.register_buffer('replaced', torch.zeros(()))
        self.register_buffer('written', torch.zeros(()))

    def forward(self, x):
        self.replaced = self.replaced + 1
        self.written += 1
        return 2 * x


@pytest.mark.parametrize('training', [True, False])
def test_buffers_stay(training):
    net = Counter().train(training)
    PGD(steps=2)(net, torch.rand(1, 3, 8, 8))
    assert net.replaced == net.written == 0 and 'replaced' in net.state_dict()


@pytest.mark.parametrize('attack', [IFGSM(eps=4), APGD(eps=4, steps=3), PGD(eps=4, norm='L2')], ids=repr)
def test_half_precision_pictures_stay_in_the_ball(attack):
    lq = torch.rand(2, 3, 8, 8).half()
    attacked = attack(nn.Upsample(scale_factor=2).half(), lq)
    delta = attacked.double() - lq.double()
    size = delta.square().flatten(1).mean(1).sqrt().max() if attack.norm == 'L2' else delta.abs().max()
    assert attacked.dtype == torch.float16 and size * 255 <= 4 + 0.07  # half of the step between two such numbers


def test_a_broken_picture_breaks_no_other():
    lq = torch.rand(2, 3, 8, 8)
    lq[1, 0, 0, 0] = torch.nan
    attacked = PGD(eps=4, steps=2).perturb(Affine(torch.ones(1, 3, 1, 1)), lq)
    assert attacked[0].isfinite().all() and not attacked[1].isfinite().any()


def test_networks_that_checkpoint_by_themselves():
    class Checkpointed(nn.Sequential):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=False)

    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3)
    lq = torch.rand(1, 3, 9, 9)
    first, second = (PGD(eps=4, steps=2, seed=1)(kind(*layers), lq) for kind in (nn.Sequential, Checkpointed))
    assert torch.equal(first, second)


def test_seeded_worst_of_is_repeatable(photo):
    net = DefendedGain(defense={'gate': 'always'}).eval()
    attack = worst_of([RandomNoise(eps=4), PGD(eps=4, steps=2), PGD(eps=4, steps=1, seed=2)], seed=1)
    batch = torch.cat([photo, photo.flip(-1)])[..., :16, :16]
    for first, second in zip(attack.results(net, batch), attack.results(net, batch)):
        assert torch.equal(first, second)
    assert torch.equal(attack(net, batch[1:])[0], attack(net, batch)[1])


def test_a_network_without_a_gradient_is_named():
    class Opaque(nn.Module):
        def forward(self, x):
            return torch.from_numpy(x.detach().numpy() ** 2)

    lq = torch.rand(1, 3, 8, 8)
    with pytest.raises(ValueError, match='the output of Opaque has no gradient .* Square or Transfer'):
        PGD(steps=1)(Opaque(), lq)
    assert not torch.equal(Square(queries=3)(Opaque(), lq), lq)


@pytest.mark.parametrize('objective, what', [('ground_truth', 'the high-resolution'), ('target', 'shall become')])
def test_targets_must_be_given(objective, what, photo):
    with pytest.raises(ValueError, match=f'needs target: .*{what}'):
        IFGSM(objective=objective)(nn.Identity(), photo)


def test_repr_says_what_differs():
    assert repr(PGD(eps=4)) == 'PGD(eps=4, steps=10, objective=Stability())'
    assert repr(Square(eps=2, queries=50, seed=1)) == 'Square(eps=2, queries=50, objective=Stability(), seed=1)'
    assert 'attacks' not in repr(worst_of([FGSM(eps=1)])) and 'FGSM(eps=1' in repr(worst_of([FGSM(eps=1)]))


@pytest.mark.parametrize('attack', [*QUICK, DetectorAware(eps=3, steps=2)], ids=repr)
def test_but_changes_what_it_is_told_and_keeps_the_rest(attack):
    assert repr(attack.but()) == repr(attack)
    assert attack.but(eps=1).eps == 1


def test_blocks_inside_blocks_take_what_they_do_not_say():
    built = build_attack({'type': 'WorstOf', 'eps': 4, 'quantize': 'nearest', 'objective': 'ground_truth', 'attacks': [
        {'type': 'PGD', 'steps': 3}, {'type': 'Square', 'queries': 5, 'eps': 2}]})
    assert repr(built.attacks[0]) == "PGD(eps=4, steps=3, objective=GroundTruth(), quantize='nearest')"
    assert repr(built.attacks[1]) == "Square(eps=2, queries=5, objective=GroundTruth(), quantize='nearest')"
    transfer = build_attack({'type': 'Transfer', 'eps': 4, 'attack': {'type': 'MIFGSM'}, 'source': {'type': 'Net'}},
                            load_network=lambda block: nn.Conv2d(3, 3, 1) if block == {'type': 'Net'} else None)
    assert repr(transfer) == 'Transfer(source=Conv2d, attack=MIFGSM(eps=4, steps=10, objective=Stability()))'


def test_radius_and_settings_reach_every_block():
    deep = build_attack({'type': 'WorstOf', 'eps': 2, 'steps': 3, 'tile': 8, 'attacks': [
        {'type': 'WorstOf', 'attacks': [{'type': 'FGSM'}]}, {'type': 'Transfer', 'source': nn.Identity()},
        {'type': 'Transfer', 'source': nn.Identity(), 'attack': {'type': 'WorstOf', 'attacks': [{}]}},
        {'type': 'PGD'}]})
    inner = [deep.attacks[0].attacks[0], deep.attacks[1].attack, deep.attacks[2].attack.attacks[0], deep.attacks[3]]
    assert [attack.eps for attack in inner] == [2] * 4 and [attack.tile for attack in (deep, *inner)] == [8] * 5
    assert [attack.steps for attack in inner] == [1, 3, 3, 3]
    changed = deep.but(draws=5, gate='always')
    assert changed.draws == changed.attacks[3].draws == 5
    assert changed.attacks[3].gate == 'always' and changed.attacks[1].attack.gate is None


def test_names_of_the_package():
    for name in ('FGSM IFGSM PGD MIFGSM APGD Square Universal Transfer BandLimited RandomNoise build_attack worst_of '
                 'BPDA DetectorAware measure masking_alarms').split():
        assert hasattr(suite, name) and name in suite.__all__
    assert all(build_objective(name) for name in suite.OBJECTIVES if name != 'perceptual')


DOCS = (Path(__file__).parents[1] / 'docs' / 'attacks.md').read_text(encoding='utf-8')
COST = {cells[0].strip(' `'): cells[1:] for cells in (
    line.strip('|').split('|') for line in DOCS.split('## What they cost')[1].split('\n## ')[0].splitlines()
    if line.startswith('| `'))}


class Counting(nn.Module):
    """Counts its passes."""

    def __init__(self, net):
        super().__init__()
        self.net, self.forward_passes, self.backward_passes = net, 0, 0

    def forward(self, x):
        self.forward_passes += 1
        output = self.net(x)
        if output.requires_grad:
            output.register_hook(lambda gradient: setattr(self, 'backward_passes', self.backward_passes + 1))
        return output


@pytest.mark.parametrize('name', [name for name in ATTACKS if name not in ('Transfer', 'WorstOf')])
@pytest.mark.parametrize('settings', [{}, dict(restarts=2), dict(draws=3), dict(keep_best=True)], ids=str)
def test_cost_is_what_the_table_says(name, settings):
    parameters = ATTACKS[name].parameters()
    if any(key not in parameters for key in settings):
        pytest.skip(f'{name} does not take {settings}')
    small = {key: value for key, value in dict(steps=4, queries=4, size=8, weights=(0.0, 1.0)).items()
             if key in parameters}
    attack = ATTACKS[name](eps=4, **small, **settings)
    net = Counting(DefendedGain(defense={'gate': 'never'}))
    attack(net, torch.rand(1, 3, 8, 8))
    known = {'T': getattr(attack, 'steps', None), 'Q': getattr(attack, 'queries', None), 'N': attack.draws,
             'R': attack.restarts, 'L': len(getattr(attack, 'weights', ())), 'K': int(getattr(attack, 'keep_best', 0)),
             'M': int(attack.restarts > 1)}
    forward, backward = (eval(re.sub(r'[^TQNRLKM0-9+*() ]', '', cell), {}, known) for cell in COST[name][:2])
    reference = int(attack.asks_for_damage)  # the clean output
    assert (net.forward_passes - reference, net.backward_passes) == (forward, backward)


def test_along_and_dense_are_what_they_say():
    net, direction = Dense(), torch.randn(2, 3, 12, 10, dtype=torch.float64)
    x = torch.rand(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    gradient, = torch.autograd.grad(Along()(net(x), direction).sum(), x)
    torch.testing.assert_close(gradient, net.gradient(direction))


CONVOLUTIONS = [dict(padding=1), dict(stride=2, padding=(1, 0)), dict(dilation=2, groups=3), dict(padding='same'),
                dict(padding=1, padding_mode='reflect'), dict(bias=False)]


@pytest.mark.parametrize('options', CONVOLUTIONS, ids=str)
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_convolutions_that_forget_their_input_have_its_gradient(options, layout):
    layer = nn.Conv2d(3, 6, 3, **options).requires_grad_(False)
    x = torch.rand(2, 3, 9, 10).contiguous(memory_format=layout).requires_grad_()
    expected, = torch.autograd.grad(layer(x).square().sum(), x)
    kept = []
    with InputGradientOnly(), torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: [kept.append(tensor), tensor][1], lambda tensor: tensor):
        output = layer(x)
    assert torch.equal(torch.autograd.grad(output.square().sum(), x)[0], expected)
    if 'padding_mode' not in options and options.get('padding') != 'same':
        assert sum(tensor.untyped_storage().nbytes() for tensor in kept) == (layer.weight.numel() + 1) * 4
    with InputGradientOnly():  # where the weights learn, nothing changes
        layer.requires_grad_(True)(x).sum().backward()
    assert layer.weight.grad.abs().max() > 0


def test_bf16_is_near_fp32(real_network, photo):
    photo = photo[..., :24, :24]
    problems = [Problem(PGD(precision=precision), real_network, photo, torch.tensor(4 / 255))
                for precision in ('fp32', 'bf16')]
    gradients = []
    for problem in problems:
        problem.refer_to(torch.zeros(1, 3, 96, 96))
        gradients.append(problem.gradient(photo)[0])
    assert gradients[1].dtype == torch.float32 and not torch.equal(*gradients)
    assert F.cosine_similarity(*(gradient.flatten() for gradient in gradients), dim=0) > 0.9


def test_compiled_networks_are_attacked_alike(photo):
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Tanh())
    compiled = torch.compile(net, backend='eager')
    first, second = (PGD(eps=4, steps=2, seed=1)(n, photo[..., :8, :8]) for n in (net, compiled))
    torch.testing.assert_close(first, second)
