"""Attack augmentation: adversarial training as one step in front of a BasicSR model's own."""

from __future__ import annotations

import contextlib
import random
import time
from collections import OrderedDict
from typing import Iterator, Tuple

import torch
from basicsr.losses import build_loss
from torch.nn.parallel import DataParallel, DistributedDataParallel

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.attacks import build_attack
from rsr_basicsr.errors import OptionsError
from rsr_basicsr.inference import OVERLAP, upscale
from rsr_basicsr.weights import load_network


class AttackAugmentation:
    """Mixin in front of a BasicSR model class: attacks the batch, then calls the class's own training step.

    The batch is attacked at the start of ``optimize_parameters``: after Real-ESRGAN's degradations and training
    pair pool, which therefore never hold a stale adversarial sample. The step then sees clean and attacked pictures
    with the gate forced by their labels (Yue et al. 2021), and the classifier learns the same labels by
    its own loss and optimizer.

    Options: the top-level block ``attack`` (an attack of :mod:`rsr_basicsr.attacks` plus ``mode`` and ``share``),
    ``train: train_classifier``, ``optim_classifier`` and ``classifier_opt``, and ``val: tile`` and ``tile_overlap``;
    :mod:`rsr_basicsr.options` has the schema.

    Nothing here makes the host wait for the device: what it logs stays there until it is printed.
    """

    #: Attributes of the model that hold one target a picture, besides ``lq``.
    target_names: Tuple[str, ...] = ('gt',)

    def init_training_settings(self):
        self._check_network()
        options = dict(self.opt['attack'])
        self.attack_mode = options.pop('mode')
        self.attack_share = options.pop('share')
        eps = options['eps']
        self.eps_range = tuple(eps) if isinstance(eps, (list, tuple)) else (eps, eps)
        self.attack = build_attack({**options, 'eps': max(self.eps_range)},
                                   lambda source: load_network(source).to(self.device))
        self.cri_classifier = build_loss(self.opt['train']['classifier_opt']).to(self.device)
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

    def _networks(self):
        """The network in training and its moving average, which Real-ESRGAN's artifact loss also asks."""
        return [self.bare_net] + ([self.net_g_ema] if hasattr(self, 'net_g_ema') else [])

    def _check_network(self):
        if isinstance(self.net_g, (DataParallel, DistributedDataParallel)):
            raise OptionsError('attack augmentation trains on one GPU or on the CPU so far; set num_gpu to 1 or 0 and '
                               'start without --launcher')
        if not isinstance(self.net_g, DefenseMixin):
            raise OptionsError(f'model_type {type(self).__name__} needs a defended network_g; write type: '
                               f'Defended{type(self.net_g).__name__}')

    def setup_optimizers(self):
        """Move the classifier out of the generator's optimizer into its own."""
        super().setup_optimizers()
        train_opt = self.opt['train']
        own = {id(p) for p in self.classifier.parameters()}
        for group in self.optimizer_g.param_groups:
            group['params'] = [p for p in group['params'] if id(p) not in own]
        self.optimizer_classifier = None
        if not train_opt.get('train_classifier', True):
            return
        optim_opt = dict(train_opt['optim_classifier'])
        self.optimizer_classifier = self.get_optimizer(optim_opt.pop('type'), self.classifier.parameters(), **optim_opt)
        self.optimizers.append(self.optimizer_classifier)

    def optimize_parameters(self, current_iter):
        seen, self.stopwatch = [], None
        for labels in self.attacked_batches():
            with contextlib.ExitStack() as stack:
                for net in self._networks():
                    stack.enter_context(net.defense.forced(labels))
                super().optimize_parameters(current_iter)
            with torch.no_grad():
                seen.append((self.lq, labels, (self.output - self.attack_target()).abs().flatten(1).mean(1)))
        lq, labels, error = map(torch.cat, zip(*seen))
        self.log_dict.update(self.optimize_classifier(lq, labels))
        # Of no samples, such as the clean ones with share: 1, the mean is nan.
        for name, mine in (('l1_clean', ~labels), ('l1_attacked', labels)):
            self.log_dict[name] = error.where(mine, 0).sum() / mine.sum()
        self.log_dict['t_attack'] = self.stopwatch.seconds() if self.stopwatch else 0.0

    def attacked_batches(self) -> Iterator[torch.Tensor]:
        """Put one batch after the other in place for a training step, and yield its labels: bool, True where attacked.

        ``paired``: one batch, each sample clean and attacked. ``mixed``: one batch, a share of the samples attacked.
        ``alternating``: the clean batch, then the same attacked, against the network as the first step left it.
        """
        batch = self.lq.shape[0]
        labels = torch.zeros(batch, dtype=torch.bool, device=self.lq.device)
        if self.attack_mode == 'alternating':
            yield labels
            self.lq = self.attack_pictures(self.lq, self.attack_target())
            yield ~labels
        elif self.attack_mode == 'paired':
            self.lq = torch.cat([self.lq, self.attack_pictures(self.lq, self.attack_target())])
            for name in self.target_names:
                setattr(self, name, getattr(self, name).repeat(2, 1, 1, 1))
            yield torch.cat([labels, ~labels])
        else:
            # Rounded at random, so that the share holds on average in the smallest batch too.
            count = int(self.attack_share * batch + random.random())
            chosen = torch.randperm(batch, device=self.lq.device)[:count]
            if count:
                attacked = self.attack_pictures(self.lq[chosen], self.attack_target()[chosen])
                self.lq = self.lq.index_copy(0, chosen, attacked)
                labels[chosen] = True
            yield labels

    def attack_pictures(self, lq: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Attack through the masks, each sample with a radius of its own where ``attack: eps`` is a range."""
        self.stopwatch = _Stopwatch(lq.device)
        low, high = self.eps_range
        eps = low + (high - low) * torch.rand(lq.shape[0], device=lq.device)
        net = self.bare_net
        if not self.attack.objective.needs_ground_truth:
            with torch.no_grad(), net.defense.forced(False):
                target = net(lq)
        with net.defense.forced(True):
            attacked = self.attack.perturb(net, lq, target, eps=eps)
        self.stopwatch.stop()
        return attacked

    def attack_target(self) -> torch.Tensor:
        """The pictures that the training loss compares with."""
        return self.gt

    def optimize_classifier(self, lq: torch.Tensor, labels: torch.Tensor) -> OrderedDict:
        """One step of the classifier on the pictures that the network has just seen.

        With ``train_classifier: false`` its loss and accuracy are logged all the same, as in the published code.
        """
        classes = labels.long()  # class 1 is attacked
        with torch.set_grad_enabled(self.optimizer_classifier is not None):
            logits = self.classifier(lq)
            loss = self.cri_classifier(logits, classes)
        if self.optimizer_classifier is not None:
            self.optimizer_classifier.zero_grad()
            loss.backward()
            self.optimizer_classifier.step()
            self.optimizer_classifier.zero_grad()
        accuracy = (logits.argmax(dim=1) == classes).float().mean()
        return OrderedDict(l_classifier=loss.detach(), classifier_acc=accuracy)

    def resume_training(self, resume_state):
        """Restore optimizers and schedulers.

        Raises:
            OptionsError: the state was written with another number of them.
        """
        if len(resume_state['optimizers']) != len(self.optimizers):
            raise OptionsError(f'the training state has {len(resume_state["optimizers"])} optimizers, these options '
                               f'make {len(self.optimizers)}; train: train_classifier must be as it was')
        super().resume_training(resume_state)

    def test(self):
        """Upscale ``lq`` into ``output``, in tiles where ``val: tile`` is set."""
        val_opt = self.opt.get('val') or {}
        if not val_opt.get('tile'):
            super().test()
            return
        net = self.net_g_ema if hasattr(self, 'net_g_ema') else self.net_g
        training = net.training
        net.eval()
        with torch.no_grad():
            self.output = upscale(net, self.lq, tile=val_opt['tile'], overlap=val_opt.get('tile_overlap', OVERLAP))
        net.train(training and net is self.net_g)


class _Stopwatch:
    """Time between its making and ``stop``, measured on the device without waiting for it."""

    def __init__(self, device):
        self.on_gpu = device.type == 'cuda'
        self.started, self.stopped = self._now(), None

    def stop(self):
        self.stopped = self._now()

    def seconds(self):
        """To be asked when the host has waited for the device anyway, as it has behind BasicSR's own step."""
        return self.started.elapsed_time(self.stopped) / 1000 if self.on_gpu else self.stopped - self.started

    def _now(self):
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
