"""Tiles: the same picture as in one pass, one decision for all of them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rsr_basicsr import defend
from rsr_basicsr.inference import upscale


class Reach(nn.Module):
    """Enlarges by 2 behind two 3x3 means, so that each output pixel depends on inputs up to 2 pixels away."""

    def forward(self, x):
        for _ in range(2):
            x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode='replicate'), 3, stride=1)
        return F.interpolate(x, scale_factor=2, mode='nearest')


@pytest.mark.parametrize('size', [(40, 40), (37, 91), (17, 64), (16, 16)])
def test_tiles_make_the_same_picture(size):
    x = torch.rand(2, 3, *size)
    torch.testing.assert_close(upscale(Reach(), x, tile=16, overlap=2), Reach()(x))
    if max(size) > 16:
        assert not torch.allclose(upscale(Reach(), x, tile=16, overlap=1), Reach()(x))


@pytest.mark.parametrize('decision, asked', [('picture', [(1, 3, 40, 48)]), ('tile', [(1, 3, 18, 18)])])
def test_one_decision_for_a_picture_or_one_for_each_tile(decision, asked):
    net = defend(Reach)(defense={'decision': decision, 'seed': 0}).eval()
    seen = []
    net.defense.classifier.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    upscale(net, torch.rand(1, 3, 40, 48), tile=16, overlap=2)
    assert seen[:1] == asked and len(seen) == (9 if decision == 'tile' else 1)


def test_one_decision_for_a_picture_behind_a_wrapper():
    net = defend(Reach)(defense={'seed': 0}).eval()
    seen = []
    net.defense.classifier.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    for wrapped in (nn.DataParallel(net), torch.compile(net, backend='eager', dynamic=False)):
        seen.clear()
        upscale(wrapped, torch.rand(1, 3, 40, 48), tile=16, overlap=2)
        assert seen == [(1, 3, 40, 48)]


def test_all_tiles_obey_the_decision_on_the_picture():
    net, x = defend(Reach)(defense={'classifier': {'threshold': 1.0}}).eval(), torch.rand(1, 3, 40, 48)
    assert not torch.allclose(upscale(net, x, tile=16, overlap=2), Reach()(x), atol=1e-3)
    net.defense.threshold = 0.0
    torch.testing.assert_close(upscale(net, x, tile=16, overlap=2), Reach()(x))
