"""Networks and image sizes for tests of the baseline defences."""

import pytest
import torch
from torch import nn

SIZES = pytest.mark.parametrize('size', [(8, 8), (13, 22), (37, 20)])
AS_IT_IS = nn.Identity()


def honest():
    """A small network of random filters that upscales by 2, where attacks reach several times the loss of noise."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2), nn.LeakyReLU(0.2), nn.Conv2d(8, 3, 5, padding=2), nn.Upsample(None, 2)
    )


def seeded(seed, net, x):
    torch.manual_seed(seed)
    return net(x)
