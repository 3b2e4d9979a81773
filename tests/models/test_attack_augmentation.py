"""Attacks in the training step: which images they replace, when, from where, and against which target."""

import pytest
import torch
from basicsr.archs import build_network
from basicsr.models.sr_model import SRModel
from torch.nn import functional as F

from helpers import SMALL_NETWORKS, paired_options
from rsr_basicsr.models import DefendedSRModel
from rsr_basicsr.models.attacked_batches import Attacked, AttackedBatches


def test_paired_appends_the_attacked_images(model):
    model.schedule.mode = 'paired'
    lq, gt = model.lq.clone(), model.gt.clone()
    labels, decision = next(model.attacked_batches(1))
    assert labels.tolist() == decision.tolist() == [False] * 4 + [True] * 4
    assert torch.equal(model.lq[:4], lq) and torch.equal(model.gt, torch.cat([gt, gt]))
    change = (model.lq[4:] - lq).abs().flatten(1).amax(1) * 255
    assert (change > 0.5).all() and (change <= 8 + 1e-3).all()
    torch.testing.assert_close(model.lq * 255, (model.lq * 255).round(), atol=1e-4, rtol=0)


def test_mixed_replaces_a_share(model):
    model.schedule.mode, model.schedule.share = 'mixed', 0.5
    lq = model.lq.clone()
    ((labels, decision),) = model.attacked_batches(1)
    assert model.lq.shape == lq.shape and labels.sum() == 2 and torch.equal(decision, labels)
    assert [not torch.equal(a, b) for a, b in zip(lq, model.lq)] == labels.tolist()


def test_mixed_keeps_its_share_in_small_batches(model):
    model.schedule.mode, model.schedule.share = 'mixed', 0.5
    lq, gt = model.lq[:1], model.gt[:1]
    seen = []
    for _ in range(40):
        model.lq, model.gt = lq, gt
        ((labels, _),) = model.attacked_batches(1)
        seen += labels.tolist()
    assert 8 <= sum(seen) <= 32


def test_alternating_attacks_after_the_clean_step(model, monkeypatch):
    model.schedule.mode = 'alternating'
    lq, weights = model.lq.clone(), model.net_g.body[0].weight.detach().clone()
    seen = []

    def step(self, current_iter):
        seen.append((self.lq.clone(), self.net_g.defense.decide(self.lq)))
        return SRModel_step(self, current_iter)

    SRModel_step = SRModel.optimize_parameters
    monkeypatch.setattr(SRModel, 'optimize_parameters', step)
    attack = model.attack_images
    monkeypatch.setattr(
        model,
        'attack_images',
        lambda *args: [seen.append(not torch.equal(weights, model.net_g.body[0].weight)), attack(*args)][1],
    )
    model.optimize_parameters(1)
    (clean, first), moved, (attacked, second) = seen
    assert torch.equal(clean, lq) and not torch.equal(attacked, lq) and moved
    assert first is False and second is True
    log = model.get_current_log()
    assert {'l_pix', 'l_clean', 'l_attacked', 'l_classifier', 't_attack'} <= set(log)
    assert 0 < log['l_clean'] < 1 and 0 < log['l_attacked'] < 1 and log['attacked_share'] == 0.5


@pytest.mark.parametrize('mode', ['paired', 'mixed', 'alternating'])
def test_the_host_never_waits_for_the_device(model, mode, monkeypatch):
    # Tensors of the device meta have no values: anything that the host would wait for is an error.
    model.schedule.mode = mode
    for name in ('net_g', 'net_g_ema'):
        setattr(model, name, getattr(model, name).to('meta'))
    model.optimizers.clear()
    for name in ('optim_g', 'optim_classifier'):
        model.opt['train'][name]['type'] = 'Adam'  # which BasicSR takes out when it reads it
    model.setup_optimizers()
    model.lq, model.gt = model.lq.to('meta'), model.gt.to('meta')
    # BasicSR's step reads its losses once, at its end.
    monkeypatch.setattr(model, 'reduce_loss_dict', lambda losses: losses)
    model.optimize_parameters(1)
    assert 'l_pix' in model.log_dict
    with pytest.raises((RuntimeError, NotImplementedError), match='meta'):
        model.get_current_log()


@pytest.mark.parametrize('mode', ['paired', 'mixed', 'alternating'])
def test_precision_of_the_step(model, mode):
    model.schedule.mode, model.schedule.eps, batch = mode, 4, (model.lq, model.gt)
    types, gradients = set(), []
    model.net_g.body[0].register_forward_hook(lambda module, args, output: types.add(output.dtype))
    state = {key: value.clone() for key, value in model.net_g.state_dict().items()}
    for precision in ('fp32', 'bf16'):
        types.clear()
        model.net_g.load_state_dict(state)
        model.lq, model.gt = batch
        model.opt['train']['precision'] = precision
        vars(model).pop('options')
        torch.manual_seed(0)
        model.attack_images = lambda lq, *args: Attacked(lq + 4 / 255 * torch.randn_like(lq).sign(), False, None)
        model.optimize_parameters(1)
        assert types == {torch.bfloat16 if precision == 'bf16' else torch.float32}
        assert model.output.dtype == torch.float32 and 'forward' not in vars(model.net_g)
        gradients.append(torch.cat([weight.grad.flatten() for weight in model.net_g.body.parameters()]))
    assert gradients[1].dtype == torch.float32
    assert 0.98 < F.cosine_similarity(*gradients, dim=0) < 1


@pytest.mark.parametrize('own, expected', [({}, 'bf16'), ({'precision': 'fp32'}, 'fp32')])
def test_attack_takes_the_precision_of_the_step(model, own, expected):
    model.opt['train']['precision'] = 'bf16'
    model.opt['attack'].pop('precision')
    model.opt['attack'].update(own)
    vars(model).pop('options')
    model.prepare_attack()
    assert model.attack.precision == expected


def test_warmup_and_every(model):
    model.schedule.warmup, model.schedule.every, model.schedule.eps = 4, 2, 8
    model.attack.quantize, batch = 'none', (model.lq, model.gt)
    for iteration, eps in ((1, None), (2, 4), (3, None), (4, 8), (6, 8)):
        model.lq, model.gt = batch
        model.optimize_parameters(iteration)
        log = model.get_current_log()
        assert log.get('attack_eps') == eps and ('l_attacked' in log) == ('l_classifier' in log) == (eps is not None)
        if eps:
            change = (
                (model.lq[batch[0].shape[0] :] - batch[0]).abs().amax() * 255
                if model.schedule.mode == 'paired'
                else (model.lq - batch[0]).abs().amax() * 255
            )
            assert eps * 0.99 < change < eps * 1.01


def test_share_of_the_attacked_images_is_masked(model):
    model.schedule.mode, model.schedule.masked = 'paired', 0.5
    seen = []
    decide = model.net_g.defense.decide
    model.net_g.defense.decide = lambda x: [seen.append(decide(x)), seen[-1]][1]
    labels, decision = next(model.attacked_batches(1))
    assert labels.sum() == 4 and decision.sum() == 2 and not (decision & ~labels).any()
    # The attack used the gate decision that the training step uses.
    assert seen and all(torch.equal(each, decision[4:]) for each in seen)
    model.schedule.masked = 0
    model.lq, model.gt = model.lq[:4], model.gt[:4]
    labels, decision = next(model.attacked_batches(1))
    assert labels.sum() == 4 and decision is False  # so no mask is computed in vain


def test_warm_start(model, monkeypatch):
    model.schedule.mode, model.schedule.warm_start, batch = 'paired', True, (model.lq, model.gt)
    starts = []
    perturb = model.attack.perturb
    monkeypatch.setattr(
        model.attack,
        'perturb',
        lambda *args, start, **more: [starts.append(start), perturb(*args, start=start, **more)][1],
    )
    next(model.attacked_batches(1))
    first = model.lq[4:] - batch[0]
    assert starts == [None] and torch.equal(model.perturbation, first)
    model.lq, model.gt = (torch.cat([part, part[:2]]) for part in batch)  # a batch of another size
    next(model.attacked_batches(2))
    assert torch.equal(starts[1], torch.cat([first, first[:2]]))
    model.lq, model.gt = batch[0][..., :12, :12], batch[1][..., :48, :48]
    next(model.attacked_batches(3))
    assert starts[2] is None


def test_attack_raises_the_loss_and_keeps_gradients(model):
    model.schedule.mode = 'paired'
    ((labels, _),) = model.attacked_batches(1)
    assert all(p.grad is None for p in model.net_g.parameters())
    with torch.no_grad(), model.net_g.defense.forced(False):
        error = (model.net_g(model.lq) - model.gt).abs().flatten(1).mean(1)
    assert (error[labels] > error[~labels]).all()


def test_pretrained_output_as_the_target(pairs, photos, tmp_path):
    opt = paired_options(pairs, photos=photos)
    opt.update(is_train=True, dist=False, rank=0, world_size=1)
    plain = build_network({'type': 'SRVGGNetCompact', **SMALL_NETWORKS['SRVGGNetCompact']})
    torch.save({'params': plain.state_dict()}, tmp_path / 'w.pth')
    opt['path'].update(pretrain_network_g=str(tmp_path / 'w.pth'))
    opt['train'].update(target='pretrained', start=dict(weights=str(tmp_path / 'w.pth'), key='params', strict=True))
    opt['attack']['mode'] = 'paired'
    model = DefendedSRModel(opt)
    lq = torch.rand(2, 3, 16, 16)
    for iteration in (1, 2):  # the target stays where it was when the network has moved on
        model.feed_data({'lq': lq, 'gt': torch.rand(2, 3, 64, 64)})
        model.optimize_parameters(iteration)
        with torch.no_grad():
            torch.testing.assert_close(model.gt, plain(lq).clamp(0, 1).repeat(2, 1, 1, 1))
    assert not torch.equal(model.net_g.body[0].weight, plain.body[0].weight)
    assert not any(parameter.requires_grad for parameter in model.start_net.parameters())


@pytest.mark.parametrize('trained', [False, True])
def test_frozen_classifier_runs_only_in_steps_that_print(trained, model):
    model.opt['logger'] = {'print_freq': 3}
    if not trained:
        model.optimizer_classifier = None
    seen = []
    model.classifier.register_forward_hook(lambda *args: seen.append(iteration))
    batch = model.lq, model.gt
    for iteration in range(1, 7):
        model.lq, model.gt = batch
        model.optimize_parameters(iteration)
        assert ('l_classifier' in model.get_current_log()) == (trained or iteration % 3 == 0)
    assert set(seen) == ({1, 2, 3, 4, 5, 6} if trained else {3, 6})


def test_moving_average_is_that_of_basicsr(model):
    model.net_g_ema = build_network(dict(model.opt['network_g']))
    expected = {name: value.detach().clone() for name, value in model.net_g_ema.named_parameters()}
    current = dict(model.net_g.named_parameters())
    model.model_ema(0.9)
    for name, value in model.net_g_ema.named_parameters():
        torch.testing.assert_close(value, 0.9 * expected[name] + 0.1 * current[name], rtol=1e-6, atol=1e-7)
    model.model_ema(0)  # BasicSR's way to copy
    assert all(torch.equal(value, current[name]) for name, value in model.net_g_ema.named_parameters())


def test_cudnn_tries_no_algorithms_in_a_validation(model, monkeypatch):
    seen = []
    noted = lambda *args: seen.append(torch.backends.cudnn.benchmark)  # noqa: E731
    monkeypatch.setattr(AttackedBatches, 'validation', noted, raising=False)
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', True)
    try:
        model.validation(None, 1, None)
    finally:
        after, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    assert seen == [False] and after
