"""Record a network as a graph of operations for the export formats."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.archs.defense import Defense
from rsr_basicsr.export.backbone import PLAIN_PROTECTION, WEIGHTS_ONLY
from rsr_basicsr.export.examples import example_images
from rsr_basicsr.ops.caching import for_any_size
from rsr_basicsr.ops.tiled import windows_of
from rsr_basicsr.utils.errors import ExportError, OptionsError, in_one_line
from rsr_basicsr.weights.spandrel_network import architecture_of

SMALLEST_SIDE = 16  # pixels; the classifiers pad smaller images
LARGEST_SIDE = 2**15  # pixels
LARGEST_BATCH = 2**10  # images
#: Names of the input and the output of a graph
INPUT, OUTPUT = 'input', 'output'

_LARGEST = 64 << 20  # pixels of an image


@dataclass(frozen=True)
class Graph:
    """A network and its recorded graph.

    Attributes:
        net: the network as recorded.
        program: the graph.
        size: height and width of the images; None for any.
        fresh_masks: whether the graph draws new masks in every run.
        examples: images for the verification, (B, 3, H, W) each.
        accepts: description of the images it accepts.
        protection: description of the protection it keeps.
        unverified: what the examples do not cover, or empty.
    """

    net: _OneInput
    program: ExportedProgram
    size: tuple[int, int] | None
    fresh_masks: bool
    examples: list[torch.Tensor]
    accepts: str
    protection: str
    unverified: str

    def expected(self, x: torch.Tensor) -> torch.Tensor:
        """The output of the network, computed by the same operations as the graph."""
        with torch.no_grad(), for_any_size():
            return self.net(x)


def record(
    net: nn.Module, *, gate: str | None = None, size: tuple[int, int] | None = None, seed: int | None = None
) -> Graph:
    """Record the graph of a network with the given gate and masks.

    Args:
        net: network on the CPU, in evaluation mode, with frozen parameters; it is not changed.
        gate, size, seed: as in :func:`rsr_basicsr.export.export`.

    Raises:
        OptionsError: the arguments do not fit the network.
        ExportError: the network cannot be recorded.
    """
    own_seed = net.defense.seed if isinstance(net, DefenseMixin) else None
    wrapped = _with_settings(net, gate, size, seed)
    defense = wrapped.net.defense if isinstance(wrapped.net, DefenseMixin) else None
    multiple = windows_of(wrapped)
    if size is not None and any(side % multiple or side < 1 for side in size):
        raise OptionsError(
            f'--size {size[0]} {size[1]}: {architecture_of(net)} needs sides that are positive multiples of '
            f'{multiple} pixels'
        )
    if size is not None and size[0] * size[1] > _LARGEST:
        raise OptionsError(
            f'--size {size[0]} {size[1]}: a graph for images of one size has at most {_LARGEST >> 20} million pixels; '
            'upscale larger images in tiles, or leave --size out'
        )
    deciding = defense if defense is not None and defense.gate not in ('always', 'never') else None
    examples = example_images(multiple, size, deciding)
    return Graph(
        wrapped,
        program=_program(wrapped, size, multiple),
        size=size,
        fresh_masks=defense is not None and defense.gate != 'never' and defense.seed is None,
        examples=examples,
        accepts=_accepts(size, multiple),
        protection=_protection(defense, own_seed),
        unverified='' if deciding is None else _unverified(deciding, examples),
    )


class _OneInput(nn.Module):
    """Gives the input of a network a fixed name, and checks that the output is one image."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        output = self.net(input)
        if not isinstance(output, torch.Tensor):
            raise TypeError(f'it returns a {type(output).__name__}, not one image')
        return output


def _folded(net: nn.Module) -> nn.Module:
    """Fold the convolutions of SPAN once: in evaluation it does so in every pass, which cannot be recorded."""
    for part in net.modules():
        if type(part).__name__ == 'Conv3XC':
            convolution: Any = part
            convolution.update_params()
            convolution.update_params = _nothing
    return net


def _nothing() -> None:
    pass


def _with_settings(net: Any, gate: str | None, size: tuple[int, int] | None, seed: int | None) -> _OneInput:
    """A wrapped copy of the network with the gate and the seed of the graph."""
    net = _folded(copy.deepcopy(net))
    if not isinstance(net, DefenseMixin):
        if (gate, seed) != (None, None):
            raise OptionsError(f'--gate and --seed are for defended networks; {architecture_of(net)} is not defended')
        return _OneInput(net)
    if seed is not None and seed < 0:
        raise OptionsError(f'--seed {seed}: expected 0 or more')
    defense = net.defense
    defense.gate = gate or defense.gate
    if seed is not None and size is None:
        raise OptionsError(
            f'--seed {seed}: the masks of a seed are for one size; add --size HEIGHT WIDTH, or omit --seed for new '
            'masks in every run'
        )
    if size is None or defense.gate == 'never':
        defense.seed = None
    elif seed is not None:
        defense.seed = seed
    return _OneInput(net)


def _program(net: _OneInput, size: tuple[int, int] | None, multiple: int) -> ExportedProgram:
    # torch.export treats sizes 0 and 1 as constants: use larger ones.
    height, width = size or (multiple * max(-(-side // multiple), least) for side, least in ((36, 2), (50, 3)))
    sample = torch.rand(1 if size else 2, 3, height, width)
    failures: list[Exception] = []
    for shapes in [None] if size else _any_sizes(multiple):
        try:
            with torch.no_grad(), for_any_size(), quiet():
                return torch.export.export(net, (sample,), dynamic_shapes=shapes, strict=False)
        except Exception as error:  # networks and torch.export raise errors of any type
            failures.append(error)
    what, remedy = 'any size', 'give --size HEIGHT WIDTH for one size'
    if size:
        what, remedy = f'{height}x{width}', 'try another size or --backbone'
    reason = in_one_line(failures[-1])[:200]
    raise ExportError(
        f'{type(net.net).__name__} cannot be recorded for images of {what}; {remedy} ({reason})'
    ) from failures[-1]


def _any_sizes(multiple: int) -> Iterator[tuple[dict[int, Any]]]:
    """Dynamic shapes that allow any size, the best first."""
    yield ({0: Dim('batch', max=LARGEST_BATCH), 2: _side('height', multiple), 3: _side('width', multiple)},)
    # torch must prove that named sides are unrestricted, at which torch 2.8 fails for max(1, width // 4 - 1). Unnamed
    # ones need no proof, but have no bounds in torch 2.6. Images of several sizes verify the graph either way.
    if multiple == 1 and callable(Dim.DYNAMIC):
        yield (
            {
                0: Dim.DYNAMIC(min=1, max=LARGEST_BATCH),
                **dict.fromkeys((2, 3), Dim.DYNAMIC(min=SMALLEST_SIDE, max=LARGEST_SIDE)),
            },
        )


def _side(name: str, multiple: int) -> Any:
    if multiple == 1:
        return Dim(name, min=SMALLEST_SIDE, max=LARGEST_SIDE)
    dim: Any = Dim(f'{name}_{multiple}', min=_smallest(multiple) // multiple, max=LARGEST_SIDE // multiple)
    return multiple * dim


def _smallest(multiple: int) -> int:
    return SMALLEST_SIDE if multiple == 1 else multiple * max(-(-SMALLEST_SIDE // multiple), 2)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress logging and warnings of the exporters within the block."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(previous)


def _accepts(size: tuple[int, int] | None, multiple: int) -> str:
    if size is not None:
        return f'one image of {size[0]}x{size[1]}'
    multiples = f', sides multiples of {multiple}' if multiple > 1 else ''
    smallest = _smallest(multiple)
    return f'images of any size and batch, at least {smallest}x{smallest}{multiples}'


def _protection(defense: Defense | None, own_seed: int | None) -> str:
    if defense is None:
        return PLAIN_PROTECTION
    if defense.gate == 'never':
        return WEIGHTS_ONLY
    masks = f'the masks of seed {defense.seed}, always the same'
    if defense.seed is None:
        masks = 'new masks in every run'
        if own_seed is not None:
            masks += f' (the masks of seed {own_seed} of the network need --size)'
    if defense.gate == 'always':
        return f'{masks}, on every image; no detector'
    threshold = defense.threshold_in_effect.item()
    if defense.gate == 'soft':
        return f'the detector and {masks}, blended by P(attacked)'
    return f'the detector (attacked if P(clean) < {threshold:.4f}) and {masks} on flagged images'


def _unverified(defense: Defense, examples: list[torch.Tensor]) -> str:
    """What the examples do not cover: both verdicts of the detector."""
    with torch.no_grad():
        attacked = torch.cat([defense.attacked(x) for x in examples])
    if defense.gate == 'soft' or bool(attacked.any()) != bool(attacked.all()):
        return ''
    return f'no image of the verification is classified as {"clean" if attacked.all() else "attacked"}'
