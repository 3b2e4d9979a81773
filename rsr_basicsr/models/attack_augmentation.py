"""Attack augmentation: adversarial training as a step before a BasicSR model's own training step."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from basicsr.losses import build_loss
from basicsr.utils import get_root_logger
from torch import nn
from torch.nn.parallel import DataParallel

from rsr_basicsr.archs.classifier import SampleClassifier
from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.catalog.choices import BUILTIN
from rsr_basicsr.models.attacked_batches import AttackedBatches
from rsr_basicsr.models.between_processes import average_untrained
from rsr_basicsr.models.joint_loss import joint_loss
from rsr_basicsr.models.resumed_schedule import Hyperparameters
from rsr_basicsr.models.running_means import RunningMeans
from rsr_basicsr.models.training_gradient import forward_in
from rsr_basicsr.utils.errors import OptionsError

USE_TORCHRUN = (
    'start one process per GPU with: torchrun --nproc_per_node=N -m rsr_basicsr.train -opt FILE --launcher '
    'pytorch; or write num_gpu: 1'
)


@contextlib.contextmanager
def _without_tuning() -> Iterator[None]:
    """Within the block cuDNN does not try its algorithms: the images of a validation have many sizes."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class AttackAugmentation(AttackedBatches):
    """Mixin for a BasicSR model class: attacks the batch, then calls the class's own training step.

    The batch is attacked at the start of ``optimize_parameters``, after Real-ESRGAN's degradations and training pair
    pool, which therefore never hold stale adversarial samples. The step sees clean and attacked images, with the gate
    forced by their labels (Yue et al. 2021), and the classifier learns the same labels with its own loss and optimizer.

    The attack runs on the bare network with gradients of the input only, and the classifier's loss joins the backward
    pass of the step: with several processes, gradients are reduced as often as without an attack. (In a step that skips
    ``net_g``, as in GANs with ``net_d_iters`` above 1, the classifier learns nothing.)

    Options: ``train: train_classifier``, ``target``, ``precision``, ``optim_classifier`` and ``classifier_opt``, and
    those of :class:`AttackedBatches`; :mod:`rsr_basicsr.options` has the schema.

    Within a step the host does not wait for the device: logged values stay there until they are printed.
    """

    output: torch.Tensor
    optimizer_g: torch.optim.Optimizer
    optimizers: list[torch.optim.Optimizer]
    schedulers: list[torch.optim.lr_scheduler.LRScheduler]

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """As BasicSR does; a classifier that is not trained is frozen first, and the network laid out and compiled."""
        if not self.opt['is_train']:
            return super().model_to_device(net)
        if isinstance(net, DefenseMixin) and not self._trains_classifier(net):
            net.defense.classifier.requires_grad_(False)  # or DistributedDataParallel would wait for its gradients
        if self.options.train.channels_last:
            net = net.to(memory_format=torch.channels_last)
        if self.options.train.compile and isinstance(net, DefenseMixin):
            net.compile_passes()
        return super().model_to_device(net)

    def init_training_settings(self) -> None:
        """Build the attack and the classifier's loss, then do as BasicSR does.

        Raises:
            OptionsError: the network is not defended, or wrapped in DataParallel.
        """
        self._check_network()
        self.prepare_attack()
        self.cri_classifier = build_loss(self.options.train.classifier_opt.plain()).to(self.device)
        self.means = RunningMeans(
            ('l_clean', 'l_attacked', 'l_classifier', 'classifier_acc', 'attacked_share', 'attack_eps', 't_attack'),
            self.device,
        )
        super().init_training_settings()
        if hasattr(self, 'net_g_ema') and self.options.train.channels_last:
            self.net_g_ema.to(memory_format=torch.channels_last)  # as the network that it averages
        if hasattr(self, 'net_g_ema') and not self.bare_net.loaded_defense:
            # Both classifiers were initialized at random; the average must start from the one that is trained.
            self.net_g_ema.defense.classifier.load_state_dict(self.classifier.state_dict())

    @property
    def classifier(self) -> SampleClassifier:
        """The adversarial sample classifier of the network in training."""
        return self.bare_net.defense.classifier

    def _trains_classifier(self, net: DefenseMixin) -> bool:
        # The built-in classifier is calibrated; training it with one attack on one network would undo that.
        wanted = self.options.train.train_classifier
        return net.defense.classifier.origin != BUILTIN if wanted is None else wanted

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
        optim_opt = self.options.train.optim_classifier.plain()
        optimizer = self.get_optimizer(
            optim_opt.pop('type'), [p for p in self.classifier.parameters() if p.requires_grad], **optim_opt
        )
        self.optimizer_classifier = optimizer
        self.optimizers.append(optimizer)

    def optimize_parameters(self, current_iter: int) -> None:
        """Attack the batch, run the class's own step on it, and update the classifier."""
        if self.options.train.channels_last:
            self.lq = self.lq.contiguous(memory_format=torch.channels_last)
        if self.options.train.target == 'pretrained':
            self._take_pretrained_target()
        attacks = current_iter % self.schedule.every == 0
        classifier_steps = (2 if self.schedule.mode == 'alternating' else 1) if attacks else 0
        if self.optimizer_classifier is not None:
            self.optimizer_classifier.zero_grad()
        for batch in self.attacked_batches(current_iter) if attacks else [self._clean_batch()]:
            with contextlib.ExitStack() as stack:
                stack.enter_context(self._forced(batch.decision))
                if self._runs_classifier(current_iter, attacks):
                    weight = 1 / classifier_steps if classifier_steps else 0
                    stack.enter_context(self._joint_loss(batch.labels, weight))
                stack.enter_context(forward_in(self.options.train.precision, self.net_g))
                super().optimize_parameters(current_iter)
            self._log_errors(batch.labels)
        if self.optimizer_classifier is not None and attacks:
            self.optimizer_classifier.step()

    def _runs_classifier(self, current_iter: int, attacks: bool) -> bool:
        """Whether the classifier runs in a step: it is trained, or its loss and accuracy are printed after it."""
        if self.optimizer_classifier is not None:
            return attacks or self.opt['dist']  # DistributedDataParallel waits for the gradient of every parameter
        return attacks and current_iter % self.opt['logger']['print_freq'] == 0

    @torch.no_grad()
    def _take_pretrained_target(self) -> None:
        """Replace the ground truth by the output of the pretrained network for the clean images.

        It is the target of every loss of the step, so that fine-tuning keeps the style of the pretrained network.
        """
        with cast(DefenseMixin, self.start_net).defense.without_waiting():
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

    def reduce_loss_dict(self, loss_dict: Mapping[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
        """Keep the losses of a step on the device, where BasicSR reads them in each step; see get_current_log."""
        return OrderedDict((name, loss.detach().mean()) for name, loss in loss_dict.items())

    def get_current_log(self) -> OrderedDict[str, float]:
        """BasicSR's losses of this step, and ours as means over all steps and processes since the last call."""
        losses = super().reduce_loss_dict(super().get_current_log())
        return OrderedDict({**losses, **self.means.take(distributed=self.opt['dist'])})

    def save(self, epoch: int, current_iter: int) -> None:
        """As BasicSR does; processes agree on the classifier first."""
        self._share_statistics()
        super().save(epoch, current_iter)

    def validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool = False) -> None:
        """As BasicSR does; processes agree on the classifier first."""
        self._share_statistics()
        with _without_tuning():
            super().validation(dataloader, current_iter, tb_logger, save_img)

    @torch.no_grad()
    def model_ema(self, decay: float = 0.999) -> None:
        """As BasicSR does, in one call for all parameters instead of two for each."""
        averages, current = (list(net.parameters()) for net in (self.net_g_ema, self.bare_net))
        torch._foreach_lerp_(averages, current, 1 - decay)

    def _share_statistics(self) -> None:
        """Average what the classifier keeps without training it over all processes."""
        if self.opt['is_train'] and self.optimizer_classifier is not None:
            nets = filter(None, (self.bare_net, getattr(self, 'net_g_ema', None)))
            average_untrained([net.defense.classifier for net in nets], self.opt['world_size'])

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Restore optimizers and schedulers; with ``train: resume_from: options``, with learning rates of the options.

        Raises:
            OptionsError: the training state has another number of optimizers.
        """
        if len(resume_state['optimizers']) != len(self.optimizers):
            raise OptionsError(
                f'the training state has {len(resume_state["optimizers"])} optimizers, these options '
                f'make {len(self.optimizers)}; train: train_classifier must be as it was'
            )
        hyperparameters = Hyperparameters(self.optimizers, self.schedulers)
        super().resume_training(resume_state)
        differences = hyperparameters.differences()
        if differences and self.options.train.resume_from == 'options':
            hyperparameters.restore()
        elif differences:
            get_root_logger().warning(
                f'The training state goes on with {"; ".join(differences)}. Write train: resume_from: options to go on '
                'with those of the options'
            )
