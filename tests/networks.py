"""Networks and objectives of which is known what an attack can do to them."""

import torch
from torch import nn

from rsr_basicsr import defend
from rsr_basicsr.attacks import Objective


class Affine(nn.Module):
    """Maps x to weight * x, elementwise."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        return self.weight * x


class Dense(nn.Module):
    """Every value of the output is a weighted sum of all values of the image: x -> matrix x, twice as large.

    The loss of :class:`Along` then has the gradient ``matrix^T direction`` everywhere.
    """

    def __init__(self, channels=3, height=6, width=5):
        super().__init__()
        self.shape = (channels, 2 * height, 2 * width)
        values = channels * height * width
        self.matrix = nn.Parameter(torch.randn(4 * values, values, dtype=torch.float64))

    def forward(self, x):
        return (x.flatten(1).to(self.matrix) @ self.matrix.T).view(-1, *self.shape)

    def gradient(self, direction):
        return (direction.flatten(1) @ self.matrix.detach()).view(len(direction), self.shape[0], self.shape[1] // 2, -1)


class Along(Objective):
    """Loss that grows linearly along the target."""

    needs_target = True

    def __call__(self, output, reference):
        return (output * reference).flatten(1).sum(1)


class Valley(Objective):
    """Loss that peaks 3/255 above the reference, so that a step of 8/255 from there overshoots."""

    needs_target = True

    def __call__(self, output, reference):
        return -(output - reference - 3 / 255).square().flatten(1).sum(1)


class Rounding(nn.Module):
    """A network behind a coarse rounding, which has no gradient but hardly protects."""

    def __init__(self, net, levels=64):
        super().__init__()
        self.net, self.levels = net, levels

    def forward(self, x):
        return self.net((x * self.levels).round() / self.levels)


class Gain(nn.Module):
    """Multiplies by 3 and upscales by 2: a backbone whose loss grows with the perturbation alone."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        return (self.gain * x).repeat_interleave(2, -1).repeat_interleave(2, -2)


DefendedGain = defend(Gain)
