"""What an attack maximises: a loss a sample, to be summed over the batch.

Losses are sums over an image, not means: mean-reduced losses have input gradients near 1e-8, which vanish in
half precision.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from rsr_basicsr.ops.perceptual import lpips_distance
from rsr_basicsr.utils.errors import WeightsError

Network = Callable[[torch.Tensor], torch.Tensor]


class Objective:
    """Base class: a constant ``reference`` taken once an attack, and the loss of an output against it."""

    needs_random_start = False  # where the gradient at the clean image is zero
    needs_target = False  # the caller must give the attack's ``target``
    needs_ground_truth = False  # and it is the ground truth
    per_sample = True  # False: one loss for the whole batch, so that samples cannot be compared
    #: Gradient of the loss with respect to images, (B, C, H, W), where the loss is not a function of the output alone
    gradient: Callable[[torch.Tensor], torch.Tensor] | None = None
    target_is = 'what the output is compared with'

    def reference(self, model: Network, lq: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """What outputs are compared with; ``target`` is what the caller gave the attack.

        Raises:
            ValueError: the objective needs a target and there is none.
        """
        if target is not None:
            return target
        if self.needs_target:
            raise ValueError(f'{self} needs target: {self.target_is}')
        with torch.no_grad():
            return model(lq)

    def __call__(self, output: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Loss of each sample, shape (B,), for outputs and references of shape (B, C, sH, sW)."""
        return (output - reference).square().flatten(1).sum(1)

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


class GroundTruth(Objective):
    """Squared error to the ground truth, which must be given as the attack's ``target``."""

    needs_target = needs_ground_truth = True
    target_is = 'the high-resolution images'


class GroundTruthL1(GroundTruth):
    """Absolute error to the ground truth: the pixel loss that Real-ESRGAN trains with."""

    def __call__(self, output, reference):
        return (output - reference).abs().flatten(1).sum(1)


class TrainingLoss(GroundTruth):
    """The whole loss of a training step, as the trainer computes it (the published code of Yue et al. 2021).

    It is one number per batch, of all losses of the trainer. :class:`rsr_basicsr.models.AttackAugmentation` sets
    ``gradient``; outside of a training there is none.
    """

    per_sample = False

    def gradient(self, x: torch.Tensor) -> torch.Tensor:
        """Raise a ValueError: no trainer has set its own."""
        raise ValueError(f'{self} is the loss of a training step, and there is no training here; write stability')

    def __call__(self, output: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        raise ValueError(f'{self} has a gradient, but no loss for each sample')


class Stability(Objective):
    """Squared error to the network's own output for the clean image (Yue et al. 2021).

    ``target`` may give that output, for example that of a defended network with its masks off. At the clean image
    itself the gradient is zero, so attacks start from a random perturbation.
    """

    needs_random_start = True


class Target(Objective):
    """Nearness to an image of the attacker's choice, the attack's ``target``: the targeted attack."""

    needs_target = True
    target_is = 'the images that the output shall become'

    def __call__(self, output, reference):
        return -super().__call__(output, reference)


class Perceptual(Objective):
    """Distance by any differentiable measure to the own clean output or, where the target is it, to another image.

    Args:
        distance: maps outputs and references, (B, C, sH, sW) in [0, 1], to a distance a sample of B values, larger
            for less alike; None is LPIPS on AlexNet.
        backbone: file with AlexNet's weights for LPIPS; None takes torchvision's own.

    Raises:
        ValueError: both are given, or LPIPS cannot be had; see :func:`rsr_basicsr.ops.perceptual.lpips_distance`.
    """

    needs_random_start = True

    def __init__(
        self,
        distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        backbone: None | str | Path = None,
    ):
        if distance is not None and backbone is not None:
            raise ValueError(f'Perceptual: distance and backbone: {backbone} exclude each other; the file is for LPIPS')
        try:
            self.distance = lpips_distance(backbone) if distance is None else distance
        except WeightsError as error:  # a wrong argument, as all others are
            raise ValueError(f'Perceptual: {error}') from error

    def __call__(self, output, reference):
        distance = self.distance(output, reference)
        if distance.numel() != len(output):
            raise ValueError(f'{self} needs one distance a sample, got {tuple(distance.shape)} for {len(output)}')
        return distance.reshape(len(output))

    def __repr__(self) -> str:
        return f'Perceptual({getattr(self.distance, "__name__", type(self.distance).__name__)})'


OBJECTIVES = {
    'ground_truth': GroundTruth,
    'ground_truth_l1': GroundTruthL1,
    'stability': Stability,
    'target': Target,
    'perceptual': Perceptual,
    'training_loss': TrainingLoss,
}


def build_objective(objective: str | Mapping[str, Any] | Objective) -> Objective:
    """The objective of that name, of a block with ``type`` and the keyword arguments of its class, or the one given.

    Raises:
        ValueError: there is no such objective, it has no such argument, or the value is wrong.
    """
    if isinstance(objective, Objective):
        return objective
    arguments = dict(objective) if isinstance(objective, Mapping) else {'type': objective}
    name = arguments.pop('type', None)
    if not isinstance(name, str) or name not in OBJECTIVES:
        raise ValueError(f'objective must be one of {", ".join(OBJECTIVES)}, got {objective!r}')
    known = inspect.signature(OBJECTIVES[name]).parameters
    for argument in arguments:
        if argument not in known:
            raise ValueError(f'the objective {name} has no {argument!r}; it has {", ".join(known) or "no arguments"}')
    return OBJECTIVES[name](**arguments)
