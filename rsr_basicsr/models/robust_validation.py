"""Validation of clean and attacked images, shared among the processes, beside what the weights did at the start."""

from __future__ import annotations

import contextlib
import os.path as osp
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from basicsr.archs import build_network
from basicsr.utils import get_root_logger, imwrite, tensor2img
from torch import distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset
from torchvision.utils import make_grid

from rsr_basicsr.attacks import build_attack
from rsr_basicsr.checkpoints import WholeCheckpoints
from rsr_basicsr.metrics.inputs import calculate, is_higher_better, needs
from rsr_basicsr.ops.tiled import OVERLAP, Padded, upscale
from rsr_basicsr.utils.errors import OptionsError
from rsr_basicsr.utils.random_streams import random_streams_kept
from rsr_basicsr.weights.state_dict import load_network


class RobustValidation(WholeCheckpoints):
    """Mixin in front of a BasicSR model class: validates as the class does, then under an attack.

    The metrics of the attacked images, and their stability, are logged under the name of the data set followed by
    ``_attacked``. With ``path: pretrain_network_g``, the network as it was before the training is validated first, as
    iteration 0: what the training gains and costs can be seen. Images are shared among the processes. Validation
    leaves the random streams of the training alone.

    Options: ``val: attack``, ``tile``, ``tile_overlap``, ``panel_freq``, ``guard``; :mod:`rsr_basicsr.options` has the
    schema.
    """

    def __init__(self, opt):
        self._start_net: nn.Module | None = None
        #: By data set, what the network that the training began with reached on clean images.
        self._clean_psnr_at_start: dict[str, float] = {}
        # Of the pass of the validation that is under way:
        self._attack_of_validation = None
        self._panel: dict[str, torch.Tensor] | None = None
        self._hidden: dict[str, Mapping[str, Any]] = {}  # metrics that BasicSR cannot compute
        self._measured: dict[str, list[float]] = {}  # what is measured of attacked images only
        self._seeds: Iterator[int] = iter(())  # of the masks, one an image
        self._validated = 0  # images
        super().__init__(opt)

    def validation(self, dataloader, current_iter, tb_logger, save_img=False):
        """Validate on the images of a data set; to be called by every process.

        Args:
            dataloader: of BasicSR, one image a batch.
            current_iter: the iteration; in a test the name of the run.
            tb_logger: TensorBoard's writer, or None.
            save_img: write the outputs.
        """
        name = dataloader.dataset.opt['name']
        if self.opt['is_train']:  # BasicSR counts on by one an epoch when it is done
            current_iter = min(current_iter, int(self.opt['train']['total_iter']))
        with random_streams_kept():
            if self._can_compare and name not in self._clean_psnr_at_start:
                self._validate_start(dataloader, tb_logger)
            self._validate(dataloader, current_iter, tb_logger, save_img)

    @property
    def _val(self) -> Mapping[str, Any]:
        return self.opt.get('val') or {}

    @property
    def _can_compare(self):
        wanted = self._val.get('attack') is not None or self._val.get('guard') is not None
        return self.opt['is_train'] and wanted and self.opt['train'].get('start') is not None

    @property
    def start_net(self) -> nn.Module:
        """The network as it was before the training, without gradients; plain weights without the masks."""
        if self._start_net is None:
            start = self.opt['train'].get('start')
            if start is None:
                raise OptionsError('train.target: pretrained needs options that were checked; start by rsr train')
            with random_streams_kept():  # the training must draw the same numbers as if it had been there already
                net = build_network(self.opt['network_g']).to(self.device)
            self.load_network(net, start['weights'], start['strict'], start['key'])
            if not net.loaded_defense:
                net.defense.gate = 'never'
            self._start_net = net.eval().requires_grad_(False)
        return self._start_net

    def _print_different_keys_loading(self, crt_net, load_net, strict=True):
        """A plain backbone lacks the whole defence: one line, not one for each tensor among BasicSR's warnings."""
        net = self.get_bare_model(crt_net)
        missing = {key: value for key, value in net.state_dict().items() if key.startswith('defense.')}
        if not missing or any(key.startswith('defense.') for key in load_net):
            super()._print_different_keys_loading(crt_net, load_net, strict)
            return
        load_net.update(missing)
        super()._print_different_keys_loading(crt_net, load_net, strict)
        for key in missing:
            del load_net[key]

    def _validate_start(self, dataloader, tb_logger):
        trained = {name: getattr(self, name) for name in ('net_g', 'net_g_ema') if hasattr(self, name)}
        get_root_logger().info('Validation of the network before the training, as iteration 0:')
        try:
            for name in trained:
                setattr(self, name, self.start_net)
            self._validate(dataloader, 0, tb_logger, save_img=False)
        finally:
            for name, net in trained.items():
                setattr(self, name, net)
        self.start_net.eval()  # BasicSR puts the network it has tested into training mode
        if self.opt['train'].get('target') != 'pretrained':
            self._start_net = None  # it has done its work

    def _validate(self, dataloader, current_iter, tb_logger, save_img):
        dataset = dataloader.dataset
        name = dataset.opt['name']
        rank, world = self.opt['rank'], self.opt['world_size']
        mine = list(range(rank, len(dataset), world))
        self._validated = len(mine)
        # A process without an image takes one that does not count: BasicSR's loop needs one.
        share = Subset(dataset, mine or [0])
        panel_freq = self._val.get('panel_freq')
        wanted = panel_freq and (not self.opt['is_train'] or current_iter % panel_freq == 0)
        self._panel = {} if wanted and rank == 0 else None
        passes = [False, True] if self._val.get('attack') is not None else [False]
        for attacked in passes:
            self._attack_of_validation = self._build_attack() if attacked else None
            self._measured = {}
            if hasattr(self, 'gt'):
                del self.gt  # of the training, where these images have none
            share.opt = {**dataset.opt, 'name': f'{name}_attacked' if attacked else name}
            loader = DataLoader(share, batch_size=1, num_workers=0)
            seed = (self._val.get('attack') or {}).get('seed') or 0
            self._seeds = iter([seed + index for index in mine or [0]])
            with self._quiet(rank), self._metrics_of_basicsr():
                self.nondist_validation(
                    loader, current_iter, tb_logger, save_img and not (attacked and self.opt['is_train']) and bool(mine)
                )
        self._attack_of_validation = None
        if self._panel:
            self._write_panel(name, current_iter, tb_logger)
        self._panel = None

    def _build_attack(self):
        return build_attack(dict(self._val['attack']), lambda source: load_network(source).to(self.device))

    @contextlib.contextmanager
    def _quiet(self, rank):
        """One process shows a progress bar."""
        shown = self._val.get('pbar')
        if rank:
            self.opt['val']['pbar'] = False
        try:
            yield
        finally:
            if rank:
                self.opt['val']['pbar'] = shown

    @property
    def _of_attacks(self):
        """The metrics that compare a clean image with an attacked one; BasicSR hands neither on."""
        metrics = {**(self._val.get('metrics') or {}), **self._hidden}
        return {name: metric for name, metric in metrics.items() if not set(needs(metric)) <= {'img', 'img2'}}

    @contextlib.contextmanager
    def _metrics_of_basicsr(self):
        """Within the block BasicSR sees the metrics that it can compute."""
        all_of_them, others = self._val.get('metrics'), self._of_attacks
        if others:
            self.opt['val']['metrics'] = {name: m for name, m in all_of_them.items() if name not in others}
            self._hidden = others
        try:
            yield
        finally:
            self._hidden = {}
            if others:
                self.opt['val']['metrics'] = all_of_them

    def test(self):
        """Upscale ``lq`` into ``output``, in tiles where ``val: tile`` is set; within an attacked validation, attack
        ``lq`` first.

        Masks are drawn from the seed of the attack and the number of the image: drawn anew they would move the
        figures by more than a few hundred iterations of training do. The attack does not know them.
        """
        seed = next(self._seeds, None)
        if seed is not None:
            torch.manual_seed(seed)
        self._upscale()
        if self._attack_of_validation is None:
            self._remember('input', self.lq)
            self._remember('output', self.output)
            return
        clean, lq_clean = self.output, self.lq
        self.lq = self._attacked(self.lq, clean)
        self._upscale()
        border = next((m['crop_border'] for m in (self._val.get('metrics') or {}).values() if 'crop_border' in m), 0)
        images = {
            'img': tensor2img(self.output),
            'img_clean': tensor2img(clean),
            'lq': tensor2img(self.lq),
            'lq_clean': tensor2img(lq_clean),
        }
        if hasattr(self, 'gt'):
            images['img2'] = tensor2img(self.gt)
        stability = {'type': 'calculate_stability', 'crop_border': border}
        for name, metric in {'stability': stability, **self._of_attacks}.items():
            self._measured.setdefault(name, []).append(calculate(metric, images))
        self._remember('attacked input', self.lq)
        self._remember('attacked output', self.output)

    def _upscale(self):
        if not self._val.get('tile'):
            super().test()
            return
        net = self._tested_net
        training = net.training
        net.eval()
        with torch.no_grad():
            self.output = upscale(self._for_any_size(net), self.lq, **self._tiles)
        net.train(training and not hasattr(self, 'net_g_ema'))

    @property
    def _tiles(self):
        return {'tile': self._val['tile'], 'overlap': self._val.get('tile_overlap', OVERLAP)}

    @property
    def _tested_net(self):
        return self.net_g_ema if hasattr(self, 'net_g_ema') else self.get_bare_model(self.net_g)

    def _attacked(self, lq, clean):
        attack, net = self._attack_of_validation, self._tested_net
        if attack.objective.needs_ground_truth and not hasattr(self, 'gt'):
            raise OptionsError(
                f'val.attack.objective: {self._val["attack"]["objective"]} needs a ground truth, which '
                'this data set does not have; write stability'
            )
        if self._val.get('tile') and attack.tile is None and attack.memory is None and 'tile' in attack.parameters():
            attack = attack.but(**self._tiles)
        training = net.training
        net.eval()
        try:
            target = self.gt if attack.objective.needs_ground_truth else clean
            return attack(self._for_any_size(net), lq, target)
        finally:
            net.train(training)

    def _for_any_size(self, net):
        window = self.opt['network_g'].get('window_size')
        return net if window is None else Padded(net, window)

    def _remember(self, what, images):
        """Keep the first image of a validation for the panel."""
        if self._panel is not None:
            self._panel.setdefault(what, images[:1].detach().float().cpu().clamp(0, 1))

    def _write_panel(self, name, current_iter, tb_logger):
        size = self._panel['output'].shape[-2:]
        images = [F.interpolate(image, size=size, mode='nearest') for image in self._panel.values()]
        grid = make_grid(torch.cat(images), nrow=2, padding=4, pad_value=1)
        imwrite(tensor2img(grid), osp.join(self.opt['path']['visualization'], 'panel', f'{name}_{current_iter}.png'))
        if tb_logger:
            tb_logger.add_image(f'panel/{name}', grid, current_iter)

    def _update_best_metric_result(self, dataset_name, metric, val, current_iter):
        """Takes the mean over this process's images, which becomes that over all."""
        self.metric_results[metric] = val = self._mean_of_all(val)
        super()._update_best_metric_result(dataset_name, metric, val, current_iter)

    def _mean_of_all(self, mean):
        if not self.opt['dist']:
            return mean
        total = torch.tensor(
            [mean * self._validated if self._validated else 0, self._validated], dtype=torch.float64, device=self.device
        )
        dist.all_reduce(total)
        return (total[0] / total[1]).item()

    def _log_validation_metric_values(self, current_iter, dataset_name, tb_logger):
        own = {}
        if self._attack_of_validation is not None:
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

    def _guard(self, current_iter, dataset_name):
        """Warn where a training costs clean images more than it may."""
        metrics, limit = self._val['metrics'], self._val.get('guard')
        metric = next((name for name, metric in metrics.items() if metric['type'] == 'calculate_psnr'), None)
        psnr = None if metric is None else float(self.metric_results[metric])  # a state holds no types of numpy
        if current_iter == 0:
            self._clean_psnr_at_start[dataset_name] = psnr
        before = self._clean_psnr_at_start.get(dataset_name)
        if limit is not None and before is not None and psnr < before - limit:
            get_root_logger().warning(
                f'Validation {dataset_name}: clean PSNR {psnr:.2f} dB is {before - psnr:.2f} dB below the '
                f'{before:.2f} dB of the weights that the training began with (val.guard: {limit:g}); lower the '
                "learning rate, attack: share or eps, or train towards the weights' own output (train: target: "
                'pretrained)'
            )

    def more_state(self):
        best = {
            dataset: {name: {**entry, 'val': float(entry['val'])} for name, entry in metrics.items()}
            for dataset, metrics in getattr(self, 'best_metric_results', {}).items()
        }
        return {**super().more_state(), 'psnr_at_start': dict(self._clean_psnr_at_start), 'best': best}

    def restore_more_state(self, mine):
        super().restore_more_state(mine)
        self._clean_psnr_at_start.update(mine.get('psnr_at_start', {}))
        # BasicSR does not begin a metric later than its data set.
        metrics = set(self._val.get('metrics') or ()) - set(self._of_attacks)
        self.best_metric_results = {name: best for name, best in mine.get('best', {}).items() if metrics <= set(best)}
