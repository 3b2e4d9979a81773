"""A network with a known receptive field."""

from torch import nn
from torch.nn import functional as F


class Reach(nn.Module):
    """Upscales by 2 after two 3x3 means: each output pixel depends on inputs up to 2 pixels away."""

    def forward(self, x):
        for _ in range(2):
            x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode='replicate'), 3, stride=1)
        return F.interpolate(x, scale_factor=2, mode='nearest')
