"""Outputs of defended architectures: seeds, batches, averaged masks and half precision."""

import pytest
import torch
from basicsr.archs import build_network
from basicsr.archs.rrdbnet_arch import RRDBNet
from defended_networks import BACKBONES, Identity, build, masked_identity, threshold_between
from torch.nn import functional as F

from rsr_basicsr import defend
from rsr_basicsr.archs import CDC
from rsr_basicsr.attacks import IFGSM
from rsr_basicsr.catalog.weights import WEIGHTS


@pytest.mark.parametrize('gate', ['classifier', 'soft', 'always', 'never'])
@pytest.mark.parametrize('cls', [*BACKBONES, CDC], ids=lambda cls: cls.__name__)
def test_seeded_output_is_independent_of_the_batch(cls, gate):
    net = build(cls, gate=gate, seed=7, mask_samples=2)
    x = torch.rand(4, 3, 16, 24)
    with torch.no_grad():
        net.defense.threshold = threshold_between(net, x)
        together = net(x)
        for index in range(4):
            assert torch.equal(net(x[index : index + 1]), together[index : index + 1])
        assert torch.equal(net(x[1:3]), together[1:3]) and torch.equal(net(x.flip(0)), together.flip(0))
        if gate == 'classifier':
            attacked = net.defense.attacked(x)
            assert attacked.any() and not attacked.all()
            assert torch.equal(net.defense.attacked(x[:1]), attacked[:1])


def test_seeded_real_network_is_independent_of_the_batch(real_network):
    net = build_network(
        {**WEIGHTS['realesr-animevideov3'].network, 'type': 'DefendedSRVGGNetCompact', 'defense': {'seed': 0}}
    ).eval()
    net.load_state_dict(real_network.state_dict())
    x = torch.rand(3, 3, 24, 24)
    with torch.no_grad():
        net.defense.threshold = threshold_between(net, x)
        together = net(x)
        assert all(torch.equal(net(x[i : i + 1]), together[i : i + 1]) for i in range(3))


def test_masks_depend_on_the_seed():
    net, x = build(RRDBNet, gate='always', seed=1), torch.rand(1, 3, 16, 16)
    first = net(x)
    assert torch.equal(net(x), first)
    net.defense.seed = 2
    assert not torch.equal(net(x), first)
    net.train()  # a network must not learn to fill in one mask
    assert not torch.equal(net(x), net(x))


def test_mask_samples_are_averaged():
    net, x = defend(Identity)(defense={'gate': 'always', 'seed': 0, 'mask_samples': 3}).eval(), torch.rand(1, 3, 16, 20)
    expected = sum(masked_identity(x, place) for place in range(3)) / 3
    torch.testing.assert_close(net(x), expected)
    net.defense.seed = None
    assert (net(x) - x).square().mean() < (defend(Identity)(defense={'gate': 'always'})(x) - x).square().mean()


def test_unmasked_images_are_bitwise_unchanged_by_averaging():
    net, x = defend(Identity)(defense={'mask_samples': 3}).eval(), torch.rand(4, 3, 16, 20)
    with net.defense.forced(torch.tensor([True, False, True, False])):
        output = net(x)
    assert torch.equal(output[[1, 3]], x[[1, 3]]) and not torch.allclose(output[[0, 2]], x[[0, 2]], atol=1e-3)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_gradients_and_attacks_inside_autocast(dtype):
    net, x = build(RRDBNet, gate='always', seed=0), torch.rand(1, 3, 16, 16, requires_grad=True)
    (expected,) = torch.autograd.grad(net(x).sum(), x)
    with torch.autocast('cpu', dtype=dtype):
        (gradient,) = torch.autograd.grad(net(x).float().sum(), x)
        attacked = IFGSM(eps=4, steps=2)(net, x)
    assert (gradient - expected).norm() < 0.1 * expected.norm()
    assert (attacked - x).abs().max() > 1 / 255


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('gate', ['classifier', 'always'])
def test_half_precision_is_close_to_float32(backbone, gate, dtype):
    net, x = build(backbone, gate=gate, seed=0, classifier={'threshold': 1.0}), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        expected = net(x)
        with torch.autocast('cpu', dtype=dtype):
            output = net(x)
    assert torch.isfinite(output).all()
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=1e-2)


def test_half_precision_of_real_weights_is_close(real_network):
    net = build_network(
        {
            **WEIGHTS['realesr-animevideov3'].network,
            'type': 'DefendedSRVGGNetCompact',
            'defense': {'seed': 0, 'gate': 'always'},
        }
    ).eval()
    net.load_state_dict(real_network.state_dict())
    x = F.interpolate(torch.rand(1, 3, 6, 6), size=24, mode='bicubic').clamp(0, 1)

    def error(dtype):
        with torch.no_grad(), torch.autocast('cpu', dtype=dtype):
            output = net(x).float()
        assert torch.isfinite(output).all()
        return (output - expected).abs()

    with torch.no_grad():
        expected = net(x)
    assert error(torch.float16).max() < 1e-2
    # bfloat16 has steps of 1/256 near white, and the backbone alone goes a little beyond 1e-2 in its worst pixel.
    assert error(torch.bfloat16).square().mean().sqrt() < 1e-2
    bfloat16 = error(torch.bfloat16).max()
    net.defense.gate = 'never'
    with torch.no_grad():
        expected = net(x)
    assert bfloat16 < 2 * error(torch.bfloat16).max()
