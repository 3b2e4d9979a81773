"""Validation on clean and attacked images, distributed over the processes, compared with the start of the training."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from basicsr.utils import get_root_logger
from torch import distributed as dist
from torch.utils.data import DataLoader, Subset

from rsr_basicsr.metrics.inputs import is_higher_better
from rsr_basicsr.models.image_validation import ImageValidation
from rsr_basicsr.ops.random_streams import random_streams_kept
from rsr_basicsr.utils.errors import OptionsError


class RobustValidation(ImageValidation):
    """Mixin for a BasicSR model class: validates as the class does, then under an attack.

    The metrics of the attacked images, and their stability, are logged under the name of the data set followed by
    ``_attacked``. With ``path: pretrain_network_g``, the network before the training is validated first, as iteration
    0, which shows what the training gains and costs. Images are distributed over the processes. Validation does not
    change the random streams of the training.

    Options: ``val: panel_freq``, ``guard``, and those of :class:`ImageValidation`; :mod:`rsr_basicsr.options` has the
    schema.
    """

    metric_results: dict[str, float]
    best_metric_results: dict[str, Any]

    def __init__(self, opt: dict[str, Any]) -> None:
        #: Per data set, the PSNR on clean images before the training; None without such a metric
        self._clean_psnr_at_start: dict[str, float | None] = {}
        self._validated = 0  # images of the current pass of a validation
        self._averaged: set[str] = set()  # its metrics that are means over all processes
        super().__init__(opt)

    def validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool = False) -> None:
        """Validate on a data set; to be called by every process.

        Args:
            dataloader: BasicSR's, with one image per batch.
            current_iter: the iteration; in a test, the name of the run.
            tb_logger: TensorBoard's writer, or None.
            save_img: whether to write the outputs.
        """
        name = dataloader.dataset.opt['name']
        if self.opt['is_train']:  # at the end, BasicSR counts one too many
            current_iter = min(current_iter, int(self.opt['train']['total_iter']))
        with random_streams_kept():
            if self._can_compare and name not in self._clean_psnr_at_start:
                self._validate_start(dataloader, tb_logger)
            self._validate(dataloader, current_iter, tb_logger, save_img)

    @property
    def _can_compare(self) -> bool:
        """Whether to validate the network before the training."""
        wanted = self.options.val.attack is not None or self.options.val.guard is not None
        return self.opt['is_train'] and wanted and self.opt['train'].get('start') is not None

    def _validate_start(self, dataloader: Any, tb_logger: Any) -> None:
        trained = {name: getattr(self, name) for name in ('net_g', 'net_g_ema') if hasattr(self, name)}
        get_root_logger().info('Validation of the network before the training, as iteration 0:')
        try:
            for name in trained:
                setattr(self, name, self.start_net)
            self._validate(dataloader, 0, tb_logger, save_img=False)
        finally:
            for name, net in trained.items():
                setattr(self, name, net)
        self.start_net.eval()  # BasicSR puts a tested network into training mode
        if self.options.train.target != 'pretrained':
            self._start_net = None  # no longer needed

    def _validate(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:
        """Validate on this process's share of the images, clean and then attacked."""
        dataset = dataloader.dataset
        name = dataset.opt['name']
        rank, world = self.opt['rank'], self.opt['world_size']
        mine = list(range(rank, len(dataset), world))
        self._validated = len(mine)
        # A process without images takes one that does not count, since BasicSR's loop needs one.
        share: Any = Subset(dataset, mine or [0])
        panel_freq, attack = self.options.val.panel_freq, self.options.val.attack
        wanted = panel_freq and (not self.opt['is_train'] or current_iter % panel_freq == 0)
        self._panel = {} if wanted and rank == 0 else None
        passes = [False, True] if attack is not None else [False]
        for attacked in passes:
            self._attack_of_validation = self._build_attack() if attacked else None
            self._measured = {}
            if hasattr(self, 'gt'):
                del self.gt  # of the training; the validation images may have none
            share.opt = {**dataset.opt, 'name': f'{name}_attacked' if attacked else name}
            loader = DataLoader(share, batch_size=1, num_workers=0)
            seed = (attack.seed if attack is not None else None) or 0
            self._seeds = iter([seed + index for index in mine or [0]])
            self._validates, self._averaged = True, set()
            try:
                with self._quiet(rank), self._metrics_of_basicsr():
                    saves = save_img and not (attacked and self.opt['is_train']) and bool(mine)
                    self.nondist_validation(loader, current_iter, tb_logger, saves)
                self._check_attacked(len(mine or [0]))
            finally:
                self._validates, self._to_measure = False, None
        self._attack_of_validation = None
        if self._panel:
            self._write_panel(name, self._panel, current_iter, tb_logger)
        self._panel = None

    def _check_attacked(self, images: int) -> None:
        """Stop rather than report figures of an attacked pass in which some images were not attacked.

        Raises:
            OptionsError: see :meth:`feed_data`.
        """
        if self._attack_of_validation is None:
            return
        self._check_measured()
        measured = len(self._measured.get('stability', ()))
        if measured != images:
            raise OptionsError(
                f'val.attack: {type(self).__name__} validates by a loop of its own that gave {measured} of {images} '
                'images to feed_data, so the attack did not reach all of them; remove val.attack'
            )

    @contextlib.contextmanager
    def _quiet(self, rank: int) -> Iterator[None]:
        """Show a progress bar on rank 0 only."""
        pbar = self._val.get('pbar')
        if rank:
            self.opt['val']['pbar'] = False
        try:
            yield
        finally:
            if rank:
                self.opt['val']['pbar'] = pbar

    @contextlib.contextmanager
    def _metrics_of_basicsr(self) -> Iterator[None]:
        """Show BasicSR only the metrics that it can compute, within the block."""
        metrics, others = self._val.get('metrics'), self._attack_metrics
        if others:
            self.opt['val']['metrics'] = {name: m for name, m in (metrics or {}).items() if name not in others}
            self._hidden = others
        try:
            yield
        finally:
            self._hidden = {}
            if others:
                self.opt['val']['metrics'] = metrics

    def _update_best_metric_result(self, dataset_name: str, metric: str, val: float, current_iter: int) -> None:
        """As BasicSR does, after the mean over this process's images is replaced by that over all."""
        self.metric_results[metric] = val = self._mean_of_all(val)
        self._averaged.add(metric)
        if not math.isfinite(val):
            get_root_logger().warning(
                f'Validation {dataset_name}: {metric} is {val}, which no later value could beat, and is not kept as '
                'the best. An output equals its ground truth, as of a black image; take that image out'
            )
            return
        super()._update_best_metric_result(dataset_name, metric, val, current_iter)

    def _mean_of_all(self, mean: float) -> float:
        """Mean over the images of all processes."""
        if not self.opt['dist']:
            return mean
        total = torch.tensor(
            [mean * self._validated if self._validated else 0, self._validated], dtype=torch.float64, device=self.device
        )
        dist.all_reduce(total)
        return (total[0] / total[1]).item()

    def _log_validation_metric_values(self, current_iter: int, dataset_name: str, tb_logger: Any) -> None:
        """As BasicSR does, with the metrics of attacked images."""
        own: dict[str, float] = {}
        for name in sorted(set(self.metric_results) - self._averaged):  # a loop that keeps no best results
            self.metric_results[name] = self._mean_of_all(self.metric_results[name])
        if self._attack_of_validation is not None:
            self._check_attacked(self._validated or 1)
            own = {name: sum(values) / len(values) for name, values in self._measured.items()}
            self.metric_results.update(own)
            best = self.best_metric_results[dataset_name]
            for name, value in own.items():
                higher = name not in self._hidden or is_higher_better(self._hidden[name])
                best.setdefault(
                    name, dict(better='higher' if higher else 'lower', val=float('-inf' if higher else 'inf'), iter=-1)
                )
                self._update_best_metric_result(dataset_name, name, value, current_iter)
        super()._log_validation_metric_values(current_iter, dataset_name, tb_logger)
        for name in own:
            del self.metric_results[name]
        if self._attack_of_validation is None and self.opt['is_train']:
            self._guard(current_iter, dataset_name)

    def _guard(self, current_iter: int, dataset_name: str) -> None:
        """Warn if the clean PSNR has dropped by more than ``val: guard`` since the start of the training."""
        metrics, limit = self._val['metrics'], self.options.val.guard
        metric = next((name for name, metric in metrics.items() if metric['type'] == 'calculate_psnr'), None)
        psnr = None if metric is None else float(self.metric_results[metric])  # training states hold no NumPy types
        if current_iter == 0:
            self._clean_psnr_at_start[dataset_name] = psnr
        before = self._clean_psnr_at_start.get(dataset_name)
        if limit is not None and before is not None and psnr is not None and psnr < before - limit:
            get_root_logger().warning(
                f'Validation {dataset_name}: clean PSNR {psnr:.2f} dB is {before - psnr:.2f} dB below the '
                f'{before:.2f} dB of the weights at the start of the training (val.guard: {limit:g}); lower the '
                "learning rate, attack: share or eps, or train towards the weights' own output (train: target: "
                'pretrained)'
            )

    def more_state(self) -> dict[str, Any]:
        """As in the base class; adds the PSNR at the start and the best metrics."""
        best = {
            dataset: {name: {**entry, 'val': float(entry['val'])} for name, entry in metrics.items()}
            for dataset, metrics in getattr(self, 'best_metric_results', {}).items()
        }
        return {**super().more_state(), 'psnr_at_start': dict(self._clean_psnr_at_start), 'best': best}

    def restore_more_state(self, mine: Mapping[str, Any]) -> None:
        """As in the base class."""
        super().restore_more_state(mine)
        self._clean_psnr_at_start.update(mine.get('psnr_at_start', {}))
        # Only complete entries: BasicSR adds no metric to the entry of a data set later.
        metrics = set(self._val.get('metrics') or ()) - set(self._attack_metrics)
        self.best_metric_results = {name: best for name, best in mine.get('best', {}).items() if metrics <= set(best)}
