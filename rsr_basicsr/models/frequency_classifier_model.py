"""Training of an adversarial sample classifier alone, by BasicSR's trainer."""

from __future__ import annotations

import itertools
import json
import os.path as osp
from collections import OrderedDict
from typing import Any, cast

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
from torch import nn
from torch.utils.data import DataLoader, Dataset

from rsr_basicsr.archs.classifier import SampleClassifier, log_odds
from rsr_basicsr.checkpoints import WholeCheckpoints
from rsr_basicsr.metrics.detection import ScoredImage, best_temperature, error_table, rates
from rsr_basicsr.models.between_processes import average_untrained, gathered, share_of
from rsr_basicsr.models.running_means import RunningMeans
from rsr_basicsr.ops.random_streams import random_streams_kept
from rsr_basicsr.options.blocks import CalibrationOptions, ClassifierTrainOptions
from rsr_basicsr.options.parsing import typed
from rsr_basicsr.utils.errors import OptionsError

_PREPARED_WITH = 256  # pairs
_PARTS = ('clean', 'extra', 'lq', 'attacked')  # of a batch; the attacked images last
_FACTS = ('source', 'eps', 'network', 'attack', 'key')


@MODEL_REGISTRY.register()
class FrequencyClassifierModel(WholeCheckpoints, SRModel):
    """Trains a classifier (``network_g``) to distinguish attacked images from clean ones.

    Batches have ``clean`` images, ``attacked`` ones if there is an attack, (B, 3, H, W) in [0, 1], and optionally more
    clean ones as ``extra``; or ``lq`` alone, as from BasicSR's SingleImageDataset, whose images count as clean.
    Validation measures the area under the ROC curve, accuracy, false alarms per source, and misses per eps, network and
    attack; it writes every score to ``detection_NAME.json`` in the folder of the experiment.

    If ``train: calibration`` names data sets and a false alarm rate, temperature and threshold are calibrated on these
    data sets before weights are saved.
    """

    net_g: nn.Module
    optimizer_g: torch.optim.Optimizer

    def init_training_settings(self) -> None:
        """Build the moving average, the loss, the calibration sets and the optimizer.

        Raises:
            OptionsError: the calibration sets have no attacked image.
        """
        train_opt = self.opt['train']
        self.net_g.train()
        self._prepare()
        self.ema_decay = train_opt.get('ema_decay', 0)
        if self.ema_decay > 0:
            self.net_g_ema = self._build_average()
        self.cri_classifier = build_loss(train_opt.get('classifier_opt') or {'type': 'ClassifierLoss'}).to(self.device)
        own = typed(ClassifierTrainOptions, train_opt)
        self.clip, self.calibration = own.clip_gradient, own.calibration
        self.means = RunningMeans(('l_classifier', 'classifier_acc'), self.device)
        self.calibration_sets = [
            build_dataset({'name': 'calibration', 'phase': 'val', **options})
            for options in (self.calibration.datasets if self.calibration else ())
        ]
        entries = [entry for dataset in self.calibration_sets for entry in getattr(dataset, 'entries', ())]
        if entries and not any('attack' in facts for _, facts in entries):
            raise OptionsError('train.calibration.datasets: there is no attacked image in them; add a set of pairs')
        self.setup_optimizers()
        self.setup_schedulers()

    def _build_average(self) -> SampleClassifier:
        """The moving average of the weights, initialized as the network in training."""
        net = build_network(self.opt['network_g']).to(self.device)
        paths = self.opt['path']
        if paths.get('pretrain_network_g') is not None:
            self.load_network(net, paths['pretrain_network_g'], paths.get('strict_load_g', True), 'params_ema')
        else:
            net.load_state_dict(self.get_bare_model(self.net_g).state_dict())
        return net.eval()

    def _prepare(self) -> None:
        """Before a training from scratch, let the network set its normalization from some images, if it does that."""
        net = self.get_bare_model(self.net_g)
        given = self.opt['path'].get('pretrain_network_g') or self.opt['network_g'].get('weights')
        if given or not hasattr(net, 'prepare'):
            return
        with random_streams_kept():
            torch.manual_seed(0)  # the same images on every process
            options = self.opt['datasets']['train']
            loader = DataLoader(
                build_dataset({**options, 'phase': 'train'}), options['batch_size_per_gpu'], shuffle=True
            )
            net.prepare(
                self._images(data)
                for data in itertools.islice(loader, -(-_PREPARED_WITH // options['batch_size_per_gpu']))
            )

    @property
    def deployed_net(self) -> SampleClassifier:
        """The network that is validated: the moving average if there is one."""
        net = self.net_g_ema if hasattr(self, 'net_g_ema') else self.get_bare_model(self.net_g)
        return cast(SampleClassifier, net)

    def _images(self, data: dict[str, Any]) -> torch.Tensor:
        """All images of a batch, the attacked ones last."""
        # Each on its own: putting them together on the host would lose that their memory is pinned.
        return torch.cat([data[name].to(self.device, non_blocking=True) for name in _PARTS if name in data])

    def feed_data(self, data: dict[str, Any]) -> None:
        """Put the clean images of a batch, then the attacked ones, in place."""
        self.lq = self._images(data)
        attacked = len(data['attacked']) if 'attacked' in data else 0
        self.labels = torch.arange(len(self.lq), device=self.device) >= len(self.lq) - attacked

    def optimize_parameters(self, current_iter: int) -> None:
        """One step of the classifier's loss."""
        self.optimizer_g.zero_grad()
        # Undo the temperature: otherwise calibrations would influence the training.
        logits = self.net_g(self.lq) * self.get_bare_model(self.net_g).temperature
        loss = self.cri_classifier(logits, self.labels.long())  # class 1 is attacked
        loss.backward()
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.net_g.parameters(), self.clip)
        self.optimizer_g.step()
        if self.ema_decay > 0:
            # A warm-up: the average of the first steps would be dominated by the random initialization.
            self.model_ema(decay=min(self.ema_decay, current_iter / (current_iter + 10)))
        self.means.add('l_classifier', loss)
        self.means.add('classifier_acc', (log_odds(logits) > 0) == self.labels)
        self.log_dict: OrderedDict[str, float] = OrderedDict()

    def get_current_log(self) -> OrderedDict[str, float]:
        """Means over all steps and processes since the last call."""
        return OrderedDict(self.means.take(distributed=self.opt['dist']))

    @torch.no_grad()
    def scores(self, dataset: Dataset[dict[str, Any]]) -> list[ScoredImage]:
        """Scores of the deployed network for each image of a data set, of which each process scores a share.

        To be called by every process; each gets all scores.

        Args:
            dataset: has items as :class:`FrequencyClassifierModel` describes the batches.
        """
        net = self.deployed_net
        training = net.training
        net.eval()
        loader = DataLoader(share_of(dataset, self.opt['rank'], self.opt['world_size']))
        scored = gathered([self._scored(net, data) for data in loader], self.opt['world_size'])
        net.train(training)
        return list(itertools.chain.from_iterable(scored))

    def _scored(self, net: SampleClassifier, data: dict[str, Any]) -> list[ScoredImage]:
        """Scores of the images of one batch."""
        self.feed_data(data)
        odds = log_odds(net(self.lq)).double()
        flagged = ~(odds <= -net.threshold.double().logit())  # NaN counts as attacked
        rows = iter(zip(odds.tolist(), flagged.tolist(), self.labels.tolist()))
        verdicts = []
        for part in (name for name in _PARTS if name in data):
            for index in range(len(data[part])):
                facts = {} if part == 'extra' else {name: _entry(data[name], index) for name in _FACTS if name in data}
                verdicts.append(ScoredImage(*next(rows), facts))
        return verdicts

    @torch.no_grad()
    def calibrate(self) -> None:
        """Set temperature and threshold from the calibration sets, in the network and in its moving average."""
        net = self.deployed_net
        with random_streams_kept():
            verdicts = [verdict for dataset in self.calibration_sets for verdict in self.scores(dataset)]
        clean, attacked = (
            net.temperature.item() * np.array([v.score for v in verdicts if v.attacked is label])
            for label in (False, True)
        )
        temperature = best_temperature(clean.tolist(), attacked.tolist())
        # method: without interpolation, so that the false alarm rate does not exceed the target.
        share = 1 - cast(CalibrationOptions, self.calibration).false_alarms
        limit = np.quantile(clean / temperature, share, method='higher')
        numbers = torch.tensor([temperature, expit(-limit)], dtype=torch.float32, device=self.device)
        if not 1e-6 < numbers[1] < 1 - 1e-6:
            get_root_logger().warning(
                f'The threshold of P(clean) would be {expit(-limit):.2g}, too close to 0 or 1 to be '
                'represented: the calibration sets are too easy, or too small.'
            )
        if self.opt['dist']:
            dist.broadcast(numbers, 0)  # processors of different machines may differ in the last bit
        for each in {self.get_bare_model(self.net_g), net}:
            each.temperature.copy_(numbers[0])
            each.threshold.copy_(numbers[1].clamp(1e-6, 1 - 1e-6))

    def save(self, epoch: int, current_iter: int) -> None:
        """Calibrate, then save; processes agree on the network first."""
        self._agree()
        if self.calibration_sets:
            self.calibrate()
        super().save(epoch, current_iter)

    def _agree(self) -> None:
        if self.opt['is_train']:
            nets = (self.get_bare_model(self.net_g), getattr(self, 'net_g_ema', None))
            average_untrained(filter(None, nets), self.opt['world_size'])

    def dist_validation(self, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool) -> None:
        """As with one process; each one scores a share of the images."""
        self._agree()
        self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(self, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool) -> None:
        """Measure the scores on a data set, log the rates, and write the scores to a file.

        To be called by every process, of which the first one logs and writes.
        """
        name = dataloader.dataset.opt['name']
        verdicts = self.scores(dataloader.dataset)
        if self.opt['rank'] != 0:
            return
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


def _entry(values: Any, index: int) -> Any:
    """An entry of a collated batch as a plain value."""
    value = values[index]
    return value.item() if isinstance(value, torch.Tensor) else value
