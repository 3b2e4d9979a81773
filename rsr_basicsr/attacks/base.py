"""The template of all attacks: an objective, a step, a constraint."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from rsr_basicsr.attacks.call import Call
from rsr_basicsr.attacks.checks import check_clamp, check_images, check_radius, expect, expect_bool, expect_one_of
from rsr_basicsr.attacks.constraints import NORMS, QUANTIZE
from rsr_basicsr.attacks.objectives import Objective, build_objective
from rsr_basicsr.attacks.problem import ATTACK_GATES, ATTACK_PRECISIONS, Generators, Problem, worse
from rsr_basicsr.attacks.restrictions import Shares, restrict
from rsr_basicsr.ops.registry import check_known, parameters_of
from rsr_basicsr.ops.tiled import OVERLAP

#: Settings that define how an attack's loss is evaluated
MEASURED = ('objective', 'eot_samples', 'tile', 'memory', 'overlap', 'precision', 'cuda_graph')
_ALWAYS_IN_REPR = ('eps', 'steps', 'queries', 'band', 'objective')


class Attack:
    """Base class of attacks. Subclasses implement :meth:`run`.

    Attacks work on any module that maps images to images. They leave no gradient on its parameters, restore its
    buffers, and do not change train or eval mode. Each sample is attacked on its own: its result does not depend on
    its batch.

    Args:
        eps: radius of the ball around the image, in 1/255.
        norm: ``Linf``, or ``L2``, where eps is the root mean square of the perturbation.
        objective: ``ground_truth``, ``ground_truth_l1``, ``stability``, ``target``, ``perceptual``, or an
            :class:`Objective`.
        restarts: number of independent starts; the best result per sample is kept.
        quantize: ``nearest`` rounds the result to 8 bit, as saving the image would, and stays inside the ball;
            ``floor`` rounds it down, as the published code does, which makes it 0.4 of a level darker; ``none``
            does not round.
        clamp: keep the images inside [0, 1]. ``end`` does so only when the attack is over, as the published code does
            in evaluation: until then they are inside the ball only. False never does, as the published code in
            training, and needs ``quantize: none``.
        region: what may change: [top, left, height, width] as shares of the image, or a mask (H, W), nonzero inside.
            Outside, the result equals ``lq`` bit by bit. None is the whole image.
        zero_mean: ``channel`` or ``image``: each channel of the perturbation, or all of it, has mean zero.
        gate: what the attack does with the gate of a defended network. ``straight_through`` gives the classifier's
            decision a gradient, ``always`` and ``never`` force it; None changes nothing.
        eot_samples: gradients and losses are means over this many passes: the expectation over the transformations
            of a network that draws masks or noise at random (EOT, Athalye et al. 2018).
        tile: attack larger images through tiles of this size, in pixels. The gradient is that of the whole image, as
            far as ``overlap`` reaches.
        memory: choose the tile so that a pass stays within this many GiB.
        overlap: pixels around a tile.
        precision: ``fp32`` or ``bf16``, of the network's passes.
        cuda_graph: on a GPU, record the network's passes for each shape of images and repeat them as a CUDA graph. That
            saves launches and keeps the memory of a pass. The gate must be forced; without ``tile`` and ``memory``.
        seed: makes the result a function of this number and the image alone, to the last bit on a CPU: images then
            pass one by one, and the network's random masks are seeded too.

    Raises:
        ValueError: a value is out of range; the message names it.
    """

    #: What the attack uses of the network under attack: its ``gradients``, its outputs (``queries``), or ``nothing``.
    uses = 'gradients'
    norms: tuple[str, ...] = tuple(NORMS)
    fixed: tuple[str, ...] = ()  # arguments of a parent class that this one does not take
    takes_start = False  # whether the caller may give the perturbation to begin at

    def __new__(cls, **arguments: Any) -> Attack:
        check_known(cls.__name__, arguments, cls.parameters())
        return super().__new__(cls)

    def __init__(
        self,
        *,
        eps: float = 8,
        norm: str = 'Linf',
        objective: str | Mapping[str, Any] | Objective = 'stability',
        restarts: int = 1,
        quantize: str = 'none',
        clamp: bool | str = True,
        region: Shares | None = None,
        zero_mean: str | None = None,
        gate: str | None = None,
        eot_samples: int = 1,
        tile: int | None = None,
        memory: float | None = None,
        overlap: int = OVERLAP,
        precision: str = 'fp32',
        cuda_graph: bool = False,
        seed: int | None = None,
    ) -> None:
        self.eps: float = expect('eps in 1/255 units', eps, 0, 255)
        choices: tuple[tuple[str, Any, Sequence[str | None]], ...] = (
            ('norm', norm, self.norms),
            ('quantize', quantize, QUANTIZE),
            ('gate', gate, (*ATTACK_GATES, None)),
            ('precision', precision, ATTACK_PRECISIONS),
        )
        for name, value, known in choices:
            expect_one_of(name, value, known)
        self.norm, self.quantize, self.gate, self.precision = norm, quantize, gate, precision
        self.restarts: int = expect('restarts', restarts, 1, whole=True)
        self.eot_samples: int = expect('eot_samples', eot_samples, 1, whole=True)
        self.tile: int | None = expect('tile', tile, 1, whole=True, optional=True)
        self.memory: float | None = expect('memory', memory, 0, above=True, optional=True)
        self.overlap: int = expect('overlap', overlap, 0, whole=True)
        self.seed: int | None = expect('seed', seed, 0, whole=True, optional=True)
        self.cuda_graph = expect_bool('cuda_graph', cuda_graph)
        if self.cuda_graph and (tile is not None or memory is not None):
            raise ValueError('cuda_graph: true is for whole images; leave tile and memory out')
        check_clamp(clamp)
        self.clamp = clamp
        if tile is not None and memory is not None:
            raise ValueError(f'tile: {tile} and memory: {memory} exclude each other; memory chooses the tile')
        if quantize != 'none' and not clamp:
            raise ValueError(f'quantize: {quantize} needs clamp: an 8-bit image has no values outside [0, 1]')
        self.region, self.zero_mean = region, zero_mean
        self.constraint = restrict(NORMS[norm](), region, zero_mean)
        self.objective = build_objective(objective)
        if not self.objective.per_sample:
            self._check_batch_loss()

    @property
    def compares_samples(self) -> bool:
        """Whether the attack needs the loss per sample, to keep the best result."""
        return True

    def _check_batch_loss(self) -> None:
        if self.compares_samples:
            raise ValueError(
                f'{self.objective} is one number per batch, but {type(self).__name__} compares samples; '
                'take IFGSM, MIFGSM or PGD, without keep_best and restarts'
            )
        if self.tile is not None or self.memory is not None or self.seed is not None:
            raise ValueError(f'{self.objective} is computed on a batch as a whole; leave tile, memory and seed out')

    def __call__(
        self,
        model: nn.Module,
        lq: torch.Tensor,
        target: torch.Tensor | None = None,
        *,
        eps: torch.Tensor | None = None,
        generator: Generators | None = None,
    ) -> torch.Tensor:
        """Attack images.

        Args:
            model: maps (B, C, H, W) to (B, C, sH, sW), value range [0, 1]; also an
                ``ImageModelDescriptor`` of spandrel.
            lq: the images, (B, C, H, W) in [0, 1].
            target: what the objective compares with, (B, C, sH, sW): the ground truth, the image to be reached, or
                for ``stability`` the clean output if it is not the model's own.
            eps: per-sample radius, (B,), in 1/255; overrides the attack's eps.
            generator: makes the random numbers of the attack repeatable; one for the batch, or one per sample.

        Returns:
            The attacked images, detached, (B, C, H, W), inside the ball and, except with ``clamp=False``, [0, 1].

        Raises:
            ValueError: the images, the target, the network's output or its gradient are invalid.
        """
        check_images(lq, target)
        check_radius(eps, lq)
        attacked = self.perturb(model, lq, target, eps=eps, generator=generator)
        if not attacked.isfinite().all():
            raise ValueError(
                f'the output or the gradient of {type(model).__name__} is not a number; '
                'a network in half precision needs precision: bf16'
            )
        return attacked

    def perturb(
        self,
        model: nn.Module,
        lq: torch.Tensor,
        target: torch.Tensor | None = None,
        *,
        eps: torch.Tensor | None = None,
        generator: Generators | None = None,
        start: torch.Tensor | None = None,
        first_gradient: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """:meth:`__call__` without the checks, which make the host wait for the device.

        Args:
            start: perturbations to begin at instead of the attack's own start, (B, C, H, W); only for attacks with
                ``takes_start``.
            first_gradient: gradient of the loss at the clean images, (B, C, H, W), which saves the passes of the first
                step; only for attacks without ``compares_samples``, and without a seed.
        """
        return self.results_of(Call(model, lq, target, eps, generator, start, first_gradient))[0]

    def results(
        self, model: nn.Module, lq: torch.Tensor, target: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """The result of :meth:`search`: the attacked images first, then what else it reports per sample."""
        return self.results_of(Call(model, lq, target))

    def results_of(self, call: Call) -> tuple[torch.Tensor, ...]:
        """As :meth:`results`; with a seed, samples are attacked one by one."""
        call = call._replace(lq=call.lq.detach())
        if self.seed is None:
            return self._results(call)
        if call.generator is not None:
            raise ValueError(f'seed: {self.seed} and a generator exclude each other')
        found = []
        for sample in call.samples():
            with sample.seeded(self.seed) as seeded:
                found.append(self._results(seeded))
        return tuple(map(torch.cat, zip(*found)))

    def _results(self, call: Call) -> tuple[torch.Tensor, ...]:
        radius = self.radius(call.lq, call.eps)
        with Problem.of(self, call.model, call.lq, call.target, radius, call.generator) as problem:
            problem.start, problem.first_gradient = call.start, call.first_gradient
            return self.search(problem)

    def radius(self, lq: torch.Tensor, eps: torch.Tensor | None = None) -> torch.Tensor:
        """Radius of the ball in [0, 1] units: (1, 1, 1, 1), or per sample (B, 1, 1, 1)."""
        kind = torch.promote_types(lq.dtype, torch.float32)
        if eps is None:  # made on the device: a copy from the host would wait for it
            return torch.full((1, 1, 1, 1), float(self.eps), dtype=kind, device=lq.device) / 255
        return eps.to(lq.device, kind).reshape(-1, 1, 1, 1) / 255

    def gate_for(self, model: nn.Module) -> str | None:
        """What the attack does with the gate of this network: one of :data:`ATTACK_GATES`, or None."""
        return self.gate

    @property
    def asks_for_loss(self) -> bool:
        """Whether the attack computes the loss of the network under attack at all."""
        return True

    def search(self, problem: Problem) -> tuple[torch.Tensor, ...]:
        """The strongest images of all restarts, per sample; subclasses may add further results."""
        worst: tuple[torch.Tensor, ...] | None = None
        for _ in range(self.restarts):
            worst = worse(worst, self.run(problem))
        return (problem.finished(cast(tuple[torch.Tensor, ...], worst)[1]),)

    def run(self, problem: Problem) -> tuple[torch.Tensor, ...]:
        """One start: the loss per sample, (B,), and the attacked images, inside the constraint."""
        raise NotImplementedError

    @classmethod
    def parameters(cls) -> dict[str, inspect.Parameter]:
        """The keyword arguments of the class, its own first."""
        return {name: parameter for name, parameter in parameters_of(cls).items() if name not in cls.fixed}

    @classmethod
    def from_options(
        cls, options: Mapping[str, Any], load_network: Callable[[Mapping[str, Any]], nn.Module] | None = None
    ) -> Attack:
        """Build the attack from the arguments of an options block; see :func:`rsr_basicsr.attacks.build_attack`.

        Raises:
            ValueError: the attack has no such argument, or a value is out of range.
        """
        return cls(**options)

    def but(self, **changes: Any) -> Attack:
        """A copy of the attack with some arguments changed."""
        return type(self)(**{**{name: getattr(self, name) for name in self.parameters()}, **changes})

    def __repr__(self) -> str:
        named = {
            name: getattr(self, name)
            for name, parameter in self.parameters().items()
            if name in _ALWAYS_IN_REPR or not _same(getattr(self, name), parameter.default)
        }
        named = {'eps': named.pop('eps'), **named}  # the most important one first
        return f'{type(self).__name__}({", ".join(f"{name}={_brief(value)}" for name, value in named.items())})'


def _same(value: Any, default: Any) -> bool:
    return value is default or (isinstance(value, (int, float, str, tuple)) and value == default)


def _brief(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f'tensor of {"x".join(map(str, value.shape))}'
    return type(value).__name__ if isinstance(value, nn.Module) else repr(value)
