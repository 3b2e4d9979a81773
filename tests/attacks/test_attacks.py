"""All attacks: invariants, determinism, batches, objectives."""

import numpy as np
import pytest
import torch
from quick_attacks import QUICK
from torch import nn

from networks import Affine, Along, DefendedGain, Dense, Valley
from rsr_basicsr import attacks as suite
from rsr_basicsr.attacks import (
    APGD,
    IFGSM,
    PGD,
    DetectorAware,
    RandomNoise,
    Square,
    Transfer,
    Universal,
    worst_of,
)
from rsr_basicsr.attacks.problem import Problem


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


def test_batch_norm_statistics_do_not_change():
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Dropout(0.5)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    PGD(steps=2)(net, torch.rand(2, 3, 8, 8))
    assert net.training and all(module.training for module in net)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_frozen_parameters_stay_frozen(photo):
    net = Affine(torch.ones(1, 3, 1, 1)).requires_grad_(False)
    PGD(steps=2)(net, photo)
    assert not net.weight.requires_grad


def test_gradcheck():
    net = nn.Conv2d(3, 3, 3, padding=1).double()
    x, reference = torch.rand(1, 3, 5, 5).double(), torch.rand(1, 3, 5, 5).double()
    problem = Problem(IFGSM(objective='ground_truth'), net, x, torch.tensor(1 / 255))
    problem.refer_to(reference)
    gradient, _ = problem.gradient(x)
    step = torch.zeros_like(x)
    step[0, 1, 2, 3] = 1e-6
    difference = problem.loss(x + step) - problem.loss(x - step)
    assert gradient[0, 1, 2, 3].item() == pytest.approx(difference.item() / 2e-6, rel=1e-6)


def test_without_clamp_only_the_ball_counts():
    net, lq = Affine(torch.ones(1, 3, 4, 4)), torch.ones(1, 3, 4, 4)
    options = dict(eps=8, steps=2, objective='ground_truth')
    torch.testing.assert_close(IFGSM(**options, clamp=False)(net, lq, lq - 1), lq + 8 / 255)
    assert IFGSM(**options)(net, lq, lq - 1).max() == 1


SEEDED = [attack for attack in QUICK if not isinstance(attack, (Universal, Transfer, suite.WorstOf))]


@pytest.mark.parametrize('attack', SEEDED, ids=repr)
def test_a_seeded_result_does_not_depend_on_the_batch(attack, real_network, photo):
    attack, small = attack.but(seed=3), photo[..., :24, :24]
    batch = torch.cat([small, small.flip(-1), photo[..., 8:32, 8:32]])
    together = attack(real_network, batch)
    torch.manual_seed(99)
    assert torch.equal(attack(real_network, batch[2:])[0], together[2])
    assert torch.equal(attack(real_network, batch.flip(0)), together.flip(0))
    if not isinstance(attack, Square) and attack.objective.needs_random_start:
        assert not torch.equal(attack.but(seed=4)(real_network, batch[2:])[0], together[2])


def test_a_seed_keeps_the_global_random_state(photo):
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
def test_per_sample_generators_are_independent_of_the_batch(attack):
    # In float64, where products of one and of two rows flip no sign.
    net, lq = Dense(height=8, width=8), torch.rand(3, 3, 8, 8, dtype=torch.float64)
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    together = attack(net, lq, generator=generators)
    alone = attack(net, lq[1:2], generator=[torch.Generator().manual_seed(1)])
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-7)


def test_repeatable_with_a_generator(real_network, photo):
    first, second = (
        PGD(eps=4, steps=2)(real_network, photo, generator=torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize('attack', QUICK, ids=repr)
def test_eps_of_each_sample(attack):
    lq = torch.full((3, 3, 24, 24), 0.5)
    eps = torch.tensor([0.0, 2.0, 6.0])
    delta = attack(DefendedGain(defense={'gate': 'never'}), lq, eps=eps) - lq
    size = (
        delta.square().flatten(1).mean(1).sqrt()
        if getattr(attack, 'norm', '') == 'L2'
        else delta.abs().flatten(1).amax(1)
    )
    assert size[0] == 0
    assert (size <= eps / 255 + 1e-6).all() and (size[1:] > eps[1:] / 255 * 0.5).all()


def test_restarts_keep_the_worst_of_each_sample(real_network, photo):
    batch, attack = torch.cat([photo, photo.flip(-1)])[..., :32, :32], RandomNoise(eps=8)
    singles = [
        attack(real_network, batch, generator=generator)
        for generator in [torch.Generator().manual_seed(0)]
        for _ in range(5)
    ]
    kept = attack.but(restarts=5)(real_network, batch, generator=torch.Generator().manual_seed(0))
    losses = torch.stack([loss(real_network, single, batch) for single in singles])
    torch.testing.assert_close(loss(real_network, kept, batch), losses.amax(0))


def loss(net, attacked, lq):
    with torch.no_grad():
        return (net(attacked) - net(lq)).square().flatten(1).sum(1)


@pytest.mark.parametrize('keep_best, expected', [(True, 0), (False, 8)])
def test_keep_best_returns_the_strongest_image(keep_best, expected):
    net, lq = Affine(torch.ones(1, 3, 4, 4)), torch.full((1, 3, 4, 4), 0.5)
    attack = PGD(eps=8, steps=3, step_size=8, random_start=0, keep_best=keep_best, objective=Valley())
    torch.testing.assert_close(attack(net, lq, lq), lq + expected / 255)


def test_works_inside_no_grad(real_network, photo):
    with torch.no_grad():
        attacked = IFGSM(eps=8, steps=2)(real_network, photo)
    assert loss(real_network, attacked, photo) > 0


def test_the_targeted_attack_approaches_its_target(real_network, photo):
    target = torch.zeros(1, 3, 256, 256)
    inputs = (
        photo,
        RandomNoise(eps=8)(real_network, photo),
        PGD(eps=8, steps=5, objective='target')(real_network, photo, target),
    )
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
    with pytest.raises(ValueError, match=r'needs one distance per sample, got \(\) for 2'):
        PGD(steps=1, objective=suite.Perceptual(lambda a, b: (a - b).mean()))(nn.Identity(), photo.repeat(2, 1, 1, 1))


@pytest.mark.parametrize('attack', [PGD(eps=4, steps=2), Square(eps=4, queries=3)], ids=repr)
def test_networks_that_write_to_their_input(attack):
    net, lq = nn.Sequential(nn.Hardtanh(0.3, 0.7, inplace=True), Dense(height=8, width=8)), torch.rand(2, 3, 8, 8)
    before = lq.clone()
    assert (attack(net, lq) - before).abs().max() <= 4 / 255 + 1e-6
    assert torch.equal(lq, before)


class Counter(nn.Module):
    """Counts its passes in two buffers: one is replaced, one modified in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer('replaced', torch.zeros(()))
        self.register_buffer('written', torch.zeros(()))

    def forward(self, x):
        self.replaced = self.replaced + 1
        self.written += 1
        return 2 * x


@pytest.mark.parametrize('training', [True, False])
def test_buffers_are_restored(training):
    net = Counter().train(training)
    PGD(steps=2)(net, torch.rand(1, 3, 8, 8))
    assert net.replaced == net.written == 0 and 'replaced' in net.state_dict()


def test_statistics_of_a_classifier_in_training_are_restored():
    # They are parameters that require no gradient, so that a moving average and several processes handle them.
    defense = {'classifier': {'type': 'residual', 'weights': 'untrained'}}
    net = DefendedGain(defense=defense).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    DetectorAware(eps=8, steps=2, weights=[1.0])(net, torch.rand(2, 3, 32, 32))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert any('running_var' in name for name in before)
    net.defense.classifier(torch.rand(2, 3, 32, 32))  # a step of its own training does write to them
    name = next(name for name in before if 'running_var' in name)
    assert not torch.equal(net.state_dict()[name], before[name])


@pytest.mark.parametrize('attack', [IFGSM(eps=4), APGD(eps=4, steps=3), PGD(eps=4, norm='L2')], ids=repr)
def test_half_precision_images_stay_in_the_ball(attack):
    lq = torch.rand(2, 3, 8, 8).half()
    attacked = attack(nn.Upsample(scale_factor=2).half(), lq)
    delta = attacked.double() - lq.double()
    size = delta.square().flatten(1).mean(1).sqrt().max() if attack.norm == 'L2' else delta.abs().max()
    assert attacked.dtype == torch.float16 and size * 255 <= 4 + 0.07  # half of the step between two such numbers


def test_a_broken_image_does_not_affect_others():
    lq = torch.rand(2, 3, 8, 8)
    lq[1, 0, 0, 0] = torch.nan
    attacked = PGD(eps=4, steps=2).perturb(Affine(torch.ones(1, 3, 1, 1)), lq)
    assert attacked[0].isfinite().all() and not attacked[1].isfinite().any()


def test_seeded_worst_of_is_repeatable(photo):
    net = DefendedGain(defense={'gate': 'always'}).eval()
    attack = worst_of([RandomNoise(eps=4), PGD(eps=4, steps=2), PGD(eps=4, steps=1, seed=2)], seed=1)
    batch = torch.cat([photo, photo.flip(-1)])[..., :16, :16]
    for first, second in zip(attack.results(net, batch), attack.results(net, batch)):
        assert torch.equal(first, second)
    assert torch.equal(attack(net, batch[1:])[0], attack(net, batch)[1])


def test_gradient_of_along_and_dense():
    net, direction = Dense(), torch.randn(2, 3, 12, 10, dtype=torch.float64)
    x = torch.rand(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(Along()(net(x), direction).sum(), x)
    torch.testing.assert_close(gradient, net.gradient(direction))
