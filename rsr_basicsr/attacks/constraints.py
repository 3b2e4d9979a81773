"""Where a perturbation must stay: balls around the image, bands of its spectrum, and the 256 levels of an 8-bit image.

Constraints work on tensors of (B, C, H, W) and a radius per sample, (B, 1, 1, 1), in [0, 1] units.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch

from rsr_basicsr.ops.caching import constant_tensor
from rsr_basicsr.ops.frequency import dct2, filter_dct, radial_distance
from rsr_basicsr.ops.registry import TypeRegistry

QUANTIZE = ('nearest', 'floor', 'none')
#: The balls, by the name of ``norm``
NORMS = TypeRegistry('norm')
_TINY = torch.finfo(torch.float32).tiny
_NOTHING = 1e-3 / 255  # no 8-bit image can hold a perturbation of this size


class Constraint(Protocol):
    """What every constraint offers."""

    def project(self, delta: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
        """The nearest perturbation inside the ball."""
        ...

    def steepest(self, gradient: torch.Tensor) -> torch.Tensor:
        """The direction of size 1 in the norm along which the loss grows fastest."""
        ...

    def random(self, noise: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
        """A random perturbation inside the ball, from noise that is uniform in [-1, 1]."""
        ...

    def size(self, delta: torch.Tensor) -> torch.Tensor:
        """The norm of each perturbation, (B, 1, 1, 1)."""
        ...


@NORMS.register()
class Linf:
    """No value changes by more than the radius."""

    def project(self, delta: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
        return torch.minimum(torch.maximum(delta, -radius), radius)

    def steepest(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.sign()

    def random(self, noise: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
        return noise * radius

    def size(self, delta: torch.Tensor) -> torch.Tensor:
        return delta.abs().amax(dim=(1, 2, 3), keepdim=True)


@NORMS.register()
class L2:
    """The root mean square of the perturbation is at most the radius.

    This is the usual L2 norm divided by ``sqrt(C H W)``. A radius then means the same for images of any size, and is
    comparable with that of the L-inf ball, whose corners have it as their root mean square.
    """

    def project(self, delta: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
        return delta * (radius / self.size(delta).clamp_min(_TINY)).clamp(max=1)

    def steepest(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient / self.size(gradient).clamp_min(_TINY)

    def random(self, noise: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
        # In the many dimensions of an image, almost all of a ball's volume lies just below its surface.
        return self.steepest(noise) * radius

    def size(self, delta: torch.Tensor) -> torch.Tensor:
        # Scaled before it is squared: gradients can be as small as 1e-30.
        largest = delta.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(_TINY)
        return (delta / largest).square().mean(dim=(1, 2, 3), keepdim=True).sqrt() * largest


class Band:
    """Only DCT coefficients at a distance from the DC corner between ``low`` and ``high``, inside a ball.

    Args:
        ball: the norm of the ball.
        low, high: share of the diagonal ``sqrt(H^2 + W^2)``, as in the mask's ``keep_radius``.
    """

    leak = 1e-4  # share of a perturbation's energy that may lie outside the band

    def __init__(self, ball: Constraint, low: float, high: float) -> None:
        if not 0 <= low < high <= 1:
            raise ValueError(f'expected band [low, high] with 0 <= low < high <= 1, got {[low, high]}')
        self.ball, self.low, self.high = ball, low, high

    def project(self, delta: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
        return self.ball.project(delta, radius)

    def steepest(self, gradient: torch.Tensor) -> torch.Tensor:
        return self.ball.steepest(self.within(gradient))

    def random(self, noise: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
        return self.ball.random(noise, radius)

    def size(self, delta: torch.Tensor) -> torch.Tensor:
        return self.ball.size(delta)

    def within(self, delta: torch.Tensor) -> torch.Tensor:
        """The part of ``delta`` inside the band."""
        return filter_dct(delta, self._mask(delta)).to(delta.dtype)

    def outside(self, delta: torch.Tensor) -> torch.Tensor:
        """Share of the energy that lies outside the band, (B, 1, 1, 1); 0 for a zero perturbation."""
        energy = dct2(delta).square()
        total = energy.sum(dim=(1, 2, 3), keepdim=True)
        return (energy * (1 - self._mask(delta))).sum(dim=(1, 2, 3), keepdim=True) / total.clamp_min(_TINY)

    def _mask(self, delta: torch.Tensor) -> torch.Tensor:
        return _band(self.low, self.high, *delta.shape[-2:], delta.device)


@constant_tensor(maxsize=16)
def _band(low: float, high: float, height: int, width: int, device: torch.device) -> torch.Tensor:
    """1 where a DCT coefficient lies in the band, float32 (1, 1, H, W). Cached: each step needs it several times."""
    # On the host: whether there is any is asked before the device has begun.
    diagonal, distance = math.hypot(height, width), radial_distance(height, width)
    inside = (distance >= low * diagonal) & (distance <= high * diagonal)
    if not inside.any():
        raise ValueError(f'band [{low}, {high}] holds no DCT coefficient of a {height}x{width} image')
    return inside.float()[None, None].to(device)


def project(
    constraint: Constraint,
    image: torch.Tensor,
    lq: torch.Tensor,
    radius: torch.Tensor,
    clamp: bool = True,
    rounds: int = 10,
) -> torch.Tensor:
    """An image near ``image`` that is inside the ball around ``lq`` and, with ``clamp``, inside [0, 1].

    Neither step undoes the other: clamping brings values nearer to ``lq``. For a :class:`Band`, ``rounds`` rounds
    alternate with a projection to the band. It is relaxed by 1.7, which converges several times faster than plain
    alternating projection.
    """
    if isinstance(constraint, Band):
        for _ in range(rounds):
            delta = image - lq
            delta = constraint.project(delta + 1.7 * (constraint.within(delta) - delta), radius)
            image = (lq + delta).clamp(0, 1) if clamp else lq + delta
    image = lq + constraint.project(image - lq, radius)
    return image.clamp(0, 1) if clamp else image


def settle(
    constraint: Band, image: torch.Tensor, lq: torch.Tensor, radius: torch.Tensor, clamp: bool = True
) -> torch.Tensor:
    """Repeat :func:`project` until less than ``leak`` of each perturbation's energy lies outside the band.

    An image that leaves no room for such a perturbation, such as black and white noise, is returned unchanged.
    """
    done = torch.zeros_like(lq[:, :1, :1, :1], dtype=torch.bool)
    gone = done
    for _ in range(25):
        # Finished images stay as they are: the result of an image must not depend on the others.
        image = torch.where(done | gone, image, project(constraint, image, lq, radius, clamp, rounds=20))
        delta = image - lq
        gone = constraint.size(delta) < _NOTHING
        done = constraint.outside(delta) < constraint.leak / 2
        if (done | gone).all():
            break
    return torch.where(done & ~gone, image, lq)


def to_8_bit(
    attacked: torch.Tensor,
    lq: torch.Tensor,
    radius: torch.Tensor,
    rounding: Callable[[torch.Tensor], torch.Tensor] = torch.round,
) -> torch.Tensor:
    """Round to 8 bit without leaving the L-inf ball of ``radius``, in [0, 1] units, around ``lq``."""
    # The tolerance counts 12.0000004 / 255 as inside a ball that ends at level 12.
    low = ((lq - radius) * 255 - 1e-3).ceil()
    high = ((lq + radius) * 255 + 1e-3).floor()
    rounded = torch.minimum(torch.maximum(rounding(attacked * 255), low), high).clamp(0, 255) / 255
    # A ball smaller than a level, around a value between two levels, may hold no 8-bit value.
    return torch.where(low > high, lq, rounded)


def to_8_bit_inside(
    constraint: Constraint,
    attacked: torch.Tensor,
    lq: torch.Tensor,
    radius: torch.Tensor,
    rounding: Callable[[torch.Tensor], torch.Tensor] = torch.round,
) -> torch.Tensor:
    """Round to 8 bit without leaving the ball of any norm.

    Rounding can lengthen a perturbation; bisection then shortens it until its rounded form fits. If no rounded form
    fits, which takes a clean image with values between levels, that image is returned.
    """

    def rounded(share: torch.Tensor) -> torch.Tensor:
        return rounding((lq + share * (attacked - lq)) * 255).clamp(0, 255) / 255

    def fits(image: torch.Tensor) -> torch.Tensor:
        return constraint.size(image - lq) <= radius * (1 + 1e-4)

    low, high = torch.zeros_like(radius + lq[:, :1, :1, :1]), torch.ones_like(radius + lq[:, :1, :1, :1])
    best = torch.where(fits(rounded(low)), rounded(low), lq)
    for step in range(13):
        share = (low + high) / 2 if step else high
        candidate = rounded(share)
        inside = fits(candidate)
        best = torch.where(inside, candidate, best)
        low, high = torch.where(inside, share, low), torch.where(inside, high, share)
    return best
