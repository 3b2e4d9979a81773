"""Perturbations restricted to a region of the image or to a mean of zero: closed forms, and every attack in them."""

import pytest
import torch
from torch import nn

from networks import Affine, Along, Dense
from rsr_basicsr.attacks import (
    APGD,
    ATTACKS,
    FGSM,
    IFGSM,
    PGD,
    BandLimited,
    RandomNoise,
    Square,
    Transfer,
    Universal,
    build_attack,
    worst_of,
)
from rsr_basicsr.attacks.constraints import L2, Linf
from rsr_basicsr.attacks.restrictions import Region, ZeroMean
from rsr_basicsr.options.attack_blocks import AttackOptions
from rsr_basicsr.options.parsing import parse_block

REGION = [0.25, 0.5, 0.5, 0.25]
SMALL = dict(steps=4, queries=30, size=8)
ALL = [name for name in ATTACKS if name not in ('Transfer', 'WorstOf', 'BandLimited', 'DetectorAware')]
#: Each attack with the norms that it knows
NORMS = [(name, norm) for name in ALL for norm in ('Linf', 'L2') if norm in ATTACKS[name].norms]


def made(name, **settings):
    parameters = ATTACKS[name].parameters()
    return ATTACKS[name](**{key: value for key, value in SMALL.items() if key in parameters}, **settings)


def change(attacked, lq):
    return (attacked.double() - lq.double()) * 255


@pytest.fixture(scope='module')
def images(photo):
    """Two crops of 16x16, one of them with black and white parts, which can change one way only."""
    images = torch.cat([photo[..., :16, :16], photo[..., 20:36, 30:46]])
    images[0, :, :6, :6], images[0, :, 10:, 10:] = 0, 1
    return images


@pytest.mark.parametrize('quantize', ['none', 'nearest', 'floor'])
@pytest.mark.parametrize('name, norm', NORMS)
def test_nothing_changes_outside_the_region(name, quantize, norm, images):
    lq = images + 0.3 / 255 * (images < 0.5)  # between two levels: rounding must not touch the outside either
    attacked = made(name, eps=4, norm=norm, quantize=quantize, region=REGION)(nn.Upsample(scale_factor=2), lq)
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[4:12, 8:12] = True
    assert torch.equal(attacked[..., ~inside], lq[..., ~inside])
    assert (change(attacked, lq)[..., inside].abs().amax(dim=(1, 2)) > 0.9).all()
    size = change(attacked, lq).abs().max() if norm == 'Linf' else change(attacked, lq).square().mean((1, 2, 3)).sqrt()
    assert (size <= 4 + 1e-3).all() and attacked.min() >= 0 and attacked.max() <= 1


@pytest.mark.parametrize('norm', ['Linf', 'L2'])
def test_optimum_of_a_linear_network_within_a_region(norm):
    torch.manual_seed(0)
    net, lq = Dense(), 0.3 + 0.4 * torch.rand(2, 3, 6, 5, dtype=torch.float64)
    direction = torch.randn(2, 3, 12, 10, dtype=torch.float64)
    mask = torch.rand(6, 5) < 0.4
    gradient = net.gradient(direction) * mask
    attacked = PGD(eps=8, steps=20, norm=norm, region=mask, objective=Along())(net, lq, direction)
    length = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    optimum = gradient.sign() if norm == 'Linf' else (3 * 6 * 5) ** 0.5 * gradient / length
    torch.testing.assert_close(attacked, lq + 8 / 255 * optimum, atol=2e-3, rtol=0)
    assert (gradient * (attacked - lq - 8 / 255 * 0.999 * optimum)).flatten(1).sum(1).min() > 0


def test_a_region_is_weaker_than_the_whole_image(real_network, photo):
    with torch.no_grad():
        clean = real_network(photo)
        loss = [
            (real_network(PGD(eps=8, steps=6, region=region)(real_network, photo)) - clean).square().sum()
            for region in (None, [0, 0, 1, 1], [0, 0, 1, 0.5], [0, 0, 0.5, 0.5], [0.2, 0.2, 0.1, 0.1])
        ]
    assert all(larger > smaller > 0 for larger, smaller in zip(loss[1:], loss[2:])) and loss[0] > loss[2]


def test_the_whole_image_is_a_region(images):
    attacks = [PGD(eps=4, steps=3, region=region, seed=0) for region in (None, [0, 0, 1, 1], torch.ones(16, 16))]
    first, *others = (attack(nn.Upsample(scale_factor=2), images) for attack in attacks)
    assert all(torch.equal(first, other) for other in others)


def test_square_spends_its_queries_within_the_region():
    seen = []

    class Watched(nn.Module):
        def forward(self, x):
            seen.append(x.clone())
            return x

    lq = torch.full((1, 3, 20, 20), 0.5)
    attack = Square(eps=8, queries=400, region=[0.5, 0.5, 0.25, 0.5], objective=Along(), seed=1)
    found = attack(Watched(), lq, -torch.ones_like(lq))
    moved = torch.stack(seen) != 0.5
    assert moved[..., 10:15, 10:].any(dim=0).all() and moved.sum() == moved[..., 10:15, 10:].sum()
    assert (found[..., 10:15, 10:] < 0.5).float().mean() > 0.85  # from half of them at the start


@pytest.mark.parametrize('over', ['channel', 'image'])
@pytest.mark.parametrize('name, norm', NORMS)
def test_mean_of_zero_inside_ball_and_range(name, norm, over, images):
    attack = made(name, eps=4, norm=norm, zero_mean=over)
    attacked = attack(nn.Upsample(scale_factor=2), images)
    delta = change(attacked, images)
    dims = (2, 3) if over == 'channel' else (1, 2, 3)
    assert (delta.mean(dims).abs() <= 255 * ZeroMean.tolerance).all()
    size = delta.abs().amax((1, 2, 3)) if norm == 'Linf' else delta.square().mean((1, 2, 3)).sqrt()
    assert (size > 1).all() and (size <= 4 + 1e-3).all() and attacked.min() >= 0 and attacked.max() <= 1


@pytest.mark.parametrize('over, region', [('channel', None), ('image', None), ('channel', REGION), ('image', REGION)])
@pytest.mark.parametrize('quantize', ['nearest', 'floor'])
@pytest.mark.parametrize('norm', ['Linf', 'L2'])
def test_mean_of_8_bit_images_is_exactly_zero(norm, quantize, over, region, images):
    lq = (images * 255).round() / 255
    attack = PGD(eps=3.5, steps=4, norm=norm, quantize=quantize, zero_mean=over, region=region)
    attacked = attack(nn.Upsample(scale_factor=2), lq)
    levels = change(attacked, lq)
    assert (levels - levels.round()).abs().max() < 1e-3
    assert (levels.round().sum((2, 3) if over == 'channel' else (1, 2, 3)) == 0).all()
    size = levels.abs().amax((1, 2, 3)) if norm == 'Linf' else levels.square().mean((1, 2, 3)).sqrt()
    assert (size <= 3.5 + 1e-3).all() and (size > 0.5).all()
    if region:
        assert levels[..., :4, :].abs().max() == 0


@pytest.mark.parametrize('norm', ['Linf', 'L2'])
def test_optimum_of_a_linear_network_with_a_mean_of_zero(norm):
    torch.manual_seed(0)
    net, lq = Dense(), 0.3 + 0.4 * torch.rand(2, 3, 6, 5, dtype=torch.float64)
    direction = torch.randn(2, 3, 12, 10, dtype=torch.float64)
    gradient = net.gradient(direction)
    # L-inf: the 15 of 30 values of a channel with the largest gradient go up by eps, the others down.
    ranks = gradient.flatten(2).argsort(-1).argsort(-1).view_as(gradient)
    centred = gradient - gradient.mean((2, 3), keepdim=True)
    best = (
        {
            'Linf': torch.where(ranks >= 15, 1.0, -1.0).double(),
            'L2': centred / centred.square().mean((1, 2, 3), keepdim=True).sqrt(),
        }[norm]
        * 8
        / 255
    )
    attacked = PGD(eps=8, steps=40, norm=norm, zero_mean='channel', objective=Along())(net, lq, direction)
    gain, bound = ((gradient * delta).flatten(1).sum(1) for delta in (attacked - lq, best))
    assert (gain <= bound * (1 + 1e-6)).all() and (gain > 0.999 * bound).all()


def test_a_shift_of_brightness_is_no_attack_of_mean_zero():
    class Brightness(nn.Module):
        def forward(self, x):
            return x.mean(dim=(1, 2, 3), keepdim=True).expand_as(x)

    lq = 0.3 + 0.4 * torch.rand(1, 3, 8, 8)
    free, bound = (PGD(eps=8, steps=5, zero_mean=over)(Brightness(), lq) for over in (None, 'image'))
    assert change(free, lq).mean().abs() > 7.9 and change(bound, lq).mean().abs() < 1e-3


def test_projection_to_a_mean_of_zero_is_the_nearest_point():
    lq, radius = torch.rand(2, 3, 5, 4, dtype=torch.float64), torch.full((2, 1, 1, 1), 8 / 255, dtype=torch.float64)
    constraint = ZeroMean(Linf(), 'channel')
    wanted = lq + 0.1 * torch.randn_like(lq)
    nearest = constraint.fit(wanted, lq, radius)
    for _ in range(50):  # the variational inequality of a projection onto a convex set
        inside = constraint.fit(lq + 0.1 * torch.randn_like(lq), lq, radius)
        assert ((wanted - nearest) * (inside - nearest)).flatten(1).sum(1).max() <= 1e-9


def test_restrictions_reach_the_attacks_inside(images):
    options = parse_block(
        {
            'type': 'WorstOf',
            'eps': 4,
            'region': REGION,
            'zero_mean': 'channel',
            'attacks': [{'type': 'PGD', 'steps': 2}, {'type': 'FGSM', 'region': [0, 0, 1, 1]}],
        },
        AttackOptions,
        'attack',
    )
    built = build_attack({key: options[key] for key in ('type', 'eps', 'region', 'zero_mean', 'attacks')})
    assert [attack.region for attack in built.attacks] == [REGION, [0, 0, 1, 1]]
    assert 'region=[0.25, 0.5, 0.5, 0.25]' in repr(built) and repr(built.but()) == repr(built)
    attacks = [
        PGD(eps=4, steps=2, region=REGION, zero_mean='image'),
        FGSM(eps=4, region=REGION, zero_mean='image'),
        Transfer(source=nn.Upsample(scale_factor=2), eps=4, steps=2, region=REGION, zero_mean='image'),
    ]
    attacked = worst_of(attacks)(nn.Upsample(scale_factor=2), images)
    assert torch.equal(attacked[..., :4, :], images[..., :4, :])
    assert change(attacked, images).mean((1, 2, 3)).abs().max() < 255 * ZeroMean.tolerance


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(region=[0, 0, 1]), r'expected region as \[top, left, height, width\], .* got \[0, 0, 1\]'),
        (dict(region=[0, 0, 1, 2]), 'expected region >= 0 and <= 1, got 2'),
        (dict(region=[0.5, 0, 0.6, 1]), r'top \+ height and left \+ width at most 1, got \[0.5, 0, 0.6, 1\]'),
        (dict(region=[0, 0, 0, 1]), 'height and width above 0'),
        (dict(region=torch.ones(2, 3, 4, 4)), r'the mask of region as \(H, W\) or \(1, 1, H, W\), got \(2, 3, 4, 4\)'),
        (dict(region=torch.zeros(4, 4)), 'the mask of region is zero everywhere'),
        (dict(zero_mean='pixel'), "zero_mean must be one of channel, image, got 'pixel'"),
    ],
    ids=str,
)
def test_wrong_restrictions_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PGD(**arguments)


def test_regions_that_do_not_fit_the_images_are_refused():
    for region, message in (
        ([0, 0, 0.01, 0.01], r'region: \[0, 0, 0.01, 0.01\] holds no pixel of a 8x8 image'),
        (torch.ones(4, 4), 'the mask is 4x4, the images are 8x8'),
    ):
        with pytest.raises(ValueError, match=message):
            PGD(steps=1, region=region)(nn.Identity(), torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match='BandLimited takes neither region nor zero_mean'):
        BandLimited(region=[0, 0, 1, 0.5])


def test_a_restriction_does_not_depend_on_the_batch(images):
    attack = IFGSM(eps=4, steps=2, zero_mean='channel', quantize='nearest', random_start=1)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    together = attack(nn.Upsample(scale_factor=2), images, generator=generators)
    alone = attack(nn.Upsample(scale_factor=2), images[1:], generator=[torch.Generator().manual_seed(1)])
    torch.testing.assert_close(together[1:], alone)


def test_l2_of_a_region_is_that_of_the_whole_image():
    delta = Region(L2(), [0, 0, 0.5, 0.5]).project(torch.ones(1, 3, 8, 8), torch.full((1, 1, 1, 1), 0.1))
    torch.testing.assert_close(delta[..., :4, :4], torch.full((1, 3, 4, 4), 0.2))  # a quarter of the pixels: twice
    assert delta[..., 4:, :].abs().max() == 0


def test_universal_perturbation_counts_only_what_is_inside():
    net, lq = Affine(torch.ones(1)), torch.full((1, 3, 16, 16), 0.5)
    up = torch.ones_like(lq)
    up[..., 8:, :] = -5  # outside the region, and more of it
    attack = Universal(eps=8, size=8, region=[0, 0, 0.5, 1], objective=Along()).fit(net, [lq], [up])
    assert torch.equal(attack.perturbation, torch.ones(1, 3, 8, 8))


def test_attacks_under_restrictions_are_better_than_noise(real_network, photo):
    crop = photo[..., :32, :32]
    with torch.no_grad():
        clean = real_network(crop)
        noise, pgd, apgd = (
            (real_network(attack(real_network, crop)) - clean).square().sum()
            for attack in (
                kind(eps=8, region=REGION, zero_mean='channel', seed=0, **steps)
                for kind, steps in ((RandomNoise, {}), (PGD, dict(steps=10)), (APGD, dict(steps=10)))
            )
        )
    assert pgd > 2 * noise and apgd > 2 * noise
