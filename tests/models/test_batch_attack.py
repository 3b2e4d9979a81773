"""attack_batch: the attack of a training step for loops of others, against the trainer's own and a closed form."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rsr_basicsr import attack_batch
from rsr_basicsr.utils.errors import OptionsError

PGD = {'type': 'PGD', 'eps': 4, 'steps': 2}


class Times(nn.Module):
    """Multiplies an image by a number, and upscales it by 2."""

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(float(factor)))

    def forward(self, x):
        return F.interpolate(self.factor * x, scale_factor=2)


def batch(size=4, height=16, width=12):
    lq = torch.rand(size, 3, height, width).mul(200).add(20).round() / 255
    return lq, F.interpolate(lq, scale_factor=2)


@pytest.mark.parametrize('mode', ['paired', 'mixed'])
@pytest.mark.parametrize('target', ['ground_truth', 'clean_output'])
def test_is_the_attack_of_the_trainer(model, mode, target):
    model.schedule.mode, model.schedule.attacked_target, model.schedule.share = mode, target, 0.5
    model.schedule.masked, model.schedule.warmup = 0, 0
    options = {**model.opt['attack'], 'mode': mode, 'attacked_target': target, 'share': 0.5, 'warmup': 0}
    model.net_g.defense.gate = 'never'
    lq, gt = model.lq.clone(), model.gt.clone()
    torch.manual_seed(0)
    found = attack_batch(model.net_g, lq, gt, options)
    torch.manual_seed(0)
    labels, _ = next(model.attacked_batches(1))
    torch.testing.assert_close(found.lq, model.lq)
    torch.testing.assert_close(found.gt, model.gt)
    assert torch.equal(found.attacked, labels) and found.attacked.sum() == (4 if mode == 'paired' else 2)


def test_closed_form():
    # The error of a network that darkens grows with every level that is taken away, so the attack takes all eps.
    lq, gt = batch()
    found = attack_batch(Times(0.5), lq, gt, PGD)
    assert torch.equal(found.lq[:4], lq) and torch.equal(found.gt, torch.cat([gt, gt]))
    torch.testing.assert_close(found.lq[4:], lq - 4 / 255, atol=1e-6, rtol=0)


def test_parameters_and_gradients_stay():
    net, (lq, gt) = Times(0.5), batch()
    net(lq).sum().backward()
    before = net.factor.grad.clone()
    found = attack_batch(nn.DataParallel(net), lq, gt, PGD)
    assert torch.equal(net.factor.grad, before) and net.factor.requires_grad and not found.lq.requires_grad


def test_every_and_warmup():
    net, (lq, gt) = Times(0.5), batch()
    options = {**PGD, 'every': 2, 'warmup': 4, 'quantize': 'none'}
    assert attack_batch(net, lq, gt, options, iteration=1).lq is lq
    for iteration, eps in ((2, 2), (4, 4), (None, 4)):
        found = attack_batch(net, lq, gt, options, iteration)
        torch.testing.assert_close((found.lq[4:] - lq).abs().amax() * 255, torch.tensor(float(eps)), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    'change, message',
    [
        ({'mode': 'alternating'}, 'attack.mode: alternating needs a trainer of BasicSR'),
        ({'objective': 'training_loss'}, 'attack.objective: training_loss needs a trainer of BasicSR'),
        ({'warm_start': True}, 'attack.warm_start: true needs a trainer of BasicSR'),
        ({'ep': 3}, "attack: unknown key 'ep'"),
        ({'eps': -1}, 'attack.eps'),
    ],
)
def test_wrong_blocks(change, message):
    with pytest.raises(OptionsError, match=message):
        attack_batch(Times(0.5), *batch(), {**PGD, **change})


def test_plain_loop_of_the_documentation_trains():
    net, optimizer = Times(0.2), None
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    torch.manual_seed(0)
    for iteration in range(30):
        lq, gt, _ = attack_batch(net, *batch(), {**PGD, 'eps': [1, 8], 'warmup': 10}, iteration)
        loss = F.mse_loss(net(lq), gt)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert net.factor.item() == pytest.approx(1, abs=0.05)
