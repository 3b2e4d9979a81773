"""What an attack maximises: a loss per sample.

Losses are sums over an image, not means: the input gradients of means are near 1e-8, which vanishes in half
precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from rsr_basicsr.attacks.checks import expect_one_of
from rsr_basicsr.ops.perceptual import perceptual_measure
from rsr_basicsr.ops.registry import TypeRegistry, check_arguments, parameters_of, take_type
from rsr_basicsr.utils.errors import WeightsError

Network = Callable[[torch.Tensor], torch.Tensor]
#: What the objective ``perceptual`` compares outputs with, and the measure it takes where none is named
PERCEPTUAL_TO = ('clean_output', 'ground_truth')
DEFAULT_MEASURE = 'lpips'
#: Objectives, by the name of ``objective``
OBJECTIVES = TypeRegistry('objective')


class Objective:
    """Base class: a ``reference`` computed once per attack, and the loss of outputs against it."""

    needs_random_start = False  # True where the gradient at the clean image is zero
    needs_target = False  # True where the caller must give the attack's ``target``
    needs_ground_truth = False  # True where that target is the ground truth
    per_sample = True  # False: one loss for the whole batch, so samples cannot be compared
    #: Gradient of the loss with respect to images, (B, C, H, W), if the loss does not depend on the output alone
    gradient: Callable[[torch.Tensor], torch.Tensor] | None = None
    target_is = 'the images that the output is compared with'

    def reference(self, model: Network, lq: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """The images that outputs are compared with, (B, C, sH, sW).

        Args:
            model: maps images (B, C, H, W) to (B, C, sH, sW).
            lq: the clean images.
            target: the target of the attack's call, or None.

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
        """Loss per sample, (B,), for outputs and references of shape (B, C, sH, sW)."""
        return (output - reference).square().flatten(1).sum(1)

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


@OBJECTIVES.register(name='ground_truth')
class GroundTruth(Objective):
    """Squared error to the ground truth, which must be given as the attack's ``target``."""

    needs_target = needs_ground_truth = True
    target_is = 'the high-resolution images'


@OBJECTIVES.register(name='ground_truth_l1')
class GroundTruthL1(GroundTruth):
    """Absolute error to the ground truth: the pixel loss that Real-ESRGAN trains with."""

    def __call__(self, output: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        return (output - reference).abs().flatten(1).sum(1)


@OBJECTIVES.register(name='stability')
class Stability(Objective):
    """Squared error to the network's own output for the clean image (Yue et al. 2021).

    ``target`` may give that output, for example of a defended network with its masks off. The gradient at the clean
    image is zero, so attacks start from a random perturbation.
    """

    needs_random_start = True


@OBJECTIVES.register(name='target')
class Target(Objective):
    """Closeness to an image that the attacker chose, the attack's ``target``: the targeted attack."""

    needs_target = True
    target_is = 'the images that the output is to become'

    def __call__(self, output: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        return -super().__call__(output, reference)


@OBJECTIVES.register(name='perceptual')
class Perceptual(Objective):
    """Perceptual distance to the network's own clean output, or to the ground truth.

    Args:
        distance: maps outputs and references, (B, C, sH, sW) in [0, 1], to B distances, differentiably; None takes
            ``measure``.
        measure: name of a measure, ``lpips`` by default; see :func:`rsr_basicsr.ops.perceptual.perceptual_measure`.
        backbone: file with the weights of LPIPS's network; None takes torchvision's own.
        to: ``clean_output``, or ``target`` if given; or ``ground_truth``, which must be given as ``target``.

    Raises:
        ValueError: ``distance`` is given beside ``measure`` or ``backbone``, ``to`` is another word, or the measure is
            not available.
    """

    target_is = GroundTruth.target_is

    def __init__(
        self,
        distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        measure: str | None = None,
        backbone: str | Path | None = None,
        to: str = 'clean_output',
    ) -> None:
        expect_one_of('Perceptual: to', to, PERCEPTUAL_TO)
        for name, value in (('measure', measure), ('backbone', backbone)):
            if distance is not None and value is not None:
                raise ValueError(f'Perceptual: distance and {name}: {value} exclude each other; give one of them')
        self.needs_target = self.needs_ground_truth = to == 'ground_truth'
        self.needs_random_start = not self.needs_ground_truth
        self.to = to
        try:
            self.distance = perceptual_measure(measure or DEFAULT_MEASURE, backbone) if distance is None else distance
        except (ValueError, WeightsError) as error:  # reported like every wrong argument
            raise ValueError(f'Perceptual: {error}') from error
        self._name = measure or DEFAULT_MEASURE if distance is None else ''

    def __call__(self, output: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        distance = self.distance(output, reference)
        if distance.numel() != len(output):
            raise ValueError(f'{self} needs one distance per sample, got {tuple(distance.shape)} for {len(output)}')
        return distance.reshape(len(output))

    def __repr__(self) -> str:
        name = self._name or getattr(self.distance, '__name__', type(self.distance).__name__)
        return f'Perceptual({name}{", to ground_truth" * self.needs_ground_truth})'


@OBJECTIVES.register(name='training_loss')
class TrainingLoss(GroundTruth):
    """The full loss of a training step, as the trainer computes it (the published code of Yue et al. 2021).

    It is one number per batch, the sum of the trainer's losses. :class:`rsr_basicsr.models.AttackAugmentation` sets
    ``gradient``; outside training there is none.
    """

    per_sample = False

    def gradient(self, x: torch.Tensor) -> torch.Tensor:
        """Raise a ValueError: no trainer has set this method."""
        raise ValueError(f'{self} is the loss of a training step, and there is no training here; write stability')

    def __call__(self, output: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        raise ValueError(f'{self} has a gradient, but no loss per sample')


def build_objective(objective: str | Mapping[str, Any] | Objective) -> Objective:
    """Build an objective.

    Args:
        objective: its name, a block with ``type`` and the arguments of its class, or an objective, which is returned.

    Raises:
        ValueError: there is no such objective, it has no such argument, or a value is wrong.
    """
    if isinstance(objective, Objective):
        return objective
    block = objective if isinstance(objective, Mapping) else {'type': objective}
    name, cls, arguments = take_type(block, OBJECTIVES, 'objective')
    check_arguments(f'the objective {name}', arguments, parameters_of(cls))
    return cls(**arguments)
