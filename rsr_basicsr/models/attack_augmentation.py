"""Attack augmentation: adversarial training as one step in front of a BasicSR model's own."""

from __future__ import annotations

import contextlib
import functools
import random
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from basicsr.losses import build_loss
from basicsr.utils import get_root_logger
from torch.nn.parallel import DataParallel

from rsr_basicsr.archs.classifier import BUILTIN
from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.archs.defense import Decision
from rsr_basicsr.attacks import build_attack
from rsr_basicsr.attacks.objectives import TrainingLoss
from rsr_basicsr.models.robust_validation import RobustValidation
from rsr_basicsr.models.running_means import RunningMeans, Stopwatch
from rsr_basicsr.models.training_gradient import gradient_of_step, iteration_of_generator
from rsr_basicsr.utils.errors import OptionsError
from rsr_basicsr.weights.state_dict import load_network

#: Keys of the block ``attack`` that are the training's, not the attack's
SCHEDULE = ('mode', 'share', 'masked', 'every', 'warmup', 'warm_start', 'first_gradient')


USE_TORCHRUN = (
    'start one process a GPU with: torchrun --nproc_per_node=N -m rsr_basicsr.train -opt FILE --launcher '
    'pytorch; or write num_gpu: 1'
)


class Batch(NamedTuple):
    """What the network sees of a batch in one training step.

    Args:
        labels: (B,) bool, True where the image is attacked.
        decision: which images are masked.
    """

    labels: torch.Tensor
    decision: Decision


class AttackAugmentation(RobustValidation):
    """Mixin in front of a BasicSR model class: attacks the batch, then calls the class's own training step.

    The batch is attacked at the start of ``optimize_parameters``: after Real-ESRGAN's degradations and training
    pair pool, which therefore never hold a stale adversarial sample. The step then sees clean and attacked images
    with the gate forced by their labels (Yue et al. 2021), and the classifier learns the same labels by
    its own loss and optimizer. The attack works on the bare network with gradients of the input only, and the
    classifier's loss joins the step's own way back: however many processes train, gradients are reduced as often as
    without an attack. (A step that leaves ``net_g`` out, as GANs with ``net_d_iters`` above 1 have, teaches nothing.)

    Options: the top-level block ``attack`` (an attack of :mod:`rsr_basicsr.attacks` plus :data:`SCHEDULE`),
    ``train: train_classifier``, ``target``, ``optim_classifier`` and ``classifier_opt``, and those of
    :class:`RobustValidation`; :mod:`rsr_basicsr.options` has the schema.

    Nothing here makes the host wait for the device: what it logs stays there until it is printed.
    """

    def model_to_device(self, net):
        if isinstance(net, DefenseMixin) and self.opt['is_train'] and not self._trains_classifier(net):
            net.defense.classifier.requires_grad_(False)  # or several processes would wait for its gradients
        return super().model_to_device(net)

    def init_training_settings(self):
        self._check_network()
        options = dict(self.opt['attack'])
        schedule = {name: options.pop(name) for name in SCHEDULE if name in options}
        self.attack_mode, self.attack_share = schedule.get('mode', 'paired'), schedule.get('share', 0.5)
        self.attack_masked, self.attack_every = schedule.get('masked', 1.0), schedule.get('every', 1)
        self.attack_warmup, self.warm_start = schedule.get('warmup', 0), schedule.get('warm_start', False)
        self.first_gradient = schedule.get('first_gradient', 'own')
        eps = options['eps']
        self.eps_range = tuple(eps) if isinstance(eps, (list, tuple)) else (eps, eps)
        self.attack = build_attack(
            {**options, 'eps': max(self.eps_range)}, lambda source: load_network(source).to(self.device)
        )
        if isinstance(self.attack.objective, TrainingLoss):
            self.attack.objective.gradient = self._gradient_of_training_loss
        self.perturbation: torch.Tensor | None = None
        self.cri_classifier = build_loss(self.opt['train']['classifier_opt']).to(self.device)
        self.means = RunningMeans(
            ('l_clean', 'l_attacked', 'l_classifier', 'classifier_acc', 'attacked_share', 'attack_eps', 't_attack')
        )
        super().init_training_settings()
        if hasattr(self, 'net_g_ema') and not self.bare_net.loaded_defense:
            # Both classifiers were filled at random; the average must start from the one that is trained.
            self.net_g_ema.defense.classifier.load_state_dict(self.classifier.state_dict())

    @property
    def bare_net(self):
        """The network in training, without a wrapper: gradients of the input need no all-reduce."""
        return self.get_bare_model(self.net_g)

    @property
    def classifier(self):
        """The adversarial sample classifier of the network in training."""
        return self.bare_net.defense.classifier

    def _trains_classifier(self, net):
        # What comes with the package is calibrated; images of one attack on one network would undo that.
        return self.opt['train'].get('train_classifier', net.defense.classifier.origin != BUILTIN)

    def _networks(self):
        """The network in training and its moving average, which Real-ESRGAN's artifact loss also asks."""
        return [self.bare_net] + ([self.net_g_ema] if hasattr(self, 'net_g_ema') else [])

    def _check_network(self):
        if isinstance(self.net_g, DataParallel):
            raise OptionsError(f'num_gpu: {self.opt["num_gpu"]} without a launcher; {USE_TORCHRUN}')
        if not isinstance(self.bare_net, DefenseMixin):
            raise OptionsError(
                f'model_type {type(self).__name__} needs a defended network_g; write type: '
                f'Defended{type(self.bare_net).__name__}'
            )

    def setup_optimizers(self):
        """Move the classifier out of the generator's optimizer into its own."""
        train_opt = self.opt['train']
        own = {id(p) for p in self.classifier.parameters()}
        # BasicSR would warn of every parameter that the generator's optimizer does not get.
        frozen = [p for p in self.classifier.parameters() if not p.requires_grad]
        self.classifier.requires_grad_(True)
        super().setup_optimizers()
        for parameter in frozen:
            parameter.requires_grad_(False)
        for group in self.optimizer_g.param_groups:
            group['params'] = [p for p in group['params'] if id(p) not in own]
        self.optimizer_classifier = None
        if not self._trains_classifier(self.bare_net):
            get_root_logger().info(f'The classifier ({self.classifier.origin}) is not trained.')
            return
        optim_opt = dict(train_opt['optim_classifier'])
        self.optimizer_classifier = self.get_optimizer(
            optim_opt.pop('type'), [p for p in self.classifier.parameters() if p.requires_grad], **optim_opt
        )
        self.optimizers.append(self.optimizer_classifier)

    def optimize_parameters(self, current_iter):
        if self.opt['train'].get('target') == 'pretrained':
            self._take_pretrained_target()
        attacks = current_iter % self.attack_every == 0
        lessons = (2 if self.attack_mode == 'alternating' else 1) if attacks else 0
        if self.optimizer_classifier is not None:
            self.optimizer_classifier.zero_grad()
        for batch in self.attacked_batches(current_iter) if attacks else [self._clean_batch()]:
            with contextlib.ExitStack() as stack:
                stack.enter_context(self._forced(batch.decision))
                if lessons or self.opt['dist']:  # several processes wait for the gradient of every parameter
                    stack.enter_context(self._lesson(batch.labels, 1 / lessons if lessons else 0))
                super().optimize_parameters(current_iter)
            self._note(batch.labels)
        if self.optimizer_classifier is not None and attacks:
            self.optimizer_classifier.step()

    def _clean_batch(self):
        return Batch(torch.zeros(len(self.lq), dtype=torch.bool, device=self.lq.device), False)

    def attacked_batches(self, current_iter: int) -> Iterator[Batch]:
        """Put one batch after the other in place for a training step, and yield what is what in it.

        ``paired``: one batch, each sample clean and attacked. ``mixed``: one batch, a share of the samples attacked.
        ``alternating``: the clean batch, then the same attacked, against the network as the first step left it.
        """
        clean = self._clean_batch()
        size = len(self.lq)
        if self.attack_mode == 'alternating':
            lq = leaf = self.lq
            if self.first_gradient == 'clean_step':
                leaf = lq.detach().requires_grad_()
                self.lq = leaf.clone()  # networks may begin with an in-place operation, which a leaf does not allow
            yield clean
            self.lq, decision = self.attack_images(lq, self.attack_target(), current_iter, leaf.grad)
            yield Batch(~clean.labels, decision)
        elif self.attack_mode == 'paired':
            attacked, decision = self.attack_images(self.lq, self.attack_target(), current_iter)
            self.lq = torch.cat([self.lq, attacked])
            for name in self._targets():
                setattr(self, name, getattr(self, name).repeat(2, 1, 1, 1))
            labels = torch.cat([clean.labels, ~clean.labels])
            yield Batch(labels, torch.cat([clean.labels, self._for_each(decision, size)]))
        else:
            # Rounded at random, so that the share holds on average in the smallest batch too.
            count = _rounded_at_random(self.attack_share * size)
            if not count:
                yield clean
                return
            chosen = torch.randperm(size, device=self.lq.device)[:count]
            attacked, decision = self.attack_images(self.lq[chosen], self.attack_target()[chosen], current_iter)
            self.lq = self.lq.index_copy(0, chosen, attacked)
            labels, masked = clean.labels.clone(), clean.labels.clone()
            labels[chosen] = True
            masked[chosen] = self._for_each(decision, count)
            yield Batch(labels, masked)

    def attack_images(
        self, lq: torch.Tensor, target: torch.Tensor, current_iter: int, first_gradient: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, bool | torch.Tensor]:
        """Attack images as the network will see them, each with a radius of its own where ``attack: eps`` is a range.

        Args:
            lq: low-resolution images, (B, C, H, W) in [0, 1].
            target: what the objective compares with, (B, C, sH, sW).
            current_iter: the iteration.
            first_gradient: that of the first step, (B, C, H, W), where it is known; None has the attack compute it.

        Returns:
            The attacked images, and which of them pass the masks: the share ``attack: masked``.
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
        if not self.attack.objective.needs_ground_truth:
            with torch.no_grad(), net.defense.forced(False):
                target = net(lq)
        start = self._last_perturbation(lq) if self.warm_start else None
        with self._forced(decision):
            attacked = self.attack.perturb(net, lq, target, eps=eps, start=start, first_gradient=first_gradient)
        if self.warm_start:
            self.perturbation = attacked - lq
        self.means.add_times(t_attack=stopwatch.stopped())
        self.means.add('attack_eps', eps)
        return attacked, decision

    @contextlib.contextmanager
    def _forced(self, decision: Decision) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for net in self._networks():
                stack.enter_context(net.defense.forced(decision))
            yield

    def _gradient_of_training_loss(self, x: torch.Tensor) -> torch.Tensor:
        """Gradient of the sum of all losses of the class's own step with respect to ``lq``, (B, C, H, W)."""
        iteration = iteration_of_generator(self.opt['train'])
        step = functools.partial(super().optimize_parameters, iteration)
        return gradient_of_step(self, step, x, self.attack.precision)

    def _last_perturbation(self, lq):
        """The perturbations of the last batch, as often as it takes (Shafahi et al. 2019); None for other sizes."""
        last = self.perturbation
        if last is None or last.shape[1:] != lq.shape[1:]:
            return None
        return last[torch.arange(len(lq), device=lq.device) % len(last)]

    def _for_each(self, decision, size):
        return torch.full((size,), decision, device=self.lq.device) if isinstance(decision, bool) else decision

    def _targets(self):
        """Names of the attributes that hold one target an image."""
        # RealESRNetModel has a gt_usm too, but of the last image it was validated with.
        return ['gt', 'gt_usm'] if 'l1_gt_usm' in self.opt else ['gt']

    def attack_target(self) -> torch.Tensor:
        """The images that the pixel loss compares with."""
        return self.gt_usm if self.opt.get('l1_gt_usm') else self.gt

    @torch.no_grad()
    def _take_pretrained_target(self):
        """Train towards what the network made of the clean images before the training, instead of the ground truth.

        Every loss of the step then has it as its target: fine-tuning keeps the look of the weights.
        """
        target = self.start_net(self.lq).clamp(0, 1)
        for name in self._targets():
            setattr(self, name, target)

    @contextlib.contextmanager
    def _lesson(self, labels, weight):
        """Within the block, a backward pass from the network's output gives the classifier its gradient too."""
        classes = labels.long()  # class 1 is attacked
        given = []

        def attach(module, args, output):
            if given or not torch.is_grad_enabled():
                return None  # one lesson is enough for a model that asks the network twice
            with torch.set_grad_enabled(self.optimizer_classifier is not None):
                # Detached: where the step's gradient of the input is an attack's, it is that of the step's own losses.
                logits = self.classifier(args[0].detach())
                loss = self.cri_classifier(logits, classes)
            given.append((logits.detach(), loss.detach()))
            if self.optimizer_classifier is None:
                return None
            if isinstance(output, torch.Tensor):
                return _Attached.apply(output, weight * loss)
            parts = (*output[:-1], _Attached.apply(output[-1], weight * loss))
            return type(output)(*parts) if hasattr(output, '_fields') else parts

        handle = self.bare_net.register_forward_hook(attach)
        try:
            yield
        finally:
            handle.remove()
        for logits, loss in given if weight else ():
            self.means.add('l_classifier', loss)
            self.means.add('classifier_acc', logits.argmax(dim=1) == classes)

    @torch.no_grad()
    def _note(self, labels):
        error = (self.output - self.attack_target()).abs().flatten(1).mean(1)
        self.means.add('l_clean', error, ~labels)
        self.means.add('l_attacked', error, labels)
        self.means.add('attacked_share', labels)

    def get_current_log(self):
        """BasicSR's losses of this step, and ours: means over all steps and processes since the last call."""
        return OrderedDict({**super().get_current_log(), **self.means.take(distributed=self.opt['dist'])})

    def more_state(self) -> dict[str, Any]:
        last = None if self.perturbation is None else self.perturbation.cpu()
        return {**super().more_state(), 'perturbation': last}

    def restore_more_state(self, mine):
        super().restore_more_state(mine)
        last = mine.get('perturbation')
        self.perturbation = None if last is None else last.to(self.device)

    def resume_training(self, resume_state):
        """Restore optimizers and schedulers.

        Raises:
            OptionsError: the state was written with another number of them.
        """
        if len(resume_state['optimizers']) != len(self.optimizers):
            raise OptionsError(
                f'the training state has {len(resume_state["optimizers"])} optimizers, these options '
                f'make {len(self.optimizers)}; train: train_classifier must be as it was'
            )
        super().resume_training(resume_state)


class _Attached(torch.autograd.Function):
    """An image as it is, with a loss that gets a gradient of 1 when the image gets its own."""

    @staticmethod
    def forward(ctx, image, loss):
        ctx.one = torch.ones_like(loss)
        return image.view_as(image)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, ctx.one


def _rounded_at_random(number):
    """The whole number below or above, by chance, so that the mean is kept."""
    return int(number + random.random())
