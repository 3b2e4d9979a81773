"""Attack augmentation: adversarial training as a step before a BasicSR model's own training step."""

from __future__ import annotations

import contextlib
import functools
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from basicsr.losses import build_loss
from basicsr.utils import get_root_logger
from torch import nn
from torch.nn.parallel import DataParallel

from rsr_basicsr.archs.classifier import BUILTIN, SampleClassifier
from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.archs.defense import Decision
from rsr_basicsr.attacks import build_attack
from rsr_basicsr.attacks.objectives import TrainingLoss
from rsr_basicsr.models.joint_loss import joint_loss
from rsr_basicsr.models.robust_validation import RobustValidation
from rsr_basicsr.models.running_means import RunningMeans, Stopwatch
from rsr_basicsr.models.training_gradient import gradient_of_step, iteration_of_generator
from rsr_basicsr.utils.errors import OptionsError
from rsr_basicsr.weights.state_dict import load_network

#: Keys of the block ``attack`` that belong to the training, not to the attack
SCHEDULE = ('mode', 'share', 'attacked_target', 'masked', 'every', 'warmup', 'warm_start', 'first_gradient')

USE_TORCHRUN = (
    'start one process per GPU with: torchrun --nproc_per_node=N -m rsr_basicsr.train -opt FILE --launcher '
    'pytorch; or write num_gpu: 1'
)


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


class AttackAugmentation(RobustValidation):
    """Mixin for a BasicSR model class: attacks the batch, then calls the class's own training step.

    The batch is attacked at the start of ``optimize_parameters``, after Real-ESRGAN's degradations and training pair
    pool, which therefore never hold stale adversarial samples. The step sees clean and attacked images, with the gate
    forced by their labels (Yue et al. 2021), and the classifier learns the same labels with its own loss and optimizer.

    The attack runs on the bare network with gradients of the input only, and the classifier's loss joins the backward
    pass of the step: with several processes, gradients are reduced as often as without an attack. (In a step that skips
    ``net_g``, as in GANs with ``net_d_iters`` above 1, the classifier learns nothing.)

    Options: the top-level block ``attack`` (an attack of :mod:`rsr_basicsr.attacks` plus :data:`SCHEDULE`),
    ``train: train_classifier``, ``target``, ``optim_classifier`` and ``classifier_opt``, and those of
    :class:`RobustValidation`; :mod:`rsr_basicsr.options` has the schema.

    The host never waits for the device: logged values stay there until they are printed.
    """

    net_g: nn.Module
    net_g_ema: Any
    lq: torch.Tensor
    gt: torch.Tensor
    gt_usm: torch.Tensor
    output: torch.Tensor
    optimizer_g: torch.optim.Optimizer
    optimizers: list[torch.optim.Optimizer]

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """As BasicSR does; a classifier that is not trained is frozen first."""
        if isinstance(net, DefenseMixin) and self.opt['is_train'] and not self._trains_classifier(net):
            net.defense.classifier.requires_grad_(False)  # or DistributedDataParallel would wait for its gradients
        return super().model_to_device(net)

    def init_training_settings(self) -> None:
        """Build the attack and the classifier's loss, then do as BasicSR does.

        Raises:
            OptionsError: the network is not defended, or wrapped in DataParallel.
        """
        self._check_network()
        options = dict(self.opt['attack'])
        schedule = {name: options.pop(name) for name in SCHEDULE if name in options}
        self.attack_mode, self.attack_share = schedule.get('mode', 'paired'), schedule.get('share', 0.5)
        self.attack_masked, self.attack_every = schedule.get('masked', 1.0), schedule.get('every', 1)
        self.attack_warmup, self.warm_start = schedule.get('warmup', 0), schedule.get('warm_start', False)
        self.first_gradient = schedule.get('first_gradient', 'own')
        self.trains_consistency = schedule.get('attacked_target', 'ground_truth') == 'clean_output'
        eps = options['eps']
        self.eps_range = tuple(eps) if isinstance(eps, (list, tuple)) else (eps, eps)
        self.attack = build_attack(
            {**options, 'eps': max(self.eps_range)}, lambda source: load_network(source).to(self.device)
        )
        if isinstance(self.attack.objective, TrainingLoss):
            setattr(self.attack.objective, 'gradient', self._gradient_of_training_loss)
        self.perturbation: torch.Tensor | None = None
        self.cri_classifier = build_loss(self.opt['train']['classifier_opt']).to(self.device)
        self.means = RunningMeans(
            ('l_clean', 'l_attacked', 'l_classifier', 'classifier_acc', 'attacked_share', 'attack_eps', 't_attack')
        )
        super().init_training_settings()
        if hasattr(self, 'net_g_ema') and not self.bare_net.loaded_defense:
            # Both classifiers were initialized at random; the average must start from the one that is trained.
            self.net_g_ema.defense.classifier.load_state_dict(self.classifier.state_dict())

    @property
    def bare_net(self) -> DefenseMixin:
        """The network in training without its wrapper: gradients of the input need no all-reduce."""
        return self.get_bare_model(self.net_g)

    @property
    def classifier(self) -> SampleClassifier:
        """The adversarial sample classifier of the network in training."""
        return self.bare_net.defense.classifier

    def _trains_classifier(self, net: DefenseMixin) -> bool:
        # The built-in classifier is calibrated; training it with one attack on one network would undo that.
        return self.opt['train'].get('train_classifier', net.defense.classifier.origin != BUILTIN)

    def _networks(self) -> list[DefenseMixin]:
        """The network in training and its moving average, which Real-ESRGAN's artifact loss runs, too."""
        return [self.bare_net] + ([self.net_g_ema] if hasattr(self, 'net_g_ema') else [])

    def _check_network(self) -> None:
        if isinstance(self.net_g, DataParallel):
            raise OptionsError(f'num_gpu: {self.opt["num_gpu"]} without a launcher; {USE_TORCHRUN}')
        if not isinstance(self.bare_net, DefenseMixin):
            raise OptionsError(
                f'model_type {type(self).__name__} needs a defended network_g; write type: '
                f'Defended{type(self.bare_net).__name__}'
            )

    def setup_optimizers(self) -> None:
        """Move the classifier out of the generator's optimizer into its own."""
        train_opt = self.opt['train']
        own = {id(p) for p in self.classifier.parameters()}
        # Unfrozen for now: BasicSR would warn of every parameter that requires no gradient.
        frozen = [p for p in self.classifier.parameters() if not p.requires_grad]
        self.classifier.requires_grad_(True)
        super().setup_optimizers()
        for parameter in frozen:
            parameter.requires_grad_(False)
        for group in self.optimizer_g.param_groups:
            group['params'] = [p for p in group['params'] if id(p) not in own]
        self.optimizer_classifier: torch.optim.Optimizer | None = None
        if not self._trains_classifier(self.bare_net):
            get_root_logger().info(f'The classifier ({self.classifier.origin}) is not trained.')
            return
        optim_opt = dict(train_opt['optim_classifier'])
        optimizer = self.get_optimizer(
            optim_opt.pop('type'), [p for p in self.classifier.parameters() if p.requires_grad], **optim_opt
        )
        self.optimizer_classifier = optimizer
        self.optimizers.append(optimizer)

    def optimize_parameters(self, current_iter: int) -> None:
        """Attack the batch, run the class's own step on it, and update the classifier."""
        if self.opt['train'].get('target') == 'pretrained':
            self._take_pretrained_target()
        attacks = current_iter % self.attack_every == 0
        classifier_steps = (2 if self.attack_mode == 'alternating' else 1) if attacks else 0
        if self.optimizer_classifier is not None:
            self.optimizer_classifier.zero_grad()
        for batch in self.attacked_batches(current_iter) if attacks else [self._clean_batch()]:
            with contextlib.ExitStack() as stack:
                stack.enter_context(self._forced(batch.decision))
                # DistributedDataParallel waits for the gradient of every parameter.
                if classifier_steps or self.opt['dist']:
                    weight = 1 / classifier_steps if classifier_steps else 0
                    stack.enter_context(self._joint_loss(batch.labels, weight))
                super().optimize_parameters(current_iter)
            self._log_errors(batch.labels)
        if self.optimizer_classifier is not None and attacks:
            self.optimizer_classifier.step()

    def _clean_batch(self) -> Batch:
        return Batch(torch.zeros(len(self.lq), dtype=torch.bool, device=self.lq.device), False)

    def attacked_batches(self, current_iter: int) -> Iterator[Batch]:
        """Put batches in place (``lq`` and the targets), one per training step, and yield their labels.

        ``paired``: one batch with each sample clean and attacked. ``mixed``: one batch with a share of the samples
        attacked. ``alternating``: the clean batch, then the same attacked, against the network after the first step.
        """
        clean = self._clean_batch()
        size = len(self.lq)
        if self.attack_mode == 'alternating':
            lq = leaf = self.lq
            if self.first_gradient == 'clean_step':
                leaf = lq.detach().requires_grad_()
                self.lq = (
                    leaf.clone()
                )  # a copy: leaves do not allow in-place operations, which some networks begin with
            yield clean
            attacked = self.attack_images(lq, self.attack_target(), current_iter, leaf.grad)
            self.lq = attacked.lq
            self._replace_targets(lambda target: target if attacked.target is None else attacked.target)
            yield Batch(~clean.labels, attacked.decision)
        elif self.attack_mode == 'paired':
            attacked = self.attack_images(self.lq, self.attack_target(), current_iter)
            self.lq = torch.cat([self.lq, attacked.lq])
            self._replace_targets(
                lambda target: torch.cat([target, target if attacked.target is None else attacked.target])
            )
            labels = torch.cat([clean.labels, ~clean.labels])
            yield Batch(labels, torch.cat([clean.labels, self._for_each(attacked.decision, size)]))
        else:
            # Rounded at random, so that the share holds on average for small batches, too.
            count = _rounded_at_random(self.attack_share * size)
            if not count:
                yield clean
                return
            chosen = torch.randperm(size, device=self.lq.device)[:count]
            attacked = self.attack_images(self.lq[chosen], self.attack_target()[chosen], current_iter)
            self.lq = self.lq.index_copy(0, chosen, attacked.lq)
            if attacked.target is not None:
                own = attacked.target
                self._replace_targets(lambda target: target.index_copy(0, chosen, own))
            labels, masked = clean.labels.clone(), clean.labels.clone()
            labels[chosen] = True
            masked[chosen] = self._for_each(attacked.decision, count)
            yield Batch(labels, masked)

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
        size, net = len(lq), self.bare_net
        low, high = self.eps_range
        eps = torch.full((size,), float(low), device=lq.device)
        if high > low:
            eps = eps + (high - low) * torch.rand(size, device=lq.device)
        if current_iter < self.attack_warmup:
            eps = eps * (current_iter / self.attack_warmup)
        decision: Decision = True
        if self.attack_masked < 1:
            decision = torch.arange(size, device=lq.device) < _rounded_at_random(self.attack_masked * size)
        clean_output: torch.Tensor | None = None
        if self.trains_consistency or not self.attack.objective.needs_ground_truth:
            with torch.no_grad(), net.defense.forced(False):
                clean_output = net(lq)
        if clean_output is not None and not self.attack.objective.needs_ground_truth:
            target = clean_output
        start = self._last_perturbation(lq) if self.warm_start else None
        with self._forced(decision):
            attacked = self.attack.perturb(net, lq, target, eps=eps, start=start, first_gradient=first_gradient)
        if self.warm_start:
            self.perturbation = attacked - lq
        self.means.add_times(t_attack=stopwatch.stopped())
        self.means.add('attack_eps', eps)
        return Attacked(attacked, decision, clean_output if self.trains_consistency else None)

    @contextlib.contextmanager
    def _forced(self, decision: Decision) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for net in self._networks():
                stack.enter_context(net.defense.forced(decision))
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

    @torch.no_grad()
    def _take_pretrained_target(self) -> None:
        """Replace the ground truth by the output of the pretrained network for the clean images.

        It is the target of every loss of the step, so that fine-tuning keeps the style of the pretrained network.
        """
        output = self.start_net(self.lq).clamp(0, 1)
        self._replace_targets(lambda target: output)

    @contextlib.contextmanager
    def _joint_loss(self, labels: torch.Tensor, weight: float) -> Iterator[None]:
        """Add the classifier's loss to the step within the block, see :func:`joint_loss`, and note its means."""
        trained = self.optimizer_classifier is not None
        with joint_loss(self.bare_net, self.classifier, self.cri_classifier, labels, weight, trained) as result:
            yield
        if weight and result.logits is not None and result.loss is not None:
            self.means.add('l_classifier', result.loss)
            self.means.add('classifier_acc', result.logits.argmax(dim=1) == labels)

    @torch.no_grad()
    def _log_errors(self, labels: torch.Tensor) -> None:
        """Add the pixel errors of this step to the logged means."""
        error = (self.output - self.attack_target()).abs().flatten(1).mean(1)
        self.means.add('l_clean', error, ~labels)
        self.means.add('l_attacked', error, labels)
        self.means.add('attacked_share', labels)

    def get_current_log(self) -> OrderedDict[str, float]:
        """BasicSR's losses of this step, and ours as means over all steps and processes since the last call."""
        return OrderedDict({**super().get_current_log(), **self.means.take(distributed=self.opt['dist'])})

    def more_state(self) -> dict[str, Any]:
        """As in the base class; adds the perturbations for ``warm_start``."""
        last = None if self.perturbation is None else self.perturbation.cpu()
        return {**super().more_state(), 'perturbation': last}

    def restore_more_state(self, mine: Mapping[str, Any]) -> None:
        """As in the base class."""
        super().restore_more_state(mine)
        last = mine.get('perturbation')
        self.perturbation = None if last is None else last.to(self.device)

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Restore optimizers and schedulers.

        Raises:
            OptionsError: the training state has another number of optimizers.
        """
        if len(resume_state['optimizers']) != len(self.optimizers):
            raise OptionsError(
                f'the training state has {len(resume_state["optimizers"])} optimizers, these options '
                f'make {len(self.optimizers)}; train: train_classifier must be as it was'
            )
        super().resume_training(resume_state)


def _rounded_at_random(number: float) -> int:
    """The integer below or above, at random, with ``number`` as the mean."""
    return int(number + random.random())
