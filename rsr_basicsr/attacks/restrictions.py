"""Restrictions of a perturbation inside its ball: to a region of the image, and to mean zero.

Like the balls of :mod:`rsr_basicsr.attacks.constraints`, restrictions work on tensors of (B, C, H, W) and a radius per
sample, (B, 1, 1, 1), in [0, 1] units. They wrap a ball: ``ZeroMean(Region(Linf(), ...), ...)``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsr_basicsr.attacks.checks import expect, expect_one_of
from rsr_basicsr.attacks.constraints import Band, Constraint, Linf

ZERO_MEANS = ('channel', 'image')
_HALVINGS = 40  # bisection steps, after which float32 cannot tell the ends of the interval apart
_ROUNDS = 256  # the most levels that a value can go back by

Shares = Sequence[float] | torch.Tensor


class Restriction:
    """A ball whose perturbations are restricted by :meth:`within`."""

    def __init__(self, ball: Constraint) -> None:
        self.ball = ball

    def within(self, delta: torch.Tensor) -> torch.Tensor:
        """The part of ``delta`` that the restriction allows."""
        raise NotImplementedError

    def project(self, delta: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
        return self.ball.project(self.within(delta), radius)

    def steepest(self, gradient: torch.Tensor) -> torch.Tensor:
        return self.ball.steepest(self.within(gradient))

    def random(self, noise: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
        return self.ball.random(self.within(noise), radius)

    def size(self, delta: torch.Tensor) -> torch.Tensor:
        return self.ball.size(delta)


class Region(Restriction):
    """The perturbation is zero outside a region, which is the same in every image of a batch.

    The ball remains that of the whole image: for ``L2``, eps is the root mean square over all pixels, so a small
    region may change by more.

    Args:
        ball: the norm of the ball.
        region: [top, left, height, width] as shares of the image, rounded to whole pixels, or a mask (H, W) or
            (1, 1, H, W) of numbers or booleans, nonzero inside.

    Raises:
        ValueError: it is neither, reaches beyond the image, or is empty.
    """

    def __init__(self, ball: Constraint, region: Shares) -> None:
        super().__init__(ball)
        self.region = _checked_mask(region) if isinstance(region, torch.Tensor) else _checked_shares(region)

    def mask(self, x: torch.Tensor) -> torch.Tensor:
        """True inside the region, bool (1, 1, H, W) for images (B, C, H, W).

        Raises:
            ValueError: the mask and the images differ in size, or the shares hold no pixel of the images.
        """
        height, width = x.shape[-2:]
        if isinstance(self.region, torch.Tensor):
            if self.region.shape[-2:] != x.shape[-2:]:
                raise ValueError(
                    f'region: the mask is {self.region.shape[-2]}x{self.region.shape[-1]}, the images are '
                    f'{height}x{width}; give a mask of their size, or shares [top, left, height, width]'
                )
            return self.region.to(x.device)
        top, left, tall, wide = self.region
        rows, columns = (
            slice(round(begin * size), round((begin + length) * size))
            for begin, length, size in ((top, tall, height), (left, wide, width))
        )
        if rows.start >= rows.stop or columns.start >= columns.stop:
            raise ValueError(f'region: {list(self.region)} holds no pixel of a {height}x{width} image')
        inside = torch.zeros(1, 1, height, width, dtype=torch.bool, device=x.device)
        inside[..., rows, columns] = True
        return inside

    def within(self, delta: torch.Tensor) -> torch.Tensor:
        return torch.where(self.mask(delta), delta, 0)


class ZeroMean(Restriction):
    """The perturbation has mean zero, so a shift of colour or brightness is no effect of the attack.

    The mean is zero to within :attr:`tolerance` before ``quantize``. After it, the values of a group sum to less than
    a level, and to exactly zero where the clean image is 8 bit.

    Args:
        ball: the norm of the ball, or a :class:`Region` of one, in which the mean is then taken.
        over: ``channel``: of each channel; ``image``: of all values of an image.
    """

    tolerance = 1e-6  # in [0, 1] units

    def __init__(self, ball: Constraint, over: str) -> None:
        super().__init__(ball)
        expect_one_of('zero_mean', over, ZERO_MEANS)
        self.dims = (2, 3) if over == 'channel' else (1, 2, 3)

    def within(self, delta: torch.Tensor) -> torch.Tensor:
        mask = self._mask(delta)
        mean = (delta * mask).sum(self.dims, keepdim=True) / mask.expand_as(delta).sum(self.dims, keepdim=True)
        return (delta - mean) * mask

    def steepest(self, gradient: torch.Tensor) -> torch.Tensor:
        # With L-inf, half of the values rise and half fall, depending on their side of the median.
        if not isinstance(innermost(self), Linf):
            return super().steepest(gradient)
        mask = self._mask(gradient)
        values = torch.where(mask, gradient, torch.nan).flatten(self.dims[0])
        median = values.nanmedian(dim=-1).values
        return self.ball.steepest((gradient - median.view(*median.shape, *[1] * len(self.dims))) * mask)

    def fit(self, image: torch.Tensor, lq: torch.Tensor, radius: torch.Tensor, clamp: bool = True) -> torch.Tensor:
        """An image near ``image`` whose perturbation has mean zero, inside the ball and, with ``clamp``, [0, 1].

        Between given bounds, the nearest perturbation of mean zero is the original minus a constant, clipped. The L2
        ball then scales it, which keeps both the bounds and the mean.
        """
        mask, delta = self._mask(lq), image - lq
        bound = radius if isinstance(innermost(self), Linf) else torch.full_like(radius, 2.0)
        low, high = (-bound).expand_as(delta), bound.expand_as(delta)
        if clamp:
            low, high = torch.maximum(low, -lq), torch.minimum(high, 1 - lq)
        low, high, delta = low * mask, high * mask, delta * mask
        below, above = delta.amin(self.dims, keepdim=True), delta.amax(self.dims, keepdim=True)
        for _ in range(_HALVINGS):
            shift = (below + above) / 2
            too_high = torch.clamp(delta - shift, low, high).sum(self.dims, keepdim=True) > 0
            below, above = torch.where(too_high, shift, below), torch.where(too_high, above, shift)
        image = lq + self.ball.project(torch.clamp(delta - (below + above) / 2, low, high), radius)
        return image.clamp(0, 1) if clamp else image

    def rebalanced(self, rounded: torch.Tensor, wanted: torch.Tensor, lq: torch.Tensor) -> torch.Tensor:
        """Restore the mean of zero that rounding ``wanted`` to 8 bit has lost.

        Values go back by a level towards the clean image, which leaves no ball: first those that rounding moved most.
        """
        begin = self.dims[0]
        for _ in range(_ROUNDS):
            levels = (rounded - lq) * 255
            excess = levels.sum(self.dims, keepdim=True).round()
            sign = excess.sign()
            movable = levels * sign >= 0.5
            moved = torch.where(movable, (rounded - wanted) * sign, -torch.inf).flatten(begin)
            rank = moved.argsort(dim=-1, descending=True).argsort(dim=-1).view_as(levels)
            moves = movable & (rank < excess.abs())
            if lq.device.type == 'cpu' and not moves.any():  # a GPU is faster with a round in vain than with waiting
                break
            rounded = torch.where(moves, ((rounded * 255).round() - sign) / 255, rounded)
        return rounded

    def _mask(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.ball, Region):
            return self.ball.mask(x)
        return torch.ones(1, 1, *x.shape[-2:], dtype=torch.bool, device=x.device)


def restrict(ball: Constraint, region: Shares | None, zero_mean: str | None) -> Constraint:
    """Apply restrictions to a ball.

    Args:
        ball: one of :data:`rsr_basicsr.attacks.constraints.NORMS`.
        region: see :class:`Region`; None is the whole image.
        zero_mean: see :class:`ZeroMean`; None leaves the mean free.

    Raises:
        ValueError: a value is invalid.
    """
    constraint: Constraint = ball if region is None else Region(ball, region)
    return constraint if zero_mean is None else ZeroMean(constraint, zero_mean)


def innermost(constraint: Constraint) -> Constraint:
    """The ball inside restrictions and bands."""
    while isinstance(constraint, (Band, Restriction)):
        constraint = constraint.ball
    return constraint


def allowed(constraint: Constraint, gradient: torch.Tensor) -> torch.Tensor:
    """The part of a gradient that the restrictions allow, (B, C, H, W)."""
    return constraint.within(gradient) if isinstance(constraint, Restriction) else gradient


def region_of(constraint: Constraint) -> Region | None:
    """The region that a constraint keeps to, if any."""
    while not isinstance(constraint, Region):
        if not isinstance(constraint, (Band, Restriction)):
            return None
        constraint = constraint.ball
    return constraint


def extent(constraint: Constraint, x: torch.Tensor) -> tuple[range, range]:
    """The rows and columns of images (B, C, H, W) that may change."""
    region = region_of(constraint)
    if region is None:
        return range(x.shape[-2]), range(x.shape[-1])
    mask = region.mask(x)[0, 0]
    rows, columns = (mask.any(dim=dim).nonzero().flatten().tolist() for dim in (1, 0))
    return range(rows[0], rows[-1] + 1), range(columns[0], columns[-1] + 1)


def restored(constraint: Constraint, rounded: torch.Tensor, wanted: torch.Tensor, lq: torch.Tensor) -> torch.Tensor:
    """Reapply the restrictions of ``constraint`` to ``rounded``, the 8-bit version of the images ``wanted``."""
    region = region_of(constraint)
    if region is not None:
        rounded = torch.where(region.mask(lq), rounded, lq)
    return constraint.rebalanced(rounded, wanted, lq) if isinstance(constraint, ZeroMean) else rounded


def _checked_shares(region: object) -> tuple[float, ...]:
    if not isinstance(region, (list, tuple)) or len(region) != 4:
        raise ValueError(
            'expected region as [top, left, height, width], shares of the image in [0, 1], or as a mask '
            f'(H, W), got {region!r}'
        )
    top, left, height, width = (expect('region', share, 0, 1) for share in region)
    if not (height and width) or max(top + height, left + width) > 1 + 1e-6:
        raise ValueError(
            'expected region [top, left, height, width] with height and width above 0, top + height and '
            f'left + width at most 1, got {list(region)}'
        )
    return top, left, height, width


def _checked_mask(region: torch.Tensor) -> torch.Tensor:
    if region.dim() not in (2, 4) or (region.dim() == 4 and region.shape[:2] != (1, 1)):
        raise ValueError(f'expected the mask of region as (H, W) or (1, 1, H, W), got {tuple(region.shape)}')
    mask = (region != 0).view(1, 1, *region.shape[-2:])
    if not mask.any():
        raise ValueError('the mask of region is zero everywhere; it marks with nonzero values what may change')
    return mask
