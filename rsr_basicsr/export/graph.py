"""A network as a graph of operations: recorded once, for every form that takes one."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from dataclasses import dataclass

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.archs.defense import Defense
from rsr_basicsr.export.backbone import PLAIN_KEEPS
from rsr_basicsr.export.examples import example_images
from rsr_basicsr.ops.caching import for_any_size
from rsr_basicsr.ops.tiled import windows_of
from rsr_basicsr.utils.errors import ExportError, OptionsError, in_one_line

SMALLEST = 16  # pixels a side, what the classifiers take without continuing an image
LARGEST = 2**15
MOST = 2**10  # images at a time
#: Names of the input and the output of a graph
INPUT, OUTPUT = 'input', 'output'


@dataclass(frozen=True)
class Graph:
    """A network and the graph that was recorded of it.

    Attributes:
        net: as it was recorded.
        program: the graph.
        size: height and width of the images; None for any.
        fresh_masks: whether the graph draws masks.
        examples: images to compare by, (B, 3, H, W) each.
        takes: the images that it takes, in words.
        keeps: what protection it has, in words.
        unseen: what the examples do not show, in words.
    """

    net: nn.Module
    program: ExportedProgram
    size: tuple[int, int] | None
    fresh_masks: bool
    examples: list[torch.Tensor]
    takes: str
    keeps: str
    unseen: str

    def expected(self, x: torch.Tensor) -> torch.Tensor:
        """What the network makes of an image, by the same operations as the graph."""
        with torch.no_grad(), for_any_size():
            return self.net(x)


def record(
    net: nn.Module, *, gate: str | None = None, size: tuple[int, int] | None = None, seed: int | None = None
) -> Graph:
    """Record the graph of a network, with the gate and the masks that it is to have.

    Args:
        net: in evaluation mode, on the CPU, without gradients of parameters; it stays as it is.
        gate, size, seed: as of :func:`rsr_basicsr.export.export`.

    Raises:
        OptionsError: what was asked for makes no sense for this network.
        ExportError: it cannot be recorded.
    """
    own_seed = net.defense.seed if isinstance(net, DefenseMixin) else None
    net = _with_settings(net, gate, size, seed)
    defense = net.net.defense if isinstance(net.net, DefenseMixin) else None
    multiple = windows_of(net)
    if size is not None and any(side % multiple or side < 1 for side in size):
        raise OptionsError(
            f'--size {size[0]} {size[1]}: the sides of an image for this {type(net.net).__name__} are '
            f'multiples of {multiple} pixels, and at least that'
        )
    masks = defense is not None and defense.gate != 'never'
    by_classifier = masks and defense.gate != 'always'
    examples = example_images(multiple, size, defense if by_classifier else None)
    return Graph(
        net,
        program=_program(net, size, multiple),
        size=size,
        fresh_masks=masks and defense.seed is None,
        examples=examples,
        takes=_takes(size, multiple),
        keeps=_keeps(defense, own_seed),
        unseen=_unseen(defense, examples) if by_classifier else '',
    )


class _OneInput(nn.Module):
    """A network whose input has one name whatever its class calls it, and whose output is one image."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, input):  # noqa: A002 (the name that other programs see)
        output = self.net(input)
        if not isinstance(output, torch.Tensor):
            raise TypeError(f'it returns a {type(output).__name__}, not one image')
        return output


def _with_settings(net, gate, size, seed):
    net = copy.deepcopy(net)
    if not isinstance(net, DefenseMixin):
        if (gate, seed) != (None, None):
            raise OptionsError(f'--gate and --seed are for defended networks; this {type(net).__name__} is none')
        return _OneInput(net)
    if seed is not None and seed < 0:
        raise OptionsError(f'--seed {seed}: expected 0 or more')
    defense = net.defense
    defense.gate = gate or defense.gate
    if seed is not None and size is None:
        raise OptionsError(
            f'--seed {seed}: the masks of a seed are for one size; give it by --size HEIGHT WIDTH, or '
            'leave the seed out to have masks drawn at every run'
        )
    if size is None or defense.gate == 'never':
        defense.seed = None
    elif seed is not None:
        defense.seed = seed
    return _OneInput(net)


def _program(net, size, multiple):
    # Numbers that are 0 or 1 would be taken for constants.
    height, width = size or (multiple * max(-(-side // multiple), least) for side, least in ((36, 2), (50, 3)))
    sample = torch.rand(1 if size else 2, 3, height, width)
    for shapes in [None] if size else _any_sizes(multiple):
        try:
            with torch.no_grad(), for_any_size(), quiet():
                return torch.export.export(net, (sample,), dynamic_shapes=shapes, strict=False)
        except Exception as error:  # a network can do anything
            failure = error
    what, remedy = 'any size', 'give --size HEIGHT WIDTH for one size'
    if size:
        what, remedy = f'{height}x{width}', 'another size may do, or --backbone'
    raise ExportError(
        f'{type(net.net).__name__} cannot be recorded for images of {what}; {remedy} ({in_one_line(failure)[:200]})'
    ) from failure


def _any_sizes(multiple):
    """Ways to say that any size may come, the best first."""
    yield ({0: Dim('batch', max=MOST), 2: _side('height', multiple), 3: _side('width', multiple)},)
    # Sides with names have to be proven to be any, which torch 2.8 fails at for max(1, width // 4 - 1). Those without
    # need not be; what was recorded is verified by images of several sizes either way. torch 2.6 has no bounds there.
    if multiple == 1 and callable(Dim.DYNAMIC):
        yield ({0: Dim.DYNAMIC(min=1, max=MOST), **dict.fromkeys((2, 3), Dim.DYNAMIC(min=SMALLEST, max=LARGEST))},)


def _side(name, multiple):
    if multiple == 1:
        return Dim(name, min=SMALLEST, max=LARGEST)
    return multiple * Dim(f'{name}_{multiple}', min=_smallest(multiple) // multiple, max=LARGEST // multiple)


def _smallest(multiple):
    return SMALLEST if multiple == 1 else multiple * max(-(-SMALLEST // multiple), 2)


@contextlib.contextmanager
def quiet():
    """Within the block, what recorders say of their own workings goes nowhere."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(previous)


def _takes(size, multiple):
    if size is not None:
        return f'one image of {size[0]}x{size[1]}'
    multiples = f', sides of multiples of {multiple}' if multiple > 1 else ''
    smallest = _smallest(multiple)
    return f'images of any size and number, at least {smallest}x{smallest}{multiples}'


def _keeps(defense: Defense | None, own_seed: int | None) -> str:
    if defense is None:
        return PLAIN_KEEPS
    if defense.gate == 'never':
        return 'what the training put into the weights; no masks, no detector'
    masks = f'the masks of seed {defense.seed}, always the same'
    if defense.seed is None:
        masks = 'masks drawn at every run'
        if own_seed is not None:
            masks += f' (those of the seed {own_seed} of the network would be for one --size)'
    if defense.gate == 'always':
        return f'{masks}, on every image; no detector'
    threshold = defense.threshold_in_effect.item()
    if defense.gate == 'soft':
        return f'the detector and {masks}, blended by P(attacked)'
    return f'the detector, P(clean) below {threshold:.4f} being attacked, and {masks}, on the images it finds'


def _unseen(defense, examples):
    with torch.no_grad():
        attacked = torch.cat([defense.attacked(x) for x in examples])
    if defense.gate == 'soft' or bool(attacked.any()) != bool(attacked.all()):
        return ''
    return f'no image of the comparison counted as {"clean" if attacked.all() else "attacked"}'
