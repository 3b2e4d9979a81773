"""The published training of Yue et al. 2021 against its loop written out with plain autograd and torch's optimizer."""

import copy

import pytest
import torch
from basicsr.models import build_model
from torch.nn import functional as F

from helpers import PUBLISHED, paired_options, read, shrink
from rsr_basicsr.attacks import IFGSM, PGD, Square, Transfer, build_attack, worst_of
from rsr_basicsr.check import check_options
from rsr_basicsr.losses.component_loss import ComponentLoss
from rsr_basicsr.utils.errors import OptionsError

EPS = 8 / 255


def built(opt, lq, gt):
    """The model built from options, with masks that keep every coefficient and with a batch."""
    opt = copy.deepcopy(opt)
    opt['network_g']['defense'].update(mask={'keep_radius': [1, 1]}, gate='classifier')
    opt['train']['ema_decay'] = 0
    opt.update(is_train=True, dist=False, rank=0, world_size=1)
    opt['path'].update(models='', training_states='')
    model = build_model(opt)
    # The first steps of Adam depend on signs only, which rounding can flip.
    model.optimizer_g = torch.optim.SGD(model.optimizer_g.param_groups[0]['params'], 0.1)
    model.feed_data({'lq': lq, 'gt': gt})
    return model


def cases(pairs, photos):
    srvgg = paired_options(pairs, photos=photos)
    srvgg['attack'] = dict(PUBLISHED)
    cdc = shrink(read('train/train_cdc_realsr_x4_paper.yml'), photos)
    assert cdc['attack'] == PUBLISHED
    return {'SRVGGNetCompact': (srvgg, F.l1_loss), 'CDC': (cdc, ComponentLoss(luma='published'))}


@pytest.mark.parametrize('kind', ['SRVGGNetCompact', 'CDC'])
def test_batch_is_the_published_one_written_out(kind, pairs, photos):
    opt, loss = cases(pairs, photos)[kind]
    lq, gt = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 64, 64)
    model = built(opt, lq, gt)
    cls = model.bare_net.backbone_class
    net = cls(**{key: value for key, value in opt['network_g'].items() if key not in ('type', 'defense')})
    net.load_state_dict({key: value for key, value in model.bare_net.state_dict().items() if 'defense.' not in key})
    net.returns_components = True
    passes, updates = [], []
    model.bare_net.register_forward_hook(lambda module, args, output: passes.append(args[0].detach().clone()))
    model.optimizer_g.register_step_post_hook(lambda *_: updates.append(len(passes)))

    def gradients(x, wanted):
        return torch.autograd.grad(loss(net(x), gt), wanted)

    x, weights = lq.clone().requires_grad_(), list(net.parameters())
    *of_weights, first = gradients(x, [*weights, x])
    with torch.no_grad():
        for weight, gradient in zip(weights, of_weights):
            weight -= 0.1 * gradient
    x = (lq + EPS * first.sign()).requires_grad_()
    (second,) = gradients(x, [x])
    attacked = lq + (x.detach() - lq + 2 * EPS * second.sign()).clamp(-EPS, EPS)

    model.optimize_parameters(1)
    assert updates == [1, 3] and len(passes) == 3
    assert torch.equal(passes[0], lq) and torch.equal(passes[2], model.lq)
    torch.testing.assert_close((model.lq - lq).abs() * 255, torch.full_like(lq, 8.0), atol=1e-3, rtol=0)
    assert model.lq.min() < 0 and model.lq.max() > 1  # nothing is clamped
    # The sign of a gradient that is zero up to rounding is undefined.
    for ours, written_out in ((passes[1], x), (model.lq, attacked)):
        assert ((ours - written_out).abs() < 1e-5).float().mean() > 0.99
    x = model.lq
    of_weights = gradients(x, weights)
    for (name, ours), weight, gradient in zip(model.bare_net.named_parameters(), weights, of_weights):
        torch.testing.assert_close(ours, weight - 0.1 * gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_the_training_loss_of_a_gan_is_the_sum_of_its_losses(pairs, photos):
    opt = paired_options(pairs, 'DefendedSRGANModel', photos=photos)
    opt['attack'] = dict(PUBLISHED)
    opt['network_d'] = {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 4}
    opt['train'].update(
        optim_d={'type': 'Adam', 'lr': 1e-4},
        net_d_iters=3,
        net_d_init_iters=5,
        gan_opt={'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.1},
    )
    lq, gt = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 64, 64)
    model = built(opt, lq, gt)
    critic, before = (
        copy.deepcopy(model.net_d),
        copy.deepcopy({net: getattr(model, net).state_dict() for net in ('net_g', 'net_d')}),
    )
    trained = [p.requires_grad for net in before for p in getattr(model, net).parameters()]
    optimizers = [copy.deepcopy(optimizer.state_dict()) for optimizer in model.optimizers]
    x = (lq + 0.01).requires_grad_()
    with model.bare_net.defense.forced(True):
        output = model.bare_net(x)
    assert opt['train']['pixel_opt']['type'] == 'L1Loss'
    loss = opt['train']['pixel_opt']['loss_weight'] * F.l1_loss(output, gt) + 0.1 * F.softplus(-critic(output)).mean()
    (expected,) = torch.autograd.grad(loss, x)

    with model._forced(True):
        found = model._gradient_of_training_loss(x.detach())
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-4)
    for net, state in before.items():
        for key, value in getattr(model, net).state_dict().items():
            assert torch.equal(value, state[key]), key
    assert [p.requires_grad for net in before for p in getattr(model, net).parameters()] == trained
    assert [optimizer.state_dict() for optimizer in model.optimizers] == optimizers
    assert isinstance(model.optimizer_g, torch.optim.Optimizer) and torch.equal(model.lq, lq)
    in_bf16 = gradient_in(model, x.detach(), 'bf16')
    assert 0.5 < F.cosine_similarity(in_bf16.flatten(), expected.flatten(), dim=0) < 1


def gradient_in(model, x, precision):
    model.attack.precision = precision
    with model._forced(True):
        return model._gradient_of_training_loss(x)


def test_the_classifier_adds_nothing_to_the_first_gradient(pairs, photos):
    opt = cases(pairs, photos)['SRVGGNetCompact'][0]
    lq, gt = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 64, 64)
    seen = []
    for weight in (1, 1000):
        opt['train']['classifier_opt'] = {'type': 'ClassifierLoss', 'loss_weight': weight}
        torch.manual_seed(1)
        model = built(opt, lq, gt)
        perturb = model.attack.perturb
        model.attack.perturb = lambda *args, **given: [seen.append(given['first_gradient']), perturb(*args, **given)][1]
        model.optimize_parameters(1)
        assert model.optimizer_classifier.param_groups[0]['params'][0].grad.abs().sum() > 0
    assert torch.equal(*seen) and seen[0].abs().sum() > 0


@pytest.mark.parametrize(
    'change, reason',
    [
        ({'mode': 'paired'}, 'write mode: alternating, got paired'),
        ({'random_start': 1}, 'write random_start: 0'),
        ({'type': 'PGD', 'random_start': None}, 'write random_start: 0'),
        ({'type': 'APGD', 'step_size': None, 'objective': 'ground_truth'}, 'APGD compares samples'),
        ({'restarts': 2}, 'is one number per batch'),
        ({'keep_best': True, 'objective': 'ground_truth'}, 'IFGSM compares samples'),
        ({'seed': 0}, 'leave tile, memory and seed out'),
        ({'tile': 8}, 'leave tile, memory and seed out'),
        ({'warm_start': True}, 'warm_start does not begin'),
        ({'first_gradient': 'mine'}, 'expected one of own, clean_step'),
    ],
)
def test_wrong_options_are_refused(change, reason, pairs, photos):
    opt = cases(pairs, photos)['SRVGGNetCompact'][0]
    opt['attack'] = {key: value for key, value in {**PUBLISHED, **change}.items() if value is not None}
    opt.update(is_train=True, dist=False, auto_resume=False)
    with pytest.raises(OptionsError, match=reason):
        check_options(opt)


@pytest.mark.parametrize(
    'build, reason',
    [
        (lambda: Square(objective='training_loss'), 'Square compares samples'),
        (lambda: worst_of([PGD(objective='training_loss')]), 'compares samples'),
        (lambda: Transfer(source=torch.nn.Identity(), objective='training_loss'), 'network in training'),
        (lambda: build_attack({'type': 'DetectorAware', 'objective': 'training_loss'}), 'compares samples'),
        (
            lambda: IFGSM(objective='training_loss')(
                torch.nn.Identity(), torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
            ),
            'there is no training here',
        ),
    ],
)
def test_the_training_loss_is_for_trainings(build, reason):
    with pytest.raises(ValueError, match=reason):
        build()


def test_trainer_without_optimizer_g_is_refused(pairs, photos):
    opt = cases(pairs, photos)['SRVGGNetCompact'][0]
    model = built(opt, torch.rand(2, 3, 16, 16), torch.rand(2, 3, 64, 64))
    model.optimizer_g = type('Mine', (), {'zero_grad': lambda self: None, 'step': lambda self: None})()
    with pytest.raises(OptionsError, match='updates its weights by optimizer_g, DefendedSRModel does not'):
        model.optimize_parameters(1)
