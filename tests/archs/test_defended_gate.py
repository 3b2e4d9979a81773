"""The gate of defended architectures: decisions, and their gradients."""

import pytest
import torch
from basicsr.archs.srresnet_arch import MSRResNet
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from defended_networks import BACKBONES, Identity, build, masked_identity

from rsr_basicsr import defend


def test_gate_never_is_the_plain_backbone(backbone):
    net, x = build(backbone, gate='never'), torch.rand(2, 3, 12, 12)
    plain = backbone(**BACKBONES[backbone])
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith('defense.')})
    assert torch.equal(net(x), plain.eval()(x))


def test_gate_is_per_sample(backbone):
    net, x = build(backbone), torch.rand(3, 3, 12, 12)
    with net.defense.forced(False):
        clean = net(x)
    with net.defense.forced(torch.tensor([False, True, False])):
        mixed = net(x)
    torch.testing.assert_close(mixed[[0, 2]], clean[[0, 2]], atol=1e-6, rtol=0)
    assert (mixed[1] - clean[1]).abs().max() > 1e-4


def test_classifier_controls_the_gate():
    net, x = build(SRVGGNetCompact, classifier={'threshold': 1.0}), torch.rand(2, 3, 12, 12)
    assert net.defense.attacked(x).tolist() == [True, True] and not torch.equal(net(x), net(x))
    net.defense.threshold = 0.0
    assert net.defense.attacked(x).tolist() == [False, False] and torch.equal(net(x), net(x))


def test_batch_decides_by_its_mean():
    net, x = build(SRVGGNetCompact, decision='batch'), torch.rand(4, 3, 16, 16)
    clean = net.defense.classifier.clean_probability(x).detach().double().numpy()
    net.defense.threshold = ((clean.mean() + clean.max()) / 2).item()
    assert net.defense.attacked(x).tolist() == [True] * 4 and not (clean < net.defense.threshold).all()
    net.defense.threshold = ((clean.mean() + clean.min()) / 2).item()
    assert net.defense.attacked(x).tolist() == [False] * 4 and (clean < net.defense.threshold).any()


def test_soft_gate_blends_by_the_probability():
    net, x = defend(Identity)(defense={'gate': 'soft', 'seed': 0}).eval(), torch.rand(3, 3, 16, 20)
    share = (1 - net.defense.classifier.clean_probability(x)).view(-1, 1, 1, 1)
    assert share.min() > 0.1 and share.max() < 0.9
    torch.testing.assert_close(net(x), (1 - share) * x + share * masked_identity(x))


@pytest.mark.parametrize('seed', [None, 0])
def test_decisions_of_another_number_of_images_are_refused(seed):
    net, x = defend(Identity)(defense={'seed': seed}).eval(), torch.rand(4, 3, 16, 20)
    with net.defense.forced(torch.tensor([True])):
        assert net(x).shape == x.shape
    with pytest.raises(RuntimeError), net.defense.forced(torch.tensor([True, False])):
        net(x)


@pytest.mark.parametrize('decision', ['image', 'batch'])
def test_nan_image_counts_as_attacked(decision):
    net = defend(Identity)(defense={'decision': decision, 'classifier': {'threshold': 0.0}}).eval()
    x = torch.rand(2, 3, 16, 16)
    assert not net.defense.attacked(x).any()
    x[0, 0, 0, 0] = torch.nan
    assert net.defense.attacked(x).tolist() == [True, decision == 'batch']


def test_forced_decisions_nest():
    net, x = defend(Identity)(defense={'gate': 'never', 'seed': 0}).eval(), torch.rand(1, 3, 16, 20)
    with net.defense.forced(True):
        with net.defense.forced(False):
            assert torch.equal(net(x), x)
        torch.testing.assert_close(net(x), masked_identity(x))
    assert torch.equal(net(x), x)


@pytest.mark.parametrize('threshold', [0.0, 1.0], ids=['shut', 'open'])
def test_gradient_straight_through_the_gate(threshold):
    undecided = {'type': 'paper', 'weights': 'untrained', 'threshold': threshold}
    net = defend(Identity)(defense={'seed': 0, 'classifier': undecided}).eval().double()
    x = torch.rand(1, 3, 12, 12, dtype=torch.float64, requires_grad=True)
    v, direction = torch.randn_like(x), torch.randn_like(x)
    plain = net(x)
    with net.defense.straight_through():
        output = net(x)
    torch.testing.assert_close(output, plain, rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad((output * v).sum(), x)

    with torch.no_grad():
        # The path itself, with its masks or without, and P(attacked) by a finite difference.
        path = masked_identity(direction) if threshold else direction
        step = 1e-5
        p = [1 - net.defense.classifier.clean_probability(x + sign * step * direction) for sign in (1, -1)]
        steered = (p[0] - p[1]) / (2 * step) * ((masked_identity(x) - x) * v).sum()
        expected = (path * v).sum() + steered
    assert steered.abs() > 1e-6
    torch.testing.assert_close((gradient * direction).sum(), expected.squeeze(), rtol=1e-4, atol=1e-6)


def test_no_gradient_through_a_gate_that_is_not_used():
    net = defend(Identity)(defense={'seed': 0, 'classifier': {'threshold': 1.0}}).eval()
    x, v = torch.rand(1, 3, 12, 12, requires_grad=True), torch.randn(1, 3, 12, 12)
    (gradient,) = torch.autograd.grad((net(x) * v).sum(), x)
    torch.testing.assert_close(gradient, masked_identity(v))


def test_unknown_gate_is_refused():
    with pytest.raises(ValueError, match="classifier, soft, always, never, got 'sometimes'"):
        build(MSRResNet, gate='sometimes')
