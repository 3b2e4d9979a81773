"""Checks of arguments and images; each refusal is one sentence."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from typing import Any

import torch


def expect(
    name: str,
    value: Any,
    low: float,
    high: float = float('inf'),
    *,
    whole: bool = False,
    above: bool = False,
    optional: bool = False,
) -> Any:
    """Return the value if it is a number in [low, high] ((low, high] with ``above``), or None with ``optional``.

    Raises:
        ValueError: it is not.
    """
    if value is None and optional:
        return value
    kind = numbers.Integral if whole else numbers.Real
    if not isinstance(value, kind) or isinstance(value, bool) or not _inside(value, low, high, above):
        upper = f' and <= {high:g}' if high < float('inf') else ''
        raise ValueError(
            f'expected {name} {">" if above else ">="} {low:g}{upper}'
            f'{", a whole number" if whole else ""}, got {value!r}'
        )
    return value


def _inside(value: Any, low: float, high: float, above: bool) -> bool:
    return low <= value <= high and not (above and value == low)


def expect_one_of(name: str, value: Any, known: Iterable[str | None]) -> None:
    """Raise a ValueError if ``value`` is none of the words ``known``."""
    known = list(known)
    if not isinstance(value, (str, type(None))) or value not in known:
        raise ValueError(f'{name} must be one of {", ".join(filter(None, known))}, got {value!r}')


def expect_bool(name: str, value: Any) -> bool:
    """Return the value if it is true or false.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(value, bool):
        raise ValueError(f'expected {name} to be true or false, got {value!r}')
    return value


def check_clamp(value: Any) -> None:
    """Raise a ValueError if ``value`` is neither true, false nor ``end``."""
    if not isinstance(value, bool) and value != 'end':
        raise ValueError(f'expected clamp to be true, false or end, got {value!r}')


def check_images(lq: Any, target: Any) -> None:
    """Check that ``lq`` is a batch of images in [0, 1], and ``target`` None or a batch of the same length.

    Raises:
        ValueError: one sentence with the value.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError('attacks need gradients: call them outside torch.inference_mode()')
    _check_batch('lq', lq)
    if target is not None:
        _check_batch('target', target)
        if len(target) != len(lq):
            raise ValueError(f'expected as many targets as images, got {len(target)} for {len(lq)}')
    if lq.min() < 0 or lq.max() > 1:
        raise ValueError(
            f'expected lq in [0, 1], got values from {lq.min():.9g} to {lq.max():.9g}; clamp them, or '
            'divide 8-bit images by 255'
        )


def _check_batch(name: str, images: Any) -> None:
    if not isinstance(images, torch.Tensor) or images.dim() != 4 or not images.is_floating_point():
        given = f'{images.dtype} {tuple(images.shape)}' if hasattr(images, 'shape') else repr(images)
        raise ValueError(f'expected {name} as a tensor of floats (B, C, H, W) in [0, 1], got {given}')
    if images.numel() == 0:
        raise ValueError(f'{name} is empty: {tuple(images.shape)}')
    if not images.isfinite().all():
        raise ValueError(f'{name} holds values that are not numbers')


def check_radius(eps: Any, lq: torch.Tensor) -> None:
    """Check that ``eps`` is None or one radius per image, in 1/255.

    Raises:
        ValueError: one sentence with the value.
    """
    if eps is None:
        return
    if not isinstance(eps, torch.Tensor) or eps.shape != lq.shape[:1]:
        given = tuple(eps.shape) if isinstance(eps, torch.Tensor) else repr(eps)
        raise ValueError(f'expected eps as a tensor with a number for each of {len(lq)} images, got {given}')
    if not ((eps >= 0) & (eps <= 255)).all():
        raise ValueError(f'expected eps in 1/255 units, 0 to 255, got {eps.tolist()}')
