"""I-FGSM and PGD in the L-inf ball."""

from __future__ import annotations

import torch

from rsr_basicsr.attacks.base import GradientAttack


class LinfAttack(GradientAttack):
    """Sign steps and a box: what the L-inf attacks share."""

    def step(self, attacked, gradient, radius):
        return attacked + self.step_length(radius) * gradient.sign()

    def step_length(self, radius):
        """Length of a step in [0, 1] units, a number or one a sample (B, 1, 1, 1)."""
        raise NotImplementedError

    def project(self, attacked, lq, radius):
        inside = torch.minimum(torch.maximum(attacked, lq - radius), lq + radius)
        return inside.clamp(0, 1) if self.clamp else inside


class IFGSM(LinfAttack):
    """Iterative fast gradient sign method (Kurakin et al. 2017), as in Yue et al. 2021.

    The step is ``eps / steps``. There is no random start, unless the objective has no gradient at the clean picture:
    then the start is uniform within half a step.
    """

    def step_length(self, radius):
        return radius / self.steps if self.step_size is None else self.step_size / 255

    def start_radius(self, radius):
        if self.random_start is not None:
            return self.random_start / 255
        return self.step_length(radius) / 2 if self.objective.needs_random_start else 0.0


class PGD(LinfAttack):
    """Projected gradient descent (Madry et al. 2018): random start in the whole ball, step ``2.5 eps / steps``."""

    def step_length(self, radius):
        return 2.5 * radius / self.steps if self.step_size is None else self.step_size / 255

    def start_radius(self, radius):
        return radius if self.random_start is None else self.random_start / 255
