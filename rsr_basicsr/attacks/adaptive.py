"""Attacks that know the defence: past the detector, and through transforms without a gradient.

The rest of what they know is an argument of every attack: ``gate`` (straight-through, forced on, forced off) and
``eot_samples`` (expectation over the masks).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn

from rsr_basicsr.attacks.checks import check_images, check_radius, expect
from rsr_basicsr.attacks.gradient import PGD, to_unit
from rsr_basicsr.attacks.problem import Problem, worse
from rsr_basicsr.ops.tiled import defenses


class Evasion(NamedTuple):
    """What :class:`DetectorAware` found, sample by sample.

    Args:
        undetected: the strongest images that the detector takes for clean, (B, C, H, W); the clean image
            where there is none.
        overall: the strongest images whatever the detector says, (B, C, H, W).
        evaded: bool (B,), whether an undetected one was found.
    """

    undetected: torch.Tensor
    overall: torch.Tensor
    evaded: torch.Tensor


class DetectorAware(PGD):
    """PGD on the loss minus a weight times the detector's logit, for several weights (Carlini and Wagner 2017).

    Both gradients are scaled to an L1 norm of 1 first, so that a weight means the same for any image, radius and
    detector. The logit counts as long as the image is detected, and a margin longer. Of all images met, as they
    are after ``quantize``, the strongest one that is not detected is the result; where there is none, the
    strongest of all.

    Args:
        weights: what lambda goes through; each weight costs a whole PGD.
        margin: in units of the logit, how far past the detector's threshold the attack goes on to care for it.
        detector: maps images to a logit a sample, (B,), above 0 where they are taken for attacked; None is the
            network's own classifier, with its threshold.
        gate: as for every attack, but None is ``never`` where there is a gate, which is what the network does with an
            undetected image.
    """

    fixed = ('keep_best',)

    def __init__(
        self,
        *,
        weights: Sequence[float] = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0),
        margin: float = 0.5,
        detector: Callable[[torch.Tensor], torch.Tensor] | None = None,
        **common,
    ):
        super().__init__(**common)
        if not isinstance(weights, (list, tuple)) or not weights:
            raise ValueError(f'expected weights as a list of numbers, got {weights!r}')
        self.weights = tuple(expect('weights', weight, 0) for weight in weights)
        self.margin, self.detector = expect('margin', margin, 0), detector

    @property
    def compares_samples(self) -> bool:
        return True

    def gate_for(self, model):
        return self.gate or ('never' if defenses(model) else None)

    def evade(self, model, lq, target=None, *, eps=None, generator=None) -> Evasion:
        """As the call of an attack, but returns the undetected and the overall worst, and where there is which."""
        check_images(lq, target)
        check_radius(eps, lq)
        chosen, overall, evaded = self.results(model, lq, target, eps=eps, generator=generator)
        return Evasion(torch.where(evaded.view(-1, 1, 1, 1), chosen, lq), overall, evaded)

    def search(self, problem):
        detector = _checked(self.detector or own_detector(problem.model))
        undetected = overall = None
        for weight in self.weights * self.restarts:
            for loss, attacked in self._climb(problem, detector, weight):
                with torch.no_grad():
                    detected = ~(detector(problem.quantized(attacked)) <= 0)
                overall = worse(overall, (loss, attacked))
                undetected = worse(undetected, (loss.masked_fill(detected, -torch.inf), attacked))
        evaded = undetected[0] > -torch.inf
        chosen = torch.where(evaded.view(-1, 1, 1, 1), undetected[1], overall[1])
        return problem.finished(chosen), problem.finished(overall[1]), evaded

    def _climb(self, problem: Problem, detector, weight) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One PGD: the loss, (B,), and the images of every step."""
        attacked, state = self.start(problem), {}
        for _ in range(self.steps):
            gradient, loss = problem.uphill(attacked)
            yield loss, attacked
            x = attacked.detach().requires_grad_()
            caution = (detector(x) + self.margin).clamp(min=0)
            if not caution.requires_grad:
                raise ValueError('the detector has no gradient with respect to the image; wrap what has none in BPDA')
            (of_detector,) = torch.autograd.grad(caution.sum(), x)
            uphill = to_unit(gradient) - weight * to_unit(of_detector)
            attacked = problem.project(attacked + self.step(uphill, problem, state))
        yield problem.loss(attacked), attacked


def own_detector(model) -> Callable[[torch.Tensor], torch.Tensor]:
    """The classifier of a defended network: maps images to a logit, (B,), above 0 where it takes them for attacked.

    Raises:
        ValueError: the network has no defence, or its classifier has no gradient.
    """
    found = defenses(model)
    if not found:
        raise ValueError(f'{type(model).__name__} has no detector; DetectorAware needs a defended network, or detector')
    if not found[0].classifier.has_gradient:
        raise ValueError(
            f'DetectorAware: the detector of {type(model).__name__}, a '
            f'{type(found[0].classifier).__name__}, has no gradient; attack the network with gate: always '
            'or never, or by Square'
        )
    return found[0].logit


def _checked(detector):
    def one_per_image(x):
        logit = detector(x.clone())
        if logit.numel() != len(x):
            raise ValueError(f'expected one logit an image from the detector, got {tuple(logit.shape)} for {len(x)}')
        return logit.reshape(len(x))

    return one_per_image


class BPDA(nn.Module):
    """A transform that has no gradient, with the gradient of another one (Athalye et al. 2018).

    ``nn.Sequential(BPDA(jpeg), net)`` is a network that can be attacked through the codec.

    Args:
        transform: maps images to images, (B, C, H, W) in [0, 1]; its gradient, if any, is not asked for.
        surrogate: a differentiable stand-in for the way back; None is the identity, for which the shape must stay.
    """

    def __init__(
        self,
        transform: Callable[[torch.Tensor], torch.Tensor],
        surrogate: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):
        super().__init__()
        self.transform, self.surrogate = transform, surrogate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            transformed = self.transform(x.detach())
        if not (torch.is_grad_enabled() and x.requires_grad):
            return transformed
        stand_in = x if self.surrogate is None else self.surrogate(x)
        if stand_in.shape != transformed.shape:
            raise ValueError(
                f'BPDA: the transform makes {tuple(transformed.shape)}, its stand-in {tuple(stand_in.shape)}'
            )
        return _Replaced.apply(stand_in, transformed)


class _Replaced(torch.autograd.Function):
    """The value of the second tensor with the gradient of the first."""

    @staticmethod
    def forward(ctx, stand_in, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None
