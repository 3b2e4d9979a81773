"""What an attack maximises: a damage a sample, to be summed over the batch.

Damages are sums over a picture, not means: mean-reduced losses have input gradients near 1e-8, which vanish in
half precision.
"""

from __future__ import annotations

from typing import Optional

import torch


class Objective:
    """Base class: a constant ``reference`` taken once an attack, and the damage of an output against it."""

    needs_random_start = False
    needs_ground_truth = False

    def reference(self, model, lq: torch.Tensor, target: Optional[torch.Tensor]) -> torch.Tensor:
        """What outputs are compared with; ``target`` is what the caller gave the attack."""
        raise NotImplementedError

    def __call__(self, output: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Damage of each sample, shape (B,), for outputs and references of shape (B, 3, sH, sW)."""
        return (output - reference).square().flatten(1).sum(1)

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


class GroundTruth(Objective):
    """Squared error to the ground truth, which must be given as the attack's ``target``."""

    needs_ground_truth = True

    def reference(self, model, lq, target):
        if target is None:
            raise ValueError('objective "ground_truth" needs target, the high-resolution pictures')
        return target


class GroundTruthL1(GroundTruth):
    """Absolute error to the ground truth: the pixel loss that Real-ESRGAN trains with."""

    def __call__(self, output, reference):
        return (output - reference).abs().flatten(1).sum(1)


class Stability(Objective):
    """Squared error to the network's own output for the clean picture (Yue et al. 2021).

    ``target`` may give that output, for example that of a defended network with its masks off. At the clean picture
    itself the gradient is zero, so attacks start from a random perturbation.
    """

    needs_random_start = True

    def reference(self, model, lq, target):
        if target is not None:
            return target
        with torch.no_grad():
            return model(lq)


OBJECTIVES = {'ground_truth': GroundTruth, 'ground_truth_l1': GroundTruthL1, 'stability': Stability}


def build_objective(objective) -> Objective:
    """The objective of that name, or the one given."""
    if isinstance(objective, Objective):
        return objective
    if objective not in OBJECTIVES:
        raise ValueError(f'objective must be one of {", ".join(OBJECTIVES)}, got {objective!r}')
    return OBJECTIVES[objective]()
