"""One call of an attack: the network as the attack sees it, the images, and their constraint."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from rsr_basicsr.attacks import constraints, restrictions
from rsr_basicsr.attacks.graph import GraphedPasses
from rsr_basicsr.attacks.half import autocast_to_bf16, check_bf16, weights_in_bf16
from rsr_basicsr.attacks.memory import MemorySaving
from rsr_basicsr.ops.tiled import defenses, tile_within, upscale
from rsr_basicsr.weights.spandrel_network import as_network

if TYPE_CHECKING:
    from rsr_basicsr.attacks.base import Attack

Generators = torch.Generator | Sequence[torch.Generator]
#: What an attack does with the gate of a defended network; see :func:`gate_set`
ATTACK_GATES = ('straight_through', 'always', 'never')
ATTACK_PRECISIONS = ('fp32', 'bf16')


class Problem:
    """What an attack works on: gives the loss and the gradient of images, and projects them to the constraint.

    Args:
        attack: the attack, whose settings apply.
        model: maps (B, C, H, W) to (B, C, sH, sW) in [0, 1].
        lq: clean images, (B, C, H, W) in [0, 1].
        radius: of the ball around each, (B, 1, 1, 1) or a scalar tensor, in [0, 1] units.
        generators: one for the batch or one per sample; None takes torch's own.
    """

    def __init__(
        self,
        attack: Attack,
        model: nn.Module,
        lq: torch.Tensor,
        radius: torch.Tensor,
        generators: Generators | None = None,
    ) -> None:
        self.model, self.lq, self.radius, self.half = model, lq, radius, attack.precision == 'bf16'
        self.network = MemorySaving(model) if saves_memory(attack, lq.device) else model
        # Elsewhere than on a GPU there is nothing to record, and options files serve several machines.
        self.graphed = GraphedPasses(model, self.half) if attack.cuda_graph and lq.is_cuda else None
        self.objective, self.constraint = attack.objective, attack.constraint
        self.clamp, self.quantize, self.kind = attack.clamp, attack.quantize, lq.dtype
        self.eot_samples, self.overlap = attack.eot_samples, attack.overlap
        if isinstance(generators, (list, tuple)) and len(generators) != len(lq):
            raise ValueError(f'expected one generator per image, got {len(generators)} for {len(lq)}')
        self.generators = generators
        self.tile = attack.tile
        self.reference: torch.Tensor | None = None
        self.start: torch.Tensor | None = None  # perturbation (B, C, H, W) to begin at, if the caller gives one
        self.first_gradient: torch.Tensor | None = None  # of the first step, (B, C, H, W), if it is known
        self.sound = torch.ones(len(lq), dtype=torch.bool, device=lq.device)  # False after a NaN or infinite value

    @classmethod
    @contextlib.contextmanager
    def of(
        cls,
        attack: Attack,
        model: nn.Module,
        lq: torch.Tensor,
        target: torch.Tensor | None,
        radius: torch.Tensor,
        generators: Generators | None = None,
    ) -> Iterator[Problem]:
        """A problem with its reference; within the block, the network is frozen and its gate set.

        A descriptor of spandrel counts as its network. Images in half precision, which cannot tell all 256 levels
        apart, are computed in float32.

        Raises:
            ValueError: the attack is in bf16, which the device only emulates.
        """
        kind, model = lq.dtype, as_network(model)
        halved: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if attack.precision == 'bf16':
            check_bf16(lq.device)
            halved = weights_in_bf16(model)
        lq, radius = (x if kind == torch.float64 else x.float() for x in (lq, radius))
        with untouched(model), halved, torch.enable_grad():
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
        """Set the reference that outputs are compared with: the target, or the network's clean output."""
        if target is not None:
            target = target.to(self.lq)
        self.reference = self.objective.reference(self.output, self.lq, target).detach()

    def output(self, x: torch.Tensor) -> torch.Tensor:
        """The network's output for ``x``, (B, C, sH, sW)."""
        # A copy: networks that begin with an in-place module write to their input.
        x = x.to(self.kind, copy=True, memory_format=torch.channels_last if self.half else torch.preserve_format)
        if self.graphed is not None:
            output = self.graphed(x)
        else:
            with autocast_to_bf16(x.device) if self.half else contextlib.nullcontext():
                output = upscale(self.network, x, tile=self.tile, overlap=self.overlap)
        if not isinstance(output, torch.Tensor) or output.dim() != 4:
            raise ValueError(
                f'expected images (B, C, H, W) from {type(self.model).__name__}, got '
                f'{tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__}'
            )
        return output.to(self.lq.dtype)

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        """Loss per sample, (B,): the mean over the EOT samples."""
        with torch.no_grad():
            loss = cast(torch.Tensor, sum(self._loss(x) for _ in range(self.eot_samples))) / self.eot_samples
        self.sound = self.sound & loss.isfinite()
        return loss

    def gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradient of the loss with respect to ``x``, and the loss per sample, (B,): means over the EOT samples."""
        x = x.detach().requires_grad_()
        if self.objective.gradient is not None:
            of_batch = self.objective.gradient
            gradient = cast(torch.Tensor, sum(of_batch(x) for _ in range(self.eot_samples))) / self.eot_samples
            self.sound = self.sound & gradient.isfinite().flatten(1).all(1)
            return gradient, gradient.new_zeros(len(x))
        gradient, loss = torch.zeros_like(x), x.new_zeros(len(x))
        for _ in range(self.eot_samples):
            sample = self._loss(x)
            if not sample.requires_grad:
                raise ValueError(
                    f'the output of {type(self.model).__name__} has no gradient with respect to the '
                    'image; attack it by Square or Transfer, or wrap what has none in BPDA'
                )
            gradient = gradient + torch.autograd.grad(sample.sum(), x)[0] / self.eot_samples
            loss = loss + sample.detach() / self.eot_samples
        self.sound = self.sound & gradient.isfinite().flatten(1).all(1) & loss.isfinite()
        return gradient, loss

    def uphill(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`gradient`, but random for samples whose gradient is zero everywhere.

        Such a sample is on a plateau, such as the one around a clean image whose change a codec rounds away.
        """
        if self.first_gradient is not None:
            gradient, self.first_gradient = self.first_gradient.to(x), None
            self.sound = self.sound & gradient.isfinite().flatten(1).all(1)
            return self.off_plateaus(gradient), gradient.new_zeros(len(x))
        gradient, loss = self.gradient(x)
        return self.off_plateaus(gradient), loss

    def off_plateaus(self, gradient: torch.Tensor) -> torch.Tensor:
        """Replace each gradient that is zero everywhere by random signs."""
        flat = (gradient == 0).flatten(1).all(1)
        if self.generators is not None and not flat.any():
            # Generators are on the host, where drawing signs costs more than waiting for the device.
            return gradient
        return torch.where(flat.view(-1, 1, 1, 1), self.signs(*gradient.shape[1:], of=flat)[: len(gradient)], gradient)

    def _loss(self, x: torch.Tensor) -> torch.Tensor:
        output, reference = self.output(x), cast(torch.Tensor, self.reference)  # set by refer_to
        if output.shape != reference.shape:
            raise ValueError(
                f'the network makes {_shape(output)} of {_shape(x)}, but the target is {_shape(reference)}'
            )
        return self.objective(output, reference)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Project images to the ball and, with ``clamp: true``, to [0, 1]."""
        return self._inside(x, self.clamp is True)

    def _inside(self, x: torch.Tensor, clamp: bool) -> torch.Tensor:
        if isinstance(self.constraint, restrictions.ZeroMean):
            return self.constraint.fit(x, self.lq, self.radius, clamp)
        return constraints.project(self.constraint, x, self.lq, self.radius, clamp)

    def finished(self, x: torch.Tensor) -> torch.Tensor:
        """The final images: inside the band, quantized, and NaN for samples that are not ``sound``."""
        if isinstance(self.constraint, constraints.Band):
            x = constraints.settle(self.constraint, x, self.lq, self.radius, bool(self.clamp))
        return torch.where(self.sound.view(-1, 1, 1, 1), self.quantized(x), torch.nan).to(self.kind)

    def quantized(self, x: torch.Tensor) -> torch.Tensor:
        """Apply ``clamp: end`` and ``quantize``, within the restrictions of the constraint."""
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

    def rand(self, *shape: int, of: torch.Tensor | None = None) -> torch.Tensor:
        """Uniform numbers in [0, 1), (B, *shape).

        Args:
            shape: of a sample.
            of: samples that need them, (B,) bool; with a generator per sample, the others get 0 and draw nothing, so
                that no sample depends on another.
        """
        if self.generators is None:
            return torch.rand(len(self.lq), *shape, dtype=torch.float32, device=self.lq.device).to(self.lq.dtype)
        if isinstance(self.generators, torch.Generator):
            return _rand((len(self.lq), *shape), self.generators).to(self.lq)
        wanted = [True] * len(self.lq) if of is None else of.tolist()
        drawn = [
            _rand((1, *shape), own) if draws else torch.zeros(1, *shape) for own, draws in zip(self.generators, wanted)
        ]
        return torch.cat(drawn).to(self.lq)

    def signs(self, *shape: int, of: torch.Tensor | None = None) -> torch.Tensor:
        """Random signs, (B, *shape); see :meth:`rand`."""
        return (self.rand(*shape, of=of) < 0.5).to(self.lq.dtype) * 2 - 1

    def near(self, size: float | torch.Tensor, coarseness: float = 1) -> torch.Tensor:
        """A random image inside the ball of radius ``size``, in [0, 1] units, and inside the attack's own.

        Args:
            size: the radius, a number or per sample.
            coarseness: side of the blocks of equal values in pixels; 1 gives each pixel its own.
        """
        if isinstance(size, float) and size == 0:
            return self.lq
        if not isinstance(size, torch.Tensor):  # made on the device: a copy from the host would wait for it
            size = torch.full((), size, dtype=self.lq.dtype, device=self.lq.device)
        size = size.to(self.lq)
        channels, *sides = self.lq.shape[1:]
        noise = 2 * self.rand(channels, *(max(int(side / coarseness), 1) for side in sides)) - 1
        if coarseness > 1:
            noise = torch.nn.functional.interpolate(noise, sides, mode='nearest')
        return self.project(self.lq + self.constraint.random(noise, size))


def saves_memory(attack: Attack, device: torch.device) -> bool:
    """Whether the passes of an attack keep less for the backward pass, at the price of a Python call per convolution.

    A GPU would wait for these calls: it keeps everything unless ``memory`` bounds the attack. In a training that costs
    nothing, since the attack is over before the step makes its own, larger graph.
    """
    return device.type == 'cpu' or attack.memory is not None


def _rand(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)


def _shape(x: torch.Tensor) -> str:
    return 'x'.join(map(str, x.shape))


def worse(best: Sequence[torch.Tensor] | None, candidate: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The stronger of two results per sample: the loss, (B,), first, and tensors that belong to it, (B, ...)."""
    if best is None:
        return tuple(candidate)
    better = (candidate[0] > best[0]) | best[0].isnan()
    return tuple(torch.where(better.view(-1, *[1] * (new.dim() - 1)), new, old) for new, old in zip(candidate, best))


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Within the block no parameter requires a gradient; at its end what a pass can write to has its old value.

    Autograd keeps less for the backward pass when parameters need no gradient. A pass can write to buffers, such as
    the running statistics of a batch norm, and in training to parameters that are none, as the residual classifier's.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    trainable = [p for module in modules for p in module.parameters(recurse=False) if p.requires_grad]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in modules
        for name, buffer in module.named_buffers(recurse=False)
    ]
    constants = [
        (parameter, parameter.detach().clone())
        for module in modules
        if module.training
        for parameter in module.parameters(recurse=False)
        if not parameter.requires_grad
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
                setattr(module, name, buffer)  # some networks replace their buffers
            for parameter, before in constants:
                parameter.copy_(before)


@contextlib.contextmanager
def gate_set(model: nn.Module, gate: str | None) -> Iterator[None]:
    """Within the block, the gate of a defended network is set as the attack asks.

    Args:
        model: the network.
        gate: ``always`` or ``never`` overrules the classifier; ``straight_through`` keeps its decision and gives it a
            gradient; None changes nothing.

    Raises:
        ValueError: the network has no defence.
    """
    found: list[Any] = defenses(model) if gate is not None else []
    if gate is not None and not found:
        raise ValueError(f'gate: {gate} is for defended networks, {type(model).__name__} has no gate; leave it out')
    with contextlib.ExitStack() as stack:
        for defense in found:
            stack.enter_context(
                defense.straight_through() if gate == 'straight_through' else defense.forced(gate == 'always')
            )
        yield
