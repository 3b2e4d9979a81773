"""Strength of attacks: closed forms on linear networks, their order and reference figures on real ones."""

import cv2
import pytest
import torch
from torch.nn import functional as F

from networks import Affine, Along, Dense, Valley
from rsr_basicsr.attacks import (
    APGD,
    FGSM,
    IFGSM,
    MIFGSM,
    PGD,
    BandLimited,
    RandomNoise,
    Square,
    Transfer,
    Universal,
    worst_of,
)
from rsr_basicsr.attacks.constraints import Band
from rsr_basicsr.catalog.weights import WEIGHTS
from rsr_basicsr.weights.state_dict import load_network


@pytest.fixture(scope='module')
def linear():
    """A dense linear network, images far from black and white, a direction of loss, and its gradient."""
    torch.manual_seed(0)
    net, lq = Dense(), 0.3 + 0.4 * torch.rand(2, 3, 6, 5, dtype=torch.float64)
    direction = torch.randn(2, 3, 12, 10, dtype=torch.float64)
    return net, lq, direction, net.gradient(direction)


ITERATED = [IFGSM, MIFGSM, PGD, APGD]


@pytest.mark.parametrize('attack', [FGSM, *ITERATED])
def test_linf_optimum_of_a_linear_network(attack, linear):
    net, lq, direction, gradient = linear
    attacked = attack(eps=8, objective=Along())(net, lq, direction)
    torch.testing.assert_close(attacked, lq + 8 / 255 * gradient.sign(), atol=1e-9, rtol=0)


@pytest.mark.parametrize('attack', [FGSM, *ITERATED])
def test_l2_optimum_of_a_linear_network(attack, linear):
    net, lq, direction, gradient = linear
    attacked = attack(eps=8, norm='L2', objective=Along())(net, lq, direction)
    length = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    optimum = lq + 8 / 255 * (3 * 6 * 5) ** 0.5 * gradient / length
    # From a random start, the direction converges, but is not reached in a finite number of steps.
    torch.testing.assert_close(attacked, optimum, atol=1e-9 if attack in (FGSM, IFGSM, MIFGSM) else 2e-3, rtol=0)
    gain, best = ((gradient * (x - lq)).flatten(1).sum(1) for x in (attacked, optimum))
    assert (gain > 0.999 * best).all()


def test_band_limited_optimum_of_a_linear_network(linear):
    net, lq, direction, gradient = linear
    attack = BandLimited(eps=8, norm='L2', band=(0.2, 0.6), steps=20, objective=Along())
    within = Band(attack.constraint.ball, 0.2, 0.6).within(gradient)
    optimum = 8 / 255 * (3 * 6 * 5) ** 0.5 * within / within.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    delta = attack(net, lq, direction) - lq
    assert ((gradient * delta).flatten(1).sum(1) > 0.999 * (gradient * optimum).flatten(1).sum(1)).all()


def test_universal_optimum_of_a_linear_network(linear):
    net, lq, direction, gradient = linear
    attack = Universal(eps=8, size=6, objective=Along()).fit(net, [lq[:1], lq[1:]], [direction[:1], direction[1:]])
    shared = gradient.sum(0, keepdim=True).sign()
    torch.testing.assert_close(attack.perturbation[..., :5].to(shared), shared, atol=1e-9, rtol=0)
    new = torch.full((1, 3, 14, 5), 0.5, dtype=torch.float64)  # another size: tiled
    tiled = torch.cat([attack.perturbation] * 3, dim=2)[..., :14, :5]
    torch.testing.assert_close(attack(Affine(torch.ones(1)), new), new + 8 / 255 * tiled.to(new), atol=1e-9, rtol=0)


def test_universal_ignores_flat_images():
    class OnlyBright(torch.nn.Module):
        def forward(self, x):
            return 1e-4 * x * (x.mean(dim=(1, 2, 3), keepdim=True) > 0.4).detach()

    lq = torch.stack([torch.full((3, 8, 8), 0.1), torch.full((3, 8, 8), 0.5)])
    attack = Universal(eps=4, size=8, objective=Along()).fit(OnlyBright(), [lq], [torch.ones_like(lq)])
    assert torch.equal(attack.perturbation, torch.ones(1, 3, 8, 8))
    with pytest.raises(ValueError, match='the perturbation has 3 channels, the images 1'):
        attack(OnlyBright(), lq[:, :1])
    assert Universal(perturbation=attack.perturbation).size == 8 and len(repr(attack)) < 200


def test_square_comes_near_the_optimum_of_a_linear_network(linear):
    net, lq, direction, gradient = linear
    delta = Square(eps=8, queries=1500, objective=Along())(net, lq, direction) - lq
    assert ((gradient * delta).flatten(1).sum(1) > 0.8 * 8 / 255 * gradient.abs().flatten(1).sum(1)).all()


def test_momentum_against_reference():
    weight, target = torch.randn(1, 3, 4, 4).double(), torch.rand(1, 3, 4, 4).double() - 5
    net, lq = Affine(weight), 0.3 + 0.4 * torch.rand(1, 3, 4, 4).double()
    x, velocity = lq.clone(), torch.zeros_like(lq)
    for _ in range(4):
        gradient = 2 * weight * (weight * x - target)
        velocity = 0.5 * velocity + gradient / gradient.abs().sum()
        x = x + 8 / 255 / 4 * velocity.sign()
    attacked = MIFGSM(eps=8, steps=4, decay=0.5, objective='ground_truth')(net, lq, target)
    torch.testing.assert_close(attacked, x)


@pytest.mark.parametrize(
    'arguments, levels',
    [
        (dict(step_size=4, schedule='linear'), 4 + 3 + 2 + 1),
        (dict(step_size=4), 4 * 4),  # a given step stays
        (dict(step_size=4, schedule='constant'), 4 * 4),
        ({}, 2 * 20 * (4 + 3 + 2 + 1) / 4),
        (dict(schedule='constant'), 2.5 * 20),
    ],
    ids=str,
)
def test_sum_of_scheduled_steps_against_reference(arguments, levels):
    class Unbounded(PGD):
        def run(self, problem):
            problem.project = lambda x: x
            return super().run(problem)

    lq = torch.full((1, 3, 4, 4), 0.5, dtype=torch.float64)
    attack = Unbounded(eps=20, steps=4, random_start=0, objective=Along(), **arguments)
    attacked = attack(Affine(torch.ones(1, 3, 1, 1)), lq, torch.ones_like(lq))
    torch.testing.assert_close(attacked, lq + levels / 255)


def test_a_falling_step_reaches_a_narrow_optimum():
    net, lq = Affine(torch.ones(1, 3, 4, 4)), torch.full((1, 3, 4, 4), 0.5)
    falling, constant = (
        ((PGD(eps=8, steps=20, step_size=16, schedule=schedule, objective=Valley())(net, lq, lq) - lq) * 255 - 3)
        .abs()
        .max()
        for schedule in ('linear', 'constant')
    )
    assert falling <= 16 / 20 and constant > 1  # the last step is 1 / 20 of the first


@pytest.mark.parametrize('attack, gain', [(PGD, 1.2), (APGD, 1.05)])
def test_a_falling_step_is_stronger_on_real_weights(attack, gain, real_network, photo):
    parts = torch.cat([part for row in photo.split(32, dim=2) for part in row.split(32, dim=3)])
    with torch.no_grad():
        clean = real_network(parts)
        loss = {}
        for schedule in ('linear', 'constant', None):
            attacked = attack(eps=8, steps=20, schedule=schedule)(
                real_network, parts, generator=torch.Generator().manual_seed(0)
            )
            loss[schedule] = (real_network(attacked) - clean).square().mean()
    assert loss[None] > gain * loss['constant'] and loss[None] == loss['linear']


def test_apgd_reviews_its_step_as_in_the_paper():
    # p = 0, 0.22, then gaps of 0.19, 0.16, 0.13, 0.10, 0.07, 0.06, 0.06: Croce and Hein 2020, section 3.1.
    assert sorted(APGD.reviews(100)) == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize('schedule', ['constant', 'linear'])
def test_apgd_halves_its_step(schedule):
    net, lq = Affine(torch.ones(1, 3, 4, 4)), torch.full((1, 3, 4, 4), 0.5)
    error = {
        attack: ((attack(net, lq, lq) - lq) * 255 - 3).abs().mean()
        for attack in (
            APGD(eps=8, steps=60, schedule=schedule, objective=Valley()),
            PGD(eps=8, steps=60, step_size=16, objective=Valley()),
        )
    }
    apgd, pgd = error.values()
    assert apgd < 0.3 and pgd > 1


@pytest.fixture(scope='module')
def strong_network(shared, real_network):
    """realesr-general-x4v3 if its file is available, else realesr-animevideov3."""
    path = shared / 'weights' / 'realesr-general-x4v3.pth'
    return general(path) if path.is_file() else real_network


def general(path):
    return load_network({**WEIGHTS['realesr-general-x4v3'].network, 'weights': path})


def test_order_of_the_attacks_on_real_weights(strong_network, photo):
    photos = torch.cat([part[..., 4:28, 4:28] for row in photo.split(32, dim=2) for part in row.split(32, dim=3)])
    eps = torch.tensor([1.0, 2.0, 4.0, 8.0]).repeat_interleave(len(photos))
    batch = photos.repeat(4, 1, 1, 1)
    loss = {}
    with torch.no_grad():
        clean = strong_network(batch)
        for attack in (RandomNoise(), FGSM(), IFGSM(steps=10), PGD(steps=20), APGD(steps=40)):
            generator = torch.Generator().manual_seed(2)  # the same start for all of them
            output = strong_network(attack(strong_network, batch, eps=eps, generator=generator))
            loss[repr(attack)] = (output - clean).square().flatten(1).sum(1).view(4, -1).mean(1)
    for attack, by_eps in loss.items():
        assert (by_eps.diff() > 0).all(), (attack, by_eps)
    for weaker, stronger in zip(loss, list(loss)[1:]):
        assert (loss[stronger] >= loss[weaker]).all(), (weaker, loss[weaker], stronger, loss[stronger])


def test_eps_255_destroys_the_image(real_network, photo):
    attacked = PGD(eps=255, steps=10)(real_network, photo)
    with torch.no_grad():
        mse = (real_network(attacked).clamp(0, 1) - real_network(photo).clamp(0, 1)).square().mean()
    assert -10 * torch.log10(mse) < 8  # dB; two unrelated photos are about as far apart


def test_transfer_is_the_attack_on_the_source(real_network, photo):
    source = Affine(torch.randn(1, 3, 1, 1))
    source.train()
    attack = Transfer(source=source, attack=PGD(eps=4, steps=2, seed=1))
    assert torch.equal(attack(real_network, photo), PGD(eps=4, steps=2, seed=1)(source, photo))
    assert source.training


def test_worst_of_takes_the_worst_per_image(linear):
    net, lq, direction, gradient = linear
    up = FGSM(eps=4, objective=Along())

    class OnlyTheFirst(FGSM):
        def run(self, problem):
            loss, attacked = super().run(problem)
            return loss, torch.cat([attacked[:1], problem.lq[1:]])

    attack = worst_of([OnlyTheFirst(eps=6, objective=Along()), up])
    attacked, loss, which = attack.results(net, lq, direction)
    assert which.tolist() == [0, 1] and attack.eps == 6
    torch.testing.assert_close(attacked[0], lq[0] + 6 / 255 * gradient[0].sign(), atol=1e-9, rtol=0)
    torch.testing.assert_close(attacked[1], lq[1] + 4 / 255 * gradient[1].sign(), atol=1e-9, rtol=0)
    torch.testing.assert_close(loss, Along()(net(attacked), direction).detach())


# Stability and PSNR to HR in dB that another implementation measured, by eps.
PUBLISHED = {1: (36.2, 21.7), 2: (30.7, 21.4), 4: (25.4, 20.4), 8: (20.3, 18.2)}


@pytest.fixture(scope='module')
def protocol(shared):
    """realesr-general-x4v3, and eight photos of BSD100: centre 256x256, reduced by 4, rounded to 8 bit."""
    weights = shared / 'weights' / 'realesr-general-x4v3.pth'
    photos = sorted((shared / 'data' / 'bsd100').glob('*'))[:8]
    if not weights.is_file() or len(photos) < 8:
        pytest.skip('needs realesr-general-x4v3.pth and BSD100 in ../shared')
    hr = []
    for photo in photos:
        rgb = cv2.cvtColor(cv2.imread(str(photo)), cv2.COLOR_BGR2RGB)
        top, left = (rgb.shape[0] - 256) // 2, (rgb.shape[1] - 256) // 2
        hr.append(torch.from_numpy(rgb[top : top + 256, left : left + 256].copy()).permute(2, 0, 1).float() / 255)
    hr = torch.stack(hr)
    lq = F.interpolate(hr, scale_factor=0.25, mode='bicubic', antialias=True).clamp(0, 1)
    return general(weights), (lq * 255).round() / 255, hr


@pytest.mark.parametrize('eps', PUBLISHED)
def test_figures_of_another_implementation(eps, protocol):
    net, lq, hr = protocol
    attack = IFGSM(eps=eps, steps=10, step_size=1.5 * eps / 10, objective='stability', quantize='nearest')
    with torch.no_grad():
        clean, output = (net(x).clamp(0, 1) for x in (lq, attack(net, lq)))
    stability, fidelity = PUBLISHED[eps]
    assert psnr(clean, hr) == pytest.approx(21.92, abs=0.01)
    assert psnr(output, clean) == pytest.approx(stability, abs=0.5)
    assert psnr(output, hr) == pytest.approx(fidelity, abs=0.5)


def psnr(x, y):
    return (-10 * (x - y).square().flatten(1).mean(1).log10()).mean().item()
