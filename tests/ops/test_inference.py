"""Tiles: the same output as in one pass, under one decision."""

import pytest
import torch
from basicsr.archs import build_network
from reach import Reach
from torch import nn

from helpers import SMALL_NETWORKS
from rsr_basicsr import defend
from rsr_basicsr.ops.tiled import Padded, upscale


@pytest.mark.parametrize('size', [(40, 40), (37, 91), (17, 64), (16, 16)])
def test_tiles_give_the_same_output(size):
    x = torch.rand(2, 3, *size)
    torch.testing.assert_close(upscale(Reach(), x, tile=16, overlap=2), Reach()(x))
    if max(size) > 16:
        assert not torch.allclose(upscale(Reach(), x, tile=16, overlap=1), Reach()(x))


@pytest.mark.parametrize('decision, asked', [('image', [(1, 3, 40, 48)]), ('tile', [(1, 3, 18, 18)])])
def test_decision_per_image_or_per_tile(decision, asked):
    net = defend(Reach)(defense={'decision': decision, 'seed': 0}).eval()
    seen = []
    net.defense.classifier.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    upscale(net, torch.rand(1, 3, 40, 48), tile=16, overlap=2)
    assert seen[:1] == asked and len(seen) == (9 if decision == 'tile' else 1)


def test_decision_per_image_behind_a_wrapper():
    net = defend(Reach)(defense={'seed': 0}).eval()
    seen = []
    net.defense.classifier.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    for wrapped in (nn.DataParallel(net), torch.compile(net, backend='eager', dynamic=False)):
        seen.clear()
        upscale(wrapped, torch.rand(1, 3, 40, 48), tile=16, overlap=2)
        assert seen == [(1, 3, 40, 48)]


def test_tiles_follow_the_decision_of_the_image():
    net, x = defend(Reach)(defense={'classifier': {'threshold': 1.0}}).eval(), torch.rand(1, 3, 40, 48)
    assert not torch.allclose(upscale(net, x, tile=16, overlap=2), Reach()(x), atol=1e-3)
    net.defense.threshold = 0.0
    torch.testing.assert_close(upscale(net, x, tile=16, overlap=2), Reach()(x))


NETWORKS = {name: ({**options, 'type': f'Defended{name}'}, (53, 70)) for name, options in SMALL_NETWORKS.items()}
NETWORKS['RRDBNet x2'] = ({**SMALL_NETWORKS['RRDBNet'], 'type': 'DefendedRRDBNet', 'scale': 2}, (52, 70))
NETWORKS['EDSR'] = (dict(type='DefendedEDSR', num_in_ch=3, num_out_ch=3, num_feat=8, num_block=1, upscale=4), (53, 70))


@pytest.mark.parametrize(
    'name, settings',
    [
        *((name, {'gate': 'always'}) for name in NETWORKS),
        ('RRDBNet', {'gate': 'soft'}),
        ('SRVGGNetCompact', {'gate': 'always', 'mask_samples': 2}),
    ],
    ids=str,
)
def test_masks_of_the_whole_image(name, settings):
    options, size = NETWORKS[name]
    net = build_network({**options, 'defense': {**settings, 'seed': 3}}).eval()
    net = Padded(net, 8) if name == 'SwinIR' else net
    # The hourglasses of CDC and the attention of SwinIR see further than any overlap of use.
    overlap = 64 if name in ('CDC', 'SwinIR') else 16
    x = torch.rand(2 if name == 'RRDBNet' else 1, 3, *size)
    with torch.no_grad():
        whole = net(x)
        torch.testing.assert_close(upscale(net, x, tile=24, overlap=overlap), whole, rtol=0, atol=1e-4)
        if overlap == 16:  # with masks of the tiles it would not be so
            net.defense.decision = 'tile'
            assert not torch.allclose(upscale(net, x, tile=24, overlap=16), whole, atol=1e-3)


@pytest.mark.parametrize('gate', ['always', 'classifier'])
def test_gradients_of_the_whole_image_behind_masks(gate):
    net = build_network(
        {
            **SMALL_NETWORKS['SRVGGNetCompact'],
            'type': 'DefendedSRVGGNetCompact',
            'defense': {'gate': gate, 'seed': 0, 'classifier': {'threshold': 1.0}},
        }
    ).eval()
    gradients = []
    for tile in (None, 12):
        x = torch.rand(1, 3, 20, 27, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with net.defense.straight_through():
            upscale(net, x, tile=tile, overlap=12).square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3 * gradients[0].abs().max().item())
