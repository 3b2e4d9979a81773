"""The template of all attacks: an objective, a step, a constraint."""

from __future__ import annotations

import difflib
import inspect
import zlib
from collections.abc import Callable, Mapping

import torch
from torch import nn

from rsr_basicsr.attacks.checks import check_clamp, check_images, check_radius, expect, expect_bool, expect_one_of
from rsr_basicsr.attacks.constraints import NORMS, QUANTIZE
from rsr_basicsr.attacks.objectives import Objective, build_objective
from rsr_basicsr.attacks.problem import GATES, PRECISIONS, Generators, Problem, worse
from rsr_basicsr.attacks.restrictions import Shares, restrict
from rsr_basicsr.ops.tiled import OVERLAP

#: By what the loss of an attack is measured
MEASURED = ('objective', 'eot_samples', 'tile', 'memory', 'overlap', 'precision')


class Attack:
    """What all attacks share. Subclasses fill in :meth:`run`.

    Attacks work on any module that maps images to images. They leave no gradient on its parameters, its buffers
    as they were, and train and eval mode alone. Each sample is attacked on its own: its result does not depend on
    its batch.

    Args:
        eps: radius of the ball around the image, in 1/255.
        norm: ``Linf``, or ``L2``, where eps is the root mean square of the perturbation.
        objective: ``ground_truth``, ``ground_truth_l1``, ``stability``, ``target``, ``perceptual``, or an
            :class:`Objective`.
        restarts: number of independent starts; the best result of each sample is kept.
        quantize: ``nearest`` rounds the result to 8 bit, still inside the ball, as a stored image would be;
            ``floor`` rounds it down, as the published code does, which makes it 0.4 of a level darker; ``none``
            leaves it as it is.
        clamp: keep the images inside [0, 1]; ``end`` does so when the attack is over, as the published code does in
            evaluation: until then they are inside the ball only. False keeps them inside the ball only, as the
            published code does in training, and needs ``quantize`` to be ``none``.
        region: what may change: [top, left, height, width] as shares of the image, or a mask (H, W), nonzero inside.
            Outside the result is equal to ``lq`` bit by bit. None is the whole image.
        zero_mean: ``channel`` or ``image``: each channel of the perturbation, or all of it, has mean zero.
        gate: of a defended network, while it is attacked: ``straight_through`` gives the classifier's decision a
            gradient, ``always`` and ``never`` take the decision from it; None leaves it as it is.
        eot_samples: gradients and losses are means over this many passes: the expectation over the transformations
            of a network that draws masks or noise at random (EOT, Athalye et al. 2018).
        tile: attack larger images through tiles of this size, in pixels; the gradient is that of the whole image,
            as far as ``overlap`` reaches.
        memory: chooses the tile so that a pass keeps within this many GiB.
        overlap: pixels around a tile.
        precision: ``fp32`` or ``bf16``, of the network's passes.
        seed: makes the result of an image a function of this number and the image alone, to the last bit on a CPU:
            images then pass one by one. Random masks of the network are seeded too.

    Raises:
        ValueError: a value out of its range; the sentence names it.
    """

    #: What the attack uses of the network under attack: its ``gradients``, its outputs (``queries``), or ``nothing``.
    uses = 'gradients'
    norms: tuple[str, ...] = tuple(NORMS)
    fixed: tuple[str, ...] = ()  # arguments of a parent class that this one does not take
    takes_start = False  # whether it can begin at a perturbation that the caller gives

    def __new__(cls, **arguments):
        known = cls.parameters()
        for name in arguments:
            if name not in known:
                close = difflib.get_close_matches(str(name), known, n=1)
                raise ValueError(
                    f'{cls.__name__} has no {name!r}; '
                    + (f'did you mean {close[0]!r}?' if close else f'it has {", ".join(known)}')
                )
        return super().__new__(cls)

    def __init__(
        self,
        *,
        eps: float = 8,
        norm: str = 'Linf',
        objective: str | Objective = 'stability',
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
        seed: int | None = None,
    ):
        expect('eps in 1/255 units', eps, 0, 255)
        for name, value, known in (
            ('norm', norm, self.norms),
            ('quantize', quantize, QUANTIZE),
            ('gate', gate, (*GATES, None)),
            ('precision', precision, PRECISIONS),
        ):
            expect_one_of(name, value, known)
        for name, value in (('restarts', restarts), ('eot_samples', eot_samples)):
            expect(name, value, 1, whole=True)
        expect('tile', tile, 1, whole=True, optional=True)
        expect('memory', memory, 0, above=True, optional=True)
        expect('overlap', overlap, 0, whole=True)
        expect('seed', seed, 0, whole=True, optional=True)
        check_clamp(clamp)
        if tile is not None and memory is not None:
            raise ValueError(f'tile: {tile} and memory: {memory} exclude each other; memory chooses the tile')
        if quantize != 'none' and not clamp:
            raise ValueError(f'quantize: {quantize} needs clamp: an 8-bit image has no values outside [0, 1]')
        self.eps, self.norm, self.region, self.zero_mean = eps, norm, region, zero_mean
        self.constraint = restrict(NORMS[norm](), region, zero_mean)
        self.objective = build_objective(objective)
        self.restarts, self.quantize, self.clamp, self.gate, self.eot_samples = (
            restarts,
            quantize,
            clamp,
            gate,
            eot_samples,
        )
        self.tile, self.memory, self.overlap, self.precision, self.seed = tile, memory, overlap, precision, seed
        if not self.objective.per_sample:
            self._check_batch_loss()

    @property
    def compares_samples(self) -> bool:
        """Whether the attack needs the loss of each sample, to keep the best of what it met."""
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
        generator: Generators = None,
    ) -> torch.Tensor:
        """Attack images.

        Args:
            model: maps (B, C, H, W) to (B, C, sH, sW), value range [0, 1].
            lq: the images, (B, C, H, W) in [0, 1].
            target: what the objective compares with, (B, C, sH, sW): the ground truth, the image to be reached, or
                for ``stability`` the clean output if it is not the model's own.
            eps: a radius a sample, (B,), in 1/255, instead of the attack's one.
            generator: makes the random numbers of the attack repeatable; one for the batch, or one a sample.

        Returns:
            The attacked images, detached, (B, C, H, W), inside the ball and, but for ``clamp=False``, [0, 1].

        Raises:
            ValueError: the images, the target, the network's output or its gradient are not what they should be.
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
        self, model, lq, target=None, *, eps=None, generator=None, start=None, first_gradient=None
    ) -> torch.Tensor:
        """:meth:`__call__` without the checks, which make the host wait for the device.

        Args:
            start: perturbations to begin at instead of the attack's own start, (B, C, H, W); only of attacks with
                ``takes_start``.
            first_gradient: gradient of the loss at the clean images, (B, C, H, W), which saves the first step its
                passes; only of attacks without ``compares_samples``, and without a seed.
        """
        if first_gradient is None:
            return self.results(model, lq, target, eps=eps, generator=generator, start=start)[0]
        return self._results(model, lq.detach(), target, eps, generator, start, first_gradient)[0]

    def results(self, model, lq, target=None, *, eps=None, generator=None, start=None) -> tuple[torch.Tensor, ...]:
        """What :meth:`search` finds: the attacked images first, then whatever else it reports of each sample."""
        lq = lq.detach()
        if self.seed is None:
            return self._results(model, lq, target, eps, generator, start)
        if generator is not None:
            raise ValueError(f'seed: {self.seed} and a generator exclude each other')
        samples = zip(lq.split(1), *([None] * len(lq) if x is None else x.split(1) for x in (target, eps, start)))
        return tuple(map(torch.cat, zip(*(self._seeded(model, *sample) for sample in samples))))

    def _seeded(self, model, lq, target, eps, start):
        seed = zlib.crc32((lq * 255).round().to('cpu', torch.uint8).numpy().tobytes(), self.seed)
        with torch.random.fork_rng(devices=[lq.device] if lq.is_cuda else []):
            torch.manual_seed(seed)
            return self._results(model, lq, target, eps, torch.Generator().manual_seed(seed), start)

    def _results(self, model, lq, target, eps, generator, start=None, first_gradient=None):
        with Problem.of(self, model, lq, target, self.radius(lq, eps), generator) as problem:
            problem.start, problem.first_gradient = start, first_gradient
            return self.search(problem)

    def radius(self, lq: torch.Tensor, eps: torch.Tensor | None = None) -> torch.Tensor:
        """Radius of the ball in [0, 1] units, one for all or one a sample: (1, 1, 1, 1) or (B, 1, 1, 1)."""
        eps = torch.tensor(float(self.eps)) if eps is None else eps
        kind = torch.promote_types(lq.dtype, torch.float32)
        return eps.to(lq.device, kind).reshape(-1, 1, 1, 1) / 255

    def gate_for(self, model) -> str | None:
        """How the attack sees the gate of that network."""
        return self.gate

    @property
    def asks_for_loss(self) -> bool:
        """Whether the attack uses the network at all."""
        return True

    def search(self, problem: Problem) -> tuple[torch.Tensor, ...]:
        """The strongest images of all restarts, sample by sample."""
        worst = None
        for _ in range(self.restarts):
            worst = worse(worst, self.run(problem))
        return (problem.finished(worst[1]),)

    def run(self, problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
        """One start: the loss of each sample, (B,), and the attacked images, inside the constraint."""
        raise NotImplementedError

    @classmethod
    def parameters(cls) -> dict[str, inspect.Parameter]:
        """The keyword arguments of the class, its own first."""
        found: dict[str, inspect.Parameter] = {}
        for parent in cls.__mro__:
            if '__init__' not in vars(parent):
                continue
            own = inspect.signature(parent.__init__).parameters
            for name, parameter in own.items():
                if parameter.kind is parameter.KEYWORD_ONLY and name not in cls.fixed:
                    found.setdefault(name, parameter)
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
                return found  # nothing is handed on to the next parent
        return found

    @classmethod
    def from_options(cls, options: Mapping, load_network: Callable[[Mapping], nn.Module] | None = None) -> Attack:
        """The attack of the keyword arguments in an options block; see :func:`rsr_basicsr.attacks.build_attack`.

        Raises:
            ValueError: the attack has no such argument, or the value is out of range.
        """
        return cls(**options)

    def but(self, **changes) -> Attack:
        """The same attack with some arguments changed."""
        return type(self)(**{**{name: getattr(self, name) for name in self.parameters()}, **changes})

    def __repr__(self) -> str:
        always = ('eps', 'steps', 'queries', 'band', 'objective')
        shown = {
            name: getattr(self, name)
            for name, parameter in self.parameters().items()
            if name in always or not _same(getattr(self, name), parameter.default)
        }
        shown = {'eps': shown.pop('eps'), **shown}  # what is asked for first
        return f'{type(self).__name__}({", ".join(f"{name}={_brief(value)}" for name, value in shown.items())})'


class GradientAttack(Attack):
    """An attack that follows the gradient of the loss with respect to the image, in a fixed number of steps.

    The loop is here; subclasses say how long a step is, where it starts, and which way it goes.

    Args:
        steps: number of gradient steps.
        step_size: length of a step in 1/255; None takes the attack's own rule.
        random_start: radius of the random start in 1/255; None takes the attack's own rule.
        keep_best: return the strongest image met, at the price of one more pass; False returns the last one.
            Restarts always do.
    """

    takes_start = True

    def __init__(
        self,
        *,
        steps: int = 10,
        step_size: float | None = None,
        random_start: float | None = None,
        keep_best: bool = False,
        **common,
    ):
        self.keep_best = expect_bool('keep_best', keep_best)
        super().__init__(**common)
        expect('steps', steps, 1, whole=True)
        expect('random_start', random_start, 0, 255, optional=True)
        expect('step_size', step_size, 0, above=True, optional=True)
        if random_start == 0 and self.objective.needs_random_start:
            raise ValueError(f'{self.objective} has no gradient at the clean image; it needs random_start > 0')
        self.steps, self.step_size, self.random_start = steps, step_size, random_start
        self.keep_best = keep_best or self.restarts > 1

    @property
    def compares_samples(self) -> bool:
        return self.keep_best or self.restarts > 1

    def run(self, problem):
        attacked = self.start(problem)
        best, state = None, {}
        for _ in range(self.steps):
            gradient, loss = problem.uphill(attacked)
            if self.keep_best:
                best = worse(best, (loss, attacked))
            attacked = problem.project(attacked + self.step(gradient, problem, state))
        if not self.keep_best:
            return loss, attacked
        return worse(best, (problem.loss(attacked), attacked))

    def start(self, problem: Problem) -> torch.Tensor:
        """Where the loop begins: where the caller wants the first one to, and by the attack's own rule."""
        if problem.start is not None:
            start, problem.start = problem.start, None
            return problem.project(problem.lq + start.to(problem.lq))
        return problem.near(self.start_radius(problem.radius))

    def step(self, gradient: torch.Tensor, problem: Problem, state: dict) -> torch.Tensor:
        """What is added to the images; ``state`` is the attack's own during one run."""
        return self.step_length(problem.radius) * problem.constraint.steepest(gradient)

    def step_length(self, radius):
        """Length of a step in [0, 1] units, a number or one a sample (B, 1, 1, 1)."""
        return self.own_step(radius) if self.step_size is None else self.step_size / 255

    def start_radius(self, radius):
        """Radius of the random start in [0, 1] units, a number or one a sample (B, 1, 1, 1)."""
        return self.own_start(radius) if self.random_start is None else self.random_start / 255

    def own_step(self, radius):
        """The attack's own rule for :meth:`step_length`."""
        raise NotImplementedError

    def own_start(self, radius):
        """The attack's own rule for :meth:`start_radius`."""
        raise NotImplementedError


def _same(value, default):
    return value is default or isinstance(value, (int, float, str, tuple)) and value == default


def _brief(value):
    if isinstance(value, torch.Tensor):
        return f'tensor of {"x".join(map(str, value.shape))}'
    return type(value).__name__ if isinstance(value, nn.Module) else repr(value)
