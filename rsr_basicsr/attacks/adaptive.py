"""Attacks that know the defence: they evade the detector, and pass through transforms without a gradient.

Every attack takes the other adaptive settings as arguments: ``gate`` (straight-through, forced on, forced off) and
``eot_samples`` (expectation over the masks).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from rsr_basicsr.attacks.call import Call
from rsr_basicsr.attacks.checks import check_images, check_radius, expect
from rsr_basicsr.attacks.gradient import PGD, to_unit
from rsr_basicsr.attacks.problem import Generators, Problem, worse
from rsr_basicsr.attacks.registry import ATTACKS
from rsr_basicsr.ops.tiled import defenses

Detector = Callable[[torch.Tensor], torch.Tensor]


class Evasion(NamedTuple):
    """What :class:`DetectorAware` found, per sample.

    Args:
        undetected: the strongest undetected images, (B, C, H, W); the clean image where there is none.
        overall: the strongest images, detected or not, (B, C, H, W).
        evaded: bool (B,), whether an undetected image was found.
    """

    undetected: torch.Tensor
    overall: torch.Tensor
    evaded: torch.Tensor


@ATTACKS.register()
class DetectorAware(PGD):
    """PGD on the loss minus a weight times the detector's logit, for several weights (Carlini and Wagner 2017).

    Both gradients are first scaled to an L1 norm of 1, so that a weight means the same for any image, radius and
    detector. The logit counts while the image is detected, or evades by less than ``margin``. The result is the
    strongest image that is undetected after ``quantize``; if there is none, the strongest of all.

    Args:
        weights: the weights of the logit that are tried; each costs a full PGD.
        margin: logit by which an image must evade before the attack ignores the detector.
        detector: maps images to a logit per sample, (B,), above 0 for attacked; None is the network's own classifier,
            with its threshold.
        gate: as for every attack, but None is ``never`` on a network with a gate, which is what that network does with
            an undetected image.
    """

    fixed = ('keep_best',)

    def __init__(
        self,
        *,
        weights: Sequence[float] = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0),
        margin: float = 0.5,
        detector: Detector | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if not isinstance(weights, (list, tuple)) or not weights:
            raise ValueError(f'expected weights as a list of numbers, got {weights!r}')
        self.weights = tuple(expect('weights', weight, 0) for weight in weights)
        self.margin: float = expect('margin', margin, 0)
        self.detector = detector

    @property
    def compares_samples(self) -> bool:
        return True

    def gate_for(self, model: nn.Module) -> str | None:
        return self.gate or ('never' if defenses(model) else None)

    def evade(
        self,
        model: nn.Module,
        lq: torch.Tensor,
        target: torch.Tensor | None = None,
        *,
        eps: torch.Tensor | None = None,
        generator: Generators | None = None,
    ) -> Evasion:
        """Attack images, and return the undetected and the overall worst; arguments as in the attack's call."""
        check_images(lq, target)
        check_radius(eps, lq)
        chosen, overall, evaded = self.results_of(Call(model, lq, target, eps, generator))
        return Evasion(torch.where(evaded.view(-1, 1, 1, 1), chosen, lq), overall, evaded)

    def search(self, problem: Problem) -> tuple[torch.Tensor, ...]:
        detector = _checked(self.detector or own_detector(problem.model))
        undetected: tuple[torch.Tensor, ...] | None = None
        overall: tuple[torch.Tensor, ...] | None = None
        for weight in self.weights * self.restarts:
            for loss, attacked in self._climb(problem, detector, weight):
                with torch.no_grad():
                    detected = ~(detector(problem.quantized(attacked)) <= 0)
                overall = worse(overall, (loss, attacked))
                undetected = worse(undetected, (loss.masked_fill(detected, -torch.inf), attacked))
        assert undetected is not None and overall is not None  # there is at least one weight
        evaded = undetected[0] > -torch.inf
        chosen = torch.where(evaded.view(-1, 1, 1, 1), undetected[1], overall[1])
        return problem.finished(chosen), problem.finished(overall[1]), evaded

    def _climb(
        self, problem: Problem, detector: Detector, weight: float
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One PGD: the loss, (B,), and the images of every step."""
        attacked = self.start(problem)
        state: dict[str, Any] = {}
        for _ in range(self.steps):
            gradient, loss = problem.uphill(attacked)
            yield loss, attacked
            x = attacked.detach().requires_grad_()
            penalty = (detector(x) + self.margin).clamp(min=0)
            if not penalty.requires_grad:
                raise ValueError('the detector has no gradient with respect to the image; wrap what has none in BPDA')
            (of_detector,) = torch.autograd.grad(penalty.sum(), x)
            uphill = to_unit(gradient) - weight * to_unit(of_detector)
            attacked = problem.project(attacked + self.step(uphill, problem, state))
        yield problem.loss(attacked), attacked


def own_detector(model: nn.Module) -> Detector:
    """The classifier of a defended network: maps images to a logit per sample, (B,), above 0 for attacked.

    Raises:
        ValueError: the network has no defence, or its classifier has no gradient.
    """
    found: list[Any] = defenses(model)
    if not found:
        raise ValueError(f'{type(model).__name__} has no detector; DetectorAware needs a defended network, or detector')
    if not found[0].classifier.has_gradient:
        raise ValueError(
            f'DetectorAware: the detector of {type(model).__name__}, a '
            f'{type(found[0].classifier).__name__}, has no gradient; attack the network with gate: always '
            'or never, or by Square'
        )
    return found[0].logit


def _checked(detector: Detector) -> Detector:
    def one_per_image(x: torch.Tensor) -> torch.Tensor:
        logit = detector(x.clone())
        if logit.numel() != len(x):
            raise ValueError(f'expected one logit per image from the detector, got {tuple(logit.shape)} for {len(x)}')
        return logit.reshape(len(x))

    return one_per_image


class BPDA(nn.Module):
    """A transform that has no gradient, with the gradient of another one (Athalye et al. 2018).

    ``nn.Sequential(BPDA(jpeg), net)`` is a network that can be attacked through the codec.

    Args:
        transform: maps images to images, (B, C, H, W) in [0, 1]; its own gradient, if any, is not used.
        surrogate: differentiable substitute for the backward pass; None is the identity, which needs a transform that
            keeps the shape.
    """

    def __init__(
        self,
        transform: Callable[[torch.Tensor], torch.Tensor],
        surrogate: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.transform, self.surrogate = transform, surrogate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            transformed = self.transform(x.detach())
        if not (torch.is_grad_enabled() and x.requires_grad):
            return transformed
        substitute = x if self.surrogate is None else self.surrogate(x)
        if substitute.shape != transformed.shape:
            raise ValueError(
                f'BPDA: the transform makes {tuple(transformed.shape)}, its surrogate {tuple(substitute.shape)}'
            )
        return _Replaced.apply(substitute, transformed)


class _Replaced(torch.autograd.Function):
    """The value of the second tensor with the gradient of the first."""

    @staticmethod
    def forward(ctx: Any, substitute: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None
