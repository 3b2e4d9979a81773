"""Training of an adversarial sample classifier on its own, by BasicSR's trainer."""

from __future__ import annotations

import itertools
import json
import os.path as osp
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from basicsr.archs import build_network
from basicsr.data import build_dataset
from basicsr.losses import build_loss
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from scipy.special import expit
from torch import distributed as dist
from torch.utils.data import DataLoader

from rsr_basicsr.archs.classifier import log_odds
from rsr_basicsr.checkpoints import WholeCheckpoints
from rsr_basicsr.metrics.detection import ScoredImage, best_temperature, error_table, rates
from rsr_basicsr.models.running_means import RunningMeans
from rsr_basicsr.utils.errors import OptionsError
from rsr_basicsr.utils.random_streams import random_streams_kept

_PREPARED_WITH = 256  # pairs
_PARTS = ('clean', 'extra', 'lq', 'attacked')  # of a batch; the attacked ones last
_FACTS = ('source', 'eps', 'network', 'attack', 'key')


@MODEL_REGISTRY.register()
class FrequencyClassifierModel(WholeCheckpoints, SRModel):
    """Trains a classifier (``network_g``) to tell attacked images from clean ones.

    Data sets give batches with ``clean``, and ``attacked`` where there is an attack, (B, 3, H, W) in [0, 1], with more
    clean ones as ``extra``; or ``lq`` alone, as BasicSR's SingleImageDataset does, whose images are clean.
    Validation measures the area under the ROC curve, accuracy, false alarms by source and misses by eps, network and
    attack; it writes every score into ``detection_NAME.json`` of the experiment.

    Before weights are saved they are calibrated, if ``train: calibration`` names data sets and a share of false
    alarms: their temperature and their threshold are those of these data sets.
    """

    def init_training_settings(self):
        train_opt = self.opt['train']
        self.net_g.train()
        self._prepare()
        self.ema_decay = train_opt.get('ema_decay', 0)
        if self.ema_decay > 0:
            self.net_g_ema = build_network(self.opt['network_g']).to(self.device)
            if self.opt['path'].get('pretrain_network_g') is not None:
                self.load_network(
                    self.net_g_ema,
                    self.opt['path']['pretrain_network_g'],
                    self.opt['path'].get('strict_load_g', True),
                    'params_ema',
                )
            else:
                self.net_g_ema.load_state_dict(self.get_bare_model(self.net_g).state_dict())
            self.net_g_ema.eval()
        self.cri_classifier = build_loss(train_opt.get('classifier_opt') or {'type': 'ClassifierLoss'}).to(self.device)
        self.clip = train_opt.get('clip_gradient')
        self.means = RunningMeans(('l_classifier', 'classifier_acc'))
        self.calibration_sets = [
            build_dataset({'name': 'calibration', 'phase': 'val', **options})
            for options in (train_opt.get('calibration') or {}).get('datasets', ())
        ]
        entries = [entry for dataset in self.calibration_sets for entry in getattr(dataset, 'entries', ())]
        if entries and not any('attack' in facts for _, facts in entries):
            raise OptionsError('train.calibration.datasets: there is no attacked image in them; add a set of pairs')
        self.setup_optimizers()
        self.setup_schedulers()

    def _prepare(self):
        """Show a network that wants it some of the images before it is trained from scratch."""
        net = self.get_bare_model(self.net_g)
        given = self.opt['path'].get('pretrain_network_g') or self.opt['network_g'].get('weights')
        if given or not hasattr(net, 'prepare'):
            return
        with random_streams_kept():
            torch.manual_seed(0)  # every process sees the same
            options = self.opt['datasets']['train']
            loader = DataLoader(
                build_dataset({**options, 'phase': 'train'}), options['batch_size_per_gpu'], shuffle=True
            )
            net.prepare(
                self._images(data)
                for data in itertools.islice(loader, -(-_PREPARED_WITH // options['batch_size_per_gpu']))
            )

    @property
    def deployed_net(self):
        """The network that is validated and kept: the moving average where there is one."""
        return self.net_g_ema if hasattr(self, 'net_g_ema') else self.get_bare_model(self.net_g)

    def _images(self, data):
        return torch.cat([data[name] for name in _PARTS if name in data]).to(self.device)

    def feed_data(self, data: dict[str, Any]):
        """Put the clean images of a batch, then the attacked ones, in place."""
        self.lq = self._images(data)
        attacked = len(data['attacked']) if 'attacked' in data else 0
        self.labels = torch.arange(len(self.lq), device=self.device) >= len(self.lq) - attacked

    def optimize_parameters(self, current_iter):
        self.optimizer_g.zero_grad()
        # Before the temperature, or how often a training is calibrated would change what it learns.
        logits = self.net_g(self.lq) * self.get_bare_model(self.net_g).temperature
        loss = self.cri_classifier(logits, self.labels.long())  # class 1 is attacked
        loss.backward()
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.net_g.parameters(), self.clip)
        self.optimizer_g.step()
        if self.ema_decay > 0:
            # The average of the first steps would be that of the random start.
            self.model_ema(decay=min(self.ema_decay, current_iter / (current_iter + 10)))
        self.means.add('l_classifier', loss)
        self.means.add('classifier_acc', (log_odds(logits) > 0) == self.labels)
        self.log_dict = OrderedDict()

    def get_current_log(self):
        """Means over all steps and processes since the last call."""
        return OrderedDict(self.means.take(distributed=self.opt['dist']))

    @torch.no_grad()
    def scores(self, loader: Iterable[dict[str, Any]]) -> list[ScoredImage]:
        """What the deployed network says of each image of a data set."""
        net = self.deployed_net
        training = net.training
        net.eval()
        verdicts = []
        for data in loader:
            self.feed_data(data)
            odds = log_odds(net(self.lq)).double()
            flagged = ~(odds <= -net.threshold.double().logit())  # what is not a number, too
            rows = iter(zip(odds.tolist(), flagged.tolist(), self.labels.tolist()))
            for part in (name for name in _PARTS if name in data):
                for index in range(len(data[part])):
                    facts = (
                        {} if part == 'extra' else {name: _entry(data[name], index) for name in _FACTS if name in data}
                    )
                    verdicts.append(ScoredImage(*next(rows), facts))
        net.train(training)
        return verdicts

    @torch.no_grad()
    def calibrate(self):
        """Set temperature and threshold by the calibration sets, in the network in training and its average alike."""
        net = self.deployed_net
        numbers = torch.zeros(2, device=self.device)
        if self.opt['rank'] == 0:
            with random_streams_kept():
                verdicts = [
                    verdict for dataset in self.calibration_sets for verdict in self.scores(DataLoader(dataset))
                ]
            clean, attacked = (
                net.temperature.item() * np.array([v.score for v in verdicts if v.attacked is label])
                for label in (False, True)
            )
            temperature = best_temperature(clean, attacked)
            # Not in between: the share of the images beyond must not be more than was asked for.
            share = 1 - self.opt['train']['calibration']['false_alarms']
            limit = np.quantile(clean / temperature, share, method='higher')
            numbers = torch.tensor([temperature, expit(-limit)], dtype=torch.float32, device=self.device)
            if not 1e-6 < numbers[1] < 1 - 1e-6:
                get_root_logger().warning(
                    f'The threshold of P(clean) would be {expit(-limit):.2g}, beyond what can be '
                    'told from 0 and 1: the calibration sets are too easy, or too small.'
                )
        if self.opt['dist']:
            dist.broadcast(numbers, 0)
        for each in {self.get_bare_model(self.net_g), net}:
            each.temperature.copy_(numbers[0])
            each.threshold.copy_(numbers[1].clamp(1e-6, 1 - 1e-6))

    def save(self, epoch, current_iter):
        """Calibrate, then save."""
        if self.calibration_sets:
            self.calibrate()
        super().save(epoch, current_iter)

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        name = dataloader.dataset.opt['name']
        verdicts = self.scores(dataloader)
        for index, verdict in enumerate(verdicts):
            if 'source' not in verdict.facts:
                verdicts[index] = verdict._replace(facts={'source': name})
        found = rates(verdicts)
        lines = [
            f'Validation {name}, {len(verdicts)} images, threshold {float(self.deployed_net.threshold):.4f}: '
            + ', '.join(f'{key} {value:.4f}' for key, value in found.items())
        ]
        for row in error_table(verdicts):
            auc = '' if row.auc is None else f', auc {row.auc:.4f}'
            lines.append(
                f'\t{row.group} {row.name}: {row.images} images, '
                f'{"false alarms" if row.group == "source" else "misses"} {row.error:.4f}{auc}'
            )
            if tb_logger:
                tb_logger.add_scalar(f'metrics/{name}/{row.group}_{row.name}', row.error, current_iter)
        get_root_logger().info('\n'.join(lines))
        for key, value in found.items() if tb_logger else ():
            tb_logger.add_scalar(f'metrics/{name}/{key}', value, current_iter)
        folder = self.opt['path']['experiments_root' if self.opt['is_train'] else 'results_root']
        with open(osp.join(folder, f'detection_{name}.json'), 'w', encoding='utf-8') as file:
            json.dump(
                {
                    'rates': found,
                    'threshold': float(self.deployed_net.threshold),
                    'verdicts': [verdict._asdict() for verdict in verdicts],
                },
                file,
            )


def _entry(values, index):
    """Entry of a collated batch, as a plain value."""
    value = values[index]
    return value.item() if isinstance(value, torch.Tensor) else value
