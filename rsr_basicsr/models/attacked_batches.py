"""The attack in a training: which samples of a batch are attacked, how, and what they are compared with."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.archs.defense import Decision
from rsr_basicsr.attacks import build_attack
from rsr_basicsr.attacks.base import Attack
from rsr_basicsr.attacks.objectives import TrainingLoss
from rsr_basicsr.models.batch_attack import radii, rounded_at_random
from rsr_basicsr.models.robust_validation import RobustValidation
from rsr_basicsr.models.running_means import RunningMeans, Stopwatch
from rsr_basicsr.models.training_gradient import forward_in, gradient_of_step, iteration_of_generator
from rsr_basicsr.options.attack_blocks import AttackOptions
from rsr_basicsr.weights.state_dict import load_network


class Batch(NamedTuple):
    """Labels of the batch in one training step.

    Args:
        labels: (B,) bool, True where the image is attacked.
        decision: which images are masked.
    """

    labels: torch.Tensor
    decision: Decision


class Attacked(NamedTuple):
    """Attacked samples of a batch.

    Args:
        lq: the attacked images, (N, C, H, W) in [0, 1].
        decision: which of them are masked.
        target: what they are trained on, (N, C, sH, sW); None is the ground truth.
    """

    lq: torch.Tensor
    decision: Decision
    target: torch.Tensor | None


class AttackedBatches(RobustValidation):
    """Mixin for a BasicSR model class: puts attacked batches in place, and the targets of their samples.

    Options: the top-level block ``attack`` (an attack of :mod:`rsr_basicsr.attacks`, and its schedule), and those of
    :class:`RobustValidation`.
    """

    net_g: nn.Module
    net_g_ema: Any
    lq: torch.Tensor
    gt: torch.Tensor
    gt_usm: torch.Tensor
    #: The block ``attack``
    schedule: AttackOptions
    attack: Attack
    means: RunningMeans
    #: Of the last attacked batch, for ``warm_start``, (B, C, H, W)
    perturbation: torch.Tensor | None

    def prepare_attack(self) -> None:
        """Build the attack of the training."""
        self.schedule = cast(AttackOptions, self.options.attack)
        arguments = {'precision': self.options.train.precision, **self.schedule.arguments}
        self.attack = build_attack(arguments, lambda source: load_network(source).to(self.device))
        if isinstance(self.attack.objective, TrainingLoss):
            setattr(self.attack.objective, 'gradient', self._gradient_of_training_loss)
        self.perturbation = None

    @property
    def bare_net(self) -> DefenseMixin:
        """The network in training without its wrapper: gradients of the input need no all-reduce."""
        return self.get_bare_model(self.net_g)

    def _networks(self) -> list[DefenseMixin]:
        """The network in training and its moving average, which Real-ESRGAN's artifact loss runs, too."""
        return [self.bare_net] + ([self.net_g_ema] if hasattr(self, 'net_g_ema') else [])

    def _clean_batch(self) -> Batch:
        return Batch(torch.zeros(len(self.lq), dtype=torch.bool, device=self.lq.device), False)

    def attacked_batches(self, current_iter: int) -> Iterator[Batch]:
        """Put batches in place (``lq`` and the targets), one per training step, and yield their labels.

        ``paired``: one batch with each sample clean and attacked. ``mixed``: one batch with a share of the samples
        attacked. ``alternating``: the clean batch, then the same attacked, against the network after the first step.
        """
        clean = self._clean_batch()
        size = len(self.lq)
        if self.schedule.mode == 'alternating':
            lq = leaf = self.lq
            if self.schedule.first_gradient == 'clean_step':
                leaf = lq.detach().requires_grad_()
                self.lq = (
                    leaf.clone()
                )  # a copy: leaves do not allow in-place operations, which some networks begin with
            yield clean
            attacked = self.attack_images(lq, self.attack_target(), current_iter, leaf.grad)
            self.lq = attacked.lq
            self._replace_targets(lambda target: target if attacked.target is None else attacked.target)
            yield Batch(~clean.labels, attacked.decision)
        elif self.schedule.mode == 'paired':
            attacked = self.attack_images(self.lq, self.attack_target(), current_iter)
            self.lq = torch.cat([self.lq, attacked.lq])
            self._replace_targets(
                lambda target: torch.cat([target, target if attacked.target is None else attacked.target])
            )
            labels = torch.cat([clean.labels, ~clean.labels])
            decision = attacked.decision
            # False as it is: no mask is then computed at all.
            yield Batch(labels, decision is not False and torch.cat([clean.labels, self._for_each(decision, size)]))
        else:
            # Rounded at random, so that the share holds on average for small batches, too.
            count = rounded_at_random(self.schedule.share * size)
            if not count:
                yield clean
                return
            chosen = torch.randperm(size, device=self.lq.device)[:count]
            attacked = self.attack_images(self.lq[chosen], self.attack_target()[chosen], current_iter)
            self.lq = self.lq.index_copy(0, chosen, attacked.lq)
            if attacked.target is not None:
                own = attacked.target
                self._replace_targets(lambda target: target.index_copy(0, chosen, own))
            labels = clean.labels.index_fill(0, chosen, True)  # labels[chosen] = True would wait for the device
            decision = attacked.decision
            yield Batch(
                labels,
                decision is not False and clean.labels.index_copy(0, chosen, self._for_each(decision, count)),
            )

    def attack_images(
        self, lq: torch.Tensor, target: torch.Tensor, current_iter: int, first_gradient: torch.Tensor | None = None
    ) -> Attacked:
        """Attack images under the gate decision of the training step.

        If ``attack: eps`` is a range, the radius is drawn per sample.

        Args:
            lq: low-resolution images, (B, C, H, W) in [0, 1].
            target: reference of the objective, (B, C, sH, sW).
            current_iter: the iteration.
            first_gradient: gradient of the first attack step, (B, C, H, W), if known; None lets the attack compute it.

        Returns:
            The attacked images; the share ``attack: masked`` of them is masked.
        """
        stopwatch = Stopwatch(lq.device)
        net = self.bare_net
        eps, decision = radii(self.schedule, lq, current_iter), self._decision(lq)
        consistency = self.schedule.attacked_target == 'clean_output'
        clean_output: torch.Tensor | None = None
        if consistency or not self.attack.objective.needs_ground_truth:
            precision = self.options.train.precision
            with torch.no_grad(), net.defense.forced(False), forward_in(precision, net):
                clean_output = net(lq)
        if clean_output is not None and not self.attack.objective.needs_ground_truth:
            target = clean_output
        start = self._last_perturbation(lq) if self.schedule.warm_start else None
        with self._forced(decision):
            attacked = self.attack.perturb(net, lq, target, eps=eps, start=start, first_gradient=first_gradient)
        if self.schedule.warm_start:
            self.perturbation = attacked - lq
        self.means.add_times(t_attack=stopwatch.stopped())
        self.means.add('attack_eps', eps)
        return Attacked(attacked, decision, clean_output if consistency else None)

    def _decision(self, lq: torch.Tensor) -> Decision:
        """Which of the attacked samples are masked."""
        if self.schedule.masked in (0, 1):
            return self.schedule.masked == 1
        return torch.arange(len(lq), device=lq.device) < rounded_at_random(self.schedule.masked * len(lq))

    @contextlib.contextmanager
    def _forced(self, decision: Decision) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for net in self._networks():
                stack.enter_context(net.defense.forced(decision))
                stack.enter_context(net.defense.without_waiting())
            yield

    def _gradient_of_training_loss(self, x: torch.Tensor) -> torch.Tensor:
        """Gradient, (B, C, H, W), of the sum of all losses of the class's own step with respect to ``lq``."""
        iteration = iteration_of_generator(self.opt['train'])
        step = functools.partial(super().optimize_parameters, iteration)
        return gradient_of_step(self, step, x, self.attack.precision)

    def _last_perturbation(self, lq: torch.Tensor) -> torch.Tensor | None:
        """Perturbations of the last batch, repeated as needed (Shafahi et al. 2019); None if the size differs."""
        last = self.perturbation
        if last is None or last.shape[1:] != lq.shape[1:]:
            return None
        return last[torch.arange(len(lq), device=lq.device) % len(last)]

    def _for_each(self, decision: Decision, size: int) -> torch.Tensor:
        """A decision as a tensor, (size,)."""
        return torch.full((size,), decision, device=self.lq.device) if isinstance(decision, bool) else decision

    def _targets(self) -> list[str]:
        """Names of the attributes that hold one target per image."""
        # RealESRNetModel has a gt_usm, too, but of the last validation image.
        return ['gt', 'gt_usm'] if 'l1_gt_usm' in self.opt else ['gt']

    def _replace_targets(self, new: Callable[[torch.Tensor], torch.Tensor]) -> None:
        for name in self._targets():
            setattr(self, name, new(getattr(self, name)))

    def attack_target(self) -> torch.Tensor:
        """The images that the pixel loss compares with."""
        return self.gt_usm if self.opt.get('l1_gt_usm') else self.gt

    def more_state(self) -> dict[str, Any]:
        """As in the base class; adds the perturbations for ``warm_start``."""
        last = None if self.perturbation is None else self.perturbation.cpu()
        return {**super().more_state(), 'perturbation': last}

    def restore_more_state(self, mine: Mapping[str, Any]) -> None:
        """As in the base class."""
        super().restore_more_state(mine)
        last = mine.get('perturbation')
        self.perturbation = None if last is None else last.to(self.device)
