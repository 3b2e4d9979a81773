"""Networks and objectives for which the effect of an attack is known in closed form."""

import torch
from torch import nn

from rsr_basicsr import defend
from rsr_basicsr.attacks import Objective


class Affine(nn.Module):
    """Maps x to weight * x, elementwise."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x


class Dense(nn.Module):
    """x -> matrix x: each output value is a weighted sum of all values of the image. Upscales by 2.

    The loss of :class:`Along` then has the gradient ``matrix^T direction`` everywhere.
    """

    def __init__(self, channels: int = 3, height: int = 6, width: int = 5) -> None:
        super().__init__()
        self.shape = (channels, 2 * height, 2 * width)
        values = channels * height * width
        self.matrix = nn.Parameter(torch.randn(4 * values, values, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1).to(self.matrix) @ self.matrix.T).view(-1, *self.shape)

    def gradient(self, direction: torch.Tensor) -> torch.Tensor:
        return (direction.flatten(1) @ self.matrix.detach()).view(len(direction), self.shape[0], self.shape[1] // 2, -1)


class Along(Objective):
    """Loss that grows linearly along the target."""

    needs_target = True

    def __call__(self, output: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        return (output * reference).flatten(1).sum(1)


class Valley(Objective):
    """Loss with its maximum 3/255 above the reference, which a step of 8/255 overshoots."""

    needs_target = True

    def __call__(self, output: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        return -(output - reference - 3 / 255).square().flatten(1).sum(1)


class Rounding(nn.Module):
    """A network behind coarse rounding, which masks the gradient but hardly protects."""

    def __init__(self, net: nn.Module, levels: int = 64) -> None:
        super().__init__()
        self.net, self.levels = net, levels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net((x * self.levels).round() / self.levels)


class Gain(nn.Module):
    """Multiplies by 3 and upscales by 2: a backbone whose loss depends on the perturbation only."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.gain * x).repeat_interleave(2, -1).repeat_interleave(2, -2)


DefendedGain = defend(Gain)
