"""One call of an attack: the network as the attack sees it, the images, and where they may go."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from rsr_basicsr.attacks import constraints, restrictions
from rsr_basicsr.attacks.memory import Sparing
from rsr_basicsr.ops.tiled import defenses, tile_within, upscale

Generators = None | torch.Generator | Sequence[torch.Generator]
GATES = ('straight_through', 'always', 'never')
PRECISIONS = ('fp32', 'bf16')


class Problem:
    """What an attack works on: it asks for the loss or the gradient of images, and puts them back in the ball.

    Args:
        attack: whose settings count (see :class:`rsr_basicsr.attacks.Attack`).
        model: maps (B, C, H, W) to (B, C, sH, sW) in [0, 1].
        lq: clean images, (B, C, H, W) in [0, 1].
        radius: of the ball around each, (B, 1, 1, 1) or a scalar tensor, in [0, 1] units.
        generators: one for the batch or one a sample; None takes torch's own.
    """

    def __init__(self, attack, model: nn.Module, lq: torch.Tensor, radius: torch.Tensor, generators: Generators = None):
        self.model, self.network, self.lq, self.radius = model, Sparing(model), lq, radius
        self.objective, self.constraint = attack.objective, attack.constraint
        self.clamp, self.quantize, self.kind = attack.clamp, attack.quantize, lq.dtype
        self.eot_samples, self.overlap, self.half = attack.eot_samples, attack.overlap, attack.precision == 'bf16'
        if isinstance(generators, (list, tuple)) and len(generators) != len(lq):
            raise ValueError(f'expected one generator an image, got {len(generators)} for {len(lq)}')
        self.generators = generators
        self.tile, self.reference = attack.tile, None
        self.start: torch.Tensor | None = None  # a perturbation (B, C, H, W) that the caller wants to begin at
        self.first_gradient: torch.Tensor | None = None  # of the first step, (B, C, H, W), if it is known
        self.sound = torch.ones(len(lq), dtype=torch.bool, device=lq.device)  # no value was not a number so far

    @classmethod
    @contextlib.contextmanager
    def of(
        cls,
        attack,
        model: nn.Module,
        lq: torch.Tensor,
        target: torch.Tensor | None,
        radius: torch.Tensor,
        generators: Generators = None,
    ) -> Iterator[Problem]:
        """A problem with its reference, and in the block the network as the attack may use it.

        Computes in float32 for images of less, which cannot tell all 256 levels apart.
        """
        kind = lq.dtype
        lq, radius = (x if kind == torch.float64 else x.float() for x in (lq, radius))
        with untouched(model), torch.enable_grad():
            problem = cls(attack, model, lq, radius, generators)
            problem.kind = kind
            gate = attack.gate_for(model)
            if attack.memory is not None:
                with gate_set(model, gate):
                    problem.tile = tile_within(problem.network, lq, attack.memory, attack.overlap)
            if attack.asks_for_loss:
                problem.refer_to(target)
            with gate_set(model, gate):
                yield problem

    def refer_to(self, target: torch.Tensor | None) -> None:
        """Take what outputs are compared with: from the target, or from the network's output for the clean image."""
        if target is not None:
            target = target.to(self.lq)
        self.reference = self.objective.reference(self.output, self.lq, target).detach()

    def output(self, x: torch.Tensor) -> torch.Tensor:
        """What the network makes of ``x``."""
        # A copy: networks that begin with an in-place module write to what they are given.
        x = x.to(self.kind, copy=True, memory_format=torch.channels_last if self.half else torch.preserve_format)
        with torch.autocast(x.device.type, torch.bfloat16) if self.half else contextlib.nullcontext():
            output = upscale(self.network, x, tile=self.tile, overlap=self.overlap)
        if not isinstance(output, torch.Tensor) or output.dim() != 4:
            raise ValueError(
                f'expected images (B, C, H, W) from {type(self.model).__name__}, got '
                f'{tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__}'
            )
        return output.to(self.lq.dtype)

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        """Loss of each sample, (B,), the mean over the draws."""
        with torch.no_grad():
            loss = sum(self._score(x) for _ in range(self.eot_samples)) / self.eot_samples
        self.sound = self.sound & loss.isfinite()
        return loss

    def gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradient of the loss with respect to ``x``, and the loss of each sample, (B,): means over the draws."""
        x = x.detach().requires_grad_()
        if self.objective.gradient is not None:
            gradient = sum(self.objective.gradient(x) for _ in range(self.eot_samples)) / self.eot_samples
            self.sound = self.sound & gradient.isfinite().flatten(1).all(1)
            return gradient, gradient.new_zeros(len(x))
        gradient, loss = 0, 0
        for _ in range(self.eot_samples):
            score = self._score(x)
            if not score.requires_grad:
                raise ValueError(
                    f'the output of {type(self.model).__name__} has no gradient with respect to the '
                    'image; attack it by Square or Transfer, or wrap what has none in BPDA'
                )
            gradient = gradient + torch.autograd.grad(score.sum(), x)[0] / self.eot_samples
            loss = loss + score.detach() / self.eot_samples
        self.sound = self.sound & gradient.isfinite().flatten(1).all(1) & loss.isfinite()
        return gradient, loss

    def uphill(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """:meth:`gradient`, but random where that of a sample is zero throughout.

        It is on a plateau, such as the one around a clean image whose change gets lost in the rounding of a codec.
        """
        if self.first_gradient is not None:
            gradient, self.first_gradient = self.first_gradient.to(x), None
            self.sound = self.sound & gradient.isfinite().flatten(1).all(1)
            return self.off_plateaus(gradient), gradient.new_zeros(len(x))
        gradient, loss = self.gradient(x)
        return self.off_plateaus(gradient), loss

    def off_plateaus(self, gradient: torch.Tensor) -> torch.Tensor:
        """Random signs in the place of each gradient that is zero throughout."""
        flat = (gradient == 0).flatten(1).all(1).view(-1, 1, 1, 1)
        return torch.where(flat, self.signs(*gradient.shape[1:])[: len(gradient)], gradient)

    def _score(self, x):
        output = self.output(x)
        if output.shape != self.reference.shape:
            raise ValueError(
                f'the network makes {_shape(output)} of {_shape(x)}, but the target is {_shape(self.reference)}'
            )
        return self.objective(output, self.reference)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """The image inside the ball and, with ``clamp`` that is not ``end``, inside [0, 1]."""
        return self._inside(x, self.clamp is True)

    def _inside(self, x: torch.Tensor, clamp: bool) -> torch.Tensor:
        if isinstance(self.constraint, restrictions.ZeroMean):
            return self.constraint.fit(x, self.lq, self.radius, clamp)
        return constraints.project(self.constraint, x, self.lq, self.radius, clamp)

    def finished(self, x: torch.Tensor) -> torch.Tensor:
        """Attacked images as they are handed out: kept to the band, ``quantize`` done, not a number if unsound."""
        if isinstance(self.constraint, constraints.Band):
            x = constraints.settle(self.constraint, x, self.lq, self.radius, bool(self.clamp))
        return torch.where(self.sound.view(-1, 1, 1, 1), self.quantized(x), torch.nan).to(self.kind)

    def quantized(self, x: torch.Tensor) -> torch.Tensor:
        """The images as ``clamp: end`` and ``quantize`` want them, within the restrictions of the constraint."""
        x = self._inside(x, True) if self.clamp == 'end' else x
        if self.quantize == 'none':
            return x
        return restrictions.restored(self.constraint, self._rounded(x), x, self.lq)

    def _rounded(self, x: torch.Tensor) -> torch.Tensor:
        rounding = torch.round if self.quantize == 'nearest' else torch.floor
        ball = restrictions.innermost(self.constraint)
        if isinstance(ball, constraints.Linf):
            return constraints.to_8_bit(x, self.lq, self.radius, rounding)
        return constraints.to_8_bit_inside(ball, x, self.lq, self.radius, rounding)

    def rand(self, *shape: int) -> torch.Tensor:
        """Uniform numbers in [0, 1), (B, *shape)."""
        kind = {'dtype': torch.float32, 'device': self.lq.device}
        if self.generators is None:
            return torch.rand(len(self.lq), *shape, **kind).to(self.lq.dtype)
        if isinstance(self.generators, torch.Generator):
            return _rand((len(self.lq), *shape), self.generators).to(self.lq)
        return torch.cat([_rand((1, *shape), own) for own in self.generators]).to(self.lq)

    def signs(self, *shape: int) -> torch.Tensor:
        """Random signs, (B, *shape)."""
        return (self.rand(*shape) < 0.5).to(self.lq.dtype) * 2 - 1

    def near(self, size) -> torch.Tensor:
        """A random image inside the ball of radius ``size``, in [0, 1] units, and inside the problem's own."""
        if isinstance(size, float) and size == 0:
            return self.lq
        size = torch.as_tensor(size, dtype=self.lq.dtype, device=self.lq.device)
        return self.project(self.lq + self.constraint.random(2 * self.rand(*self.lq.shape[1:]) - 1, size))


def _rand(shape, generator):
    return torch.rand(shape, generator=generator, device=generator.device)


def _shape(x):
    return 'x'.join(map(str, x.shape))


def worse(best, candidate: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Sample by sample the stronger of two results: the loss, (B,), and whatever belongs to it, (B, ...)."""
    if best is None:
        return tuple(candidate)
    better = (candidate[0] > best[0]) | best[0].isnan()
    return tuple(torch.where(better.view(-1, *[1] * (new.dim() - 1)), new, old) for new, old in zip(candidate, best))


@contextlib.contextmanager
def untouched(model):
    """Within the block no parameter asks for a gradient, and at its end every buffer is as it was.

    Autograd keeps less for the way back of a network whose parameters need none. Buffers are what
    a pass writes to, such as the running statistics of a batch norm.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    trainable = [p for module in modules for p in module.parameters(recurse=False) if p.requires_grad]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in modules
        for name, buffer in module.named_buffers(recurse=False)
    ]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        with torch.no_grad():
            for module, name, buffer, before in buffers:
                buffer.copy_(before)
                setattr(module, name, buffer)  # some networks replace theirs


@contextlib.contextmanager
def gate_set(model, gate: str | None):
    """Within the block the gates of a defended network are as an attack wants to see them.

    Args:
        gate: ``always`` or ``never`` masks whatever the classifier says; ``straight_through`` leaves the decision to
            it and gives it a gradient; None leaves everything as it is.

    Raises:
        ValueError: the network has no defence.
    """
    found: list[nn.Module] = defenses(model) if gate is not None else []
    if gate is not None and not found:
        raise ValueError(f'gate: {gate} is for defended networks, {type(model).__name__} has no gate; leave it out')
    with contextlib.ExitStack() as stack:
        for defense in found:
            stack.enter_context(
                defense.straight_through() if gate == 'straight_through' else defense.forced(gate == 'always')
            )
        yield
