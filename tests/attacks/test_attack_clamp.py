"""``clamp: end``: inside the loop only the ball counts, as in the published evaluation."""

import pytest
import torch

from networks import Dense
from rsr_basicsr.attacks import ATTACKS, IFGSM, PGD, BandLimited, DetectorAware, build_attack
from rsr_basicsr.options.attack_blocks import ValAttackOptions
from rsr_basicsr.options.parsing import parse_block
from rsr_basicsr.utils.errors import OptionsError


@pytest.fixture
def near_white():
    """A dense network, 8-bit images near black and white, and the target that outputs should leave."""
    torch.manual_seed(0)
    net, levels = Dense(), torch.randint(0, 6, (2, 3, 6, 5), dtype=torch.float64)
    lq = torch.where(torch.rand_like(levels) < 0.5, levels, 255 - levels) / 255
    return net, lq, net(lq).detach() + 0.3 * torch.randn(2, 3, 12, 10, dtype=torch.float64)


def by_hand(net, lq, target, step, steps, inside):
    """I-FGSM on the squared error to the target, without the final clamp to [0, 1], and all intermediate images."""
    matrix, x, met, eps = net.matrix.detach(), lq, [], 8 / 255
    for _ in range(steps):
        met.append(x)
        residual = x.flatten(1) @ matrix.T - target.flatten(1)
        x = x + step * (residual @ matrix).sign().view_as(x)
        x = torch.minimum(torch.maximum(x, lq - eps), lq + eps)
        x = x.clamp(0, 1) if inside else x
    return x, met


# A step of 1.3 levels keeps values away from the levels, where rounding errors change the result of floor.
@pytest.mark.parametrize('quantize, step, steps', [('none', 0.8, 10), ('nearest', 0.8, 10), ('floor', 1.3, 5)])
def test_the_loop_written_out(near_white, quantize, step, steps):
    net, lq, target = near_white
    seen = []
    handle = net.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    options = dict(eps=8, steps=steps, step_size=step, objective='ground_truth', quantize=quantize)
    found = IFGSM(clamp='end', **options)(net, lq, target)
    handle.remove()
    expected, met = by_hand(net, lq, target, step / 255, steps, inside=False)
    assert expected.min() < -3 / 255 and expected.max() > 1 + 3 / 255
    for one, other in zip(seen[-steps:], met):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert seen[-1].max() > 1 and seen[-1].min() < 0
    inside, _ = by_hand(net, lq, target, step / 255, steps, inside=True)
    assert not torch.allclose(inside, expected.clamp(0, 1), atol=1 / 255)  # the two paths differ
    for one, other in ((found, expected.clamp(0, 1)), (IFGSM(**options)(net, lq, target), inside)):
        level = other * 255
        told = (level - level.round()).abs() > 1e-6 if quantize == 'floor' else torch.ones_like(level).bool()
        level = {'none': level, 'floor': level.floor(), 'nearest': level.round()}[quantize]
        torch.testing.assert_close(255 * one[told], level[told], rtol=0, atol=1e-9)
        assert told.float().mean() > 0.3


@pytest.mark.parametrize('name', [name for name in ATTACKS if name not in ('Transfer', 'WorstOf', 'DetectorAware')])
def test_every_attack_ends_inside(near_white, name):
    net, lq, target = near_white
    quick = {'steps': 3} if 'steps' in ATTACKS[name].parameters() else {}
    quick.update({'queries': 5} if 'queries' in ATTACKS[name].parameters() else {})
    found = build_attack({'type': name, 'eps': 8, 'objective': 'ground_truth', 'clamp': 'end', **quick})(
        net, lq, target
    )
    assert found.min() >= 0 and found.max() <= 1 and (found - lq).abs().max() <= 8 / 255 + 1e-9
    assert not torch.equal(found, lq)


def test_losses_are_measured_before_the_clamp(near_white):
    net, lq, target = near_white
    seen = []
    handle = net.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    IFGSM(eps=8, steps=10, objective='ground_truth', clamp='end', keep_best=True)(net, lq, target)
    handle.remove()
    # The last image is measured as the loop left it.
    torch.testing.assert_close(seen[-1], by_hand(net, lq, target, 0.8 / 255, 10, inside=False)[0], rtol=0, atol=1e-12)
    assert seen[-1].max() > 1 and seen[-1].min() < 0


def test_a_band_is_kept_inside(near_white):
    net, _, target = near_white
    lq = torch.full((2, 3, 6, 5), 0.99, dtype=torch.float64)
    attack = BandLimited(eps=8, steps=3, band=(0.0, 0.5), clamp='end', objective='ground_truth')
    found = attack(net, lq, target)
    assert found.max() <= 1 and not torch.equal(found, lq)
    assert (attack.constraint.outside(found - lq) < 1e-3).all()


def test_the_detector_sees_the_final_image(near_white):
    net, lq, target = near_white
    seen = []

    def detector(x):
        seen.append((x.requires_grad, x.detach()))
        return x.sum(dim=(1, 2, 3)) * 0 - 1

    DetectorAware(eps=8, steps=2, weights=[0.0], clamp='end', objective='ground_truth', detector=detector)(
        net, lq, target
    )
    judged = [x for with_gradient, x in seen if not with_gradient]
    assert len(judged) == 3 and all(x.min() >= 0 and x.max() <= 1 for x in judged)


def test_exception():
    for value in ('no', 1, None):
        with pytest.raises(ValueError, match=f'expected clamp to be true, false or end, got {value!r}'):
            PGD(clamp=value)
    assert parse_block({'type': 'PGD', 'eps': 8, 'clamp': 'end'}, ValAttackOptions, 'val.attack')['clamp'] == 'end'
    with pytest.raises(OptionsError, match="val.attack.clamp: .*or end, got 'late'"):
        parse_block({'type': 'PGD', 'eps': 8, 'clamp': 'late'}, ValAttackOptions, 'val.attack')
    assert PGD(clamp='end').but(eps=2).clamp == 'end'
