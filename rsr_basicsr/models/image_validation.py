"""One image of a validation: upscaled in tiles, attacked, measured, and shown in the panel."""

from __future__ import annotations

import os.path as osp
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from basicsr.models.sr_model import SRModel
from basicsr.utils import imwrite, tensor2img
from torch import nn
from torch.nn import functional as F
from torchvision.utils import make_grid

from rsr_basicsr.attacks import build_attack
from rsr_basicsr.attacks.base import Attack
from rsr_basicsr.attacks.fitting import attack_that_fits
from rsr_basicsr.metrics.inputs import calculate, needs
from rsr_basicsr.models.start_network import StartNetwork
from rsr_basicsr.ops.tiled import Padded, upscale
from rsr_basicsr.options.attack_blocks import ValAttackOptions
from rsr_basicsr.utils.errors import OptionsError
from rsr_basicsr.weights.state_dict import load_network


class ImageValidation(StartNetwork):
    """Mixin for a BasicSR model class: upscales the image of a validation, under an attack where one is set.

    Options: ``val: attack``, ``tile``, ``tile_overlap``; :mod:`rsr_basicsr.options` has the schema.
    """

    net_g: nn.Module
    net_g_ema: nn.Module
    lq: torch.Tensor
    gt: torch.Tensor
    output: torch.Tensor

    def __init__(self, opt: dict[str, Any]) -> None:
        # State of the current pass of a validation:
        self._attack_of_validation: Attack | None = None
        self._panel: dict[str, torch.Tensor] | None = None
        self._hidden: dict[str, Mapping[str, Any]] = {}  # metrics that BasicSR cannot compute
        self._measured: dict[str, list[Any]] = {}  # metrics of attacked images only
        self._seeds: Iterator[int] = iter(())  # of the masks, one per image
        self._validates = False
        # Clean output and clean input of the image that is attacked:
        self._to_measure: tuple[torch.Tensor, torch.Tensor] | None = None
        super().__init__(opt)

    @property
    def _val(self) -> Mapping[str, Any]:
        """BasicSR's keys of ``val``; ours are in ``options.val``."""
        return self.opt.get('val') or {}

    def _build_attack(self) -> Attack:
        block = cast(ValAttackOptions, self.options.val.attack).plain()
        return build_attack(block, lambda source: load_network(source).to(self.device))

    @property
    def _attack_metrics(self) -> dict[str, Mapping[str, Any]]:
        """Metrics that compare clean and attacked images, for which BasicSR passes no inputs."""
        metrics = {**(self._val.get('metrics') or {}), **self._hidden}
        return {name: metric for name, metric in metrics.items() if not set(needs(metric)) <= {'img', 'img2'}}

    def feed_data(self, data: Any) -> None:
        """As the class does; in an attacked validation, the image is attacked right away.

        Every validation loop then runs the network on the attacked image. Masks are seeded by the attack's seed
        and the number of the image: redrawing them adds more noise than hundreds of iterations of training change. The
        attack does not know the masks.
        """
        super().feed_data(_sent(data, self.device))
        if not self._validates:
            return
        self._check_measured()
        seed = next(self._seeds, None)
        if seed is not None:
            torch.manual_seed(seed)
        attack = self._attack_of_validation
        if attack is not None:
            self.test()
            self._to_measure = self.output, self.lq
            self.lq = self._attacked(attack, self.lq, self.output)
        self._remember('input' if attack is None else 'attacked input', self.lq)

    def get_current_visuals(self) -> OrderedDict[str, torch.Tensor]:
        """As the class does; measures the output of an attacked image."""
        if self._validates:
            self._remember('output' if self._attack_of_validation is None else 'attacked output', self.output)
            if self._to_measure is not None:
                self._measure(*self._to_measure)
                self._to_measure = None
        return super().get_current_visuals()

    def _check_measured(self) -> None:
        """Stop if the validation loop has not shown the output of the last attacked image."""
        if self._to_measure is not None:
            raise OptionsError(
                f'val.attack: {type(self).__name__} validates by a loop of its own that does not call '
                'get_current_visuals, so the figures of attacked images would be those of others; remove val.attack'
            )

    def test(self) -> None:
        """Upscale ``lq`` into ``output``: as the class does, or in tiles if ``val: tile`` is set.

        A class with a validation loop of its own may pad to the windows of the network there, and not in its test.
        """
        plain = super().test
        if self.options.val.tile is None and not ('window_size' in self.opt['network_g'] and _is_basicsrs(plain)):
            plain()
            return
        net = self._tested_net
        training = net.training
        net.eval()
        with torch.no_grad():
            whole = self._for_any_size(net)
            self.output = whole(self.lq) if self.options.val.tile is None else upscale(whole, self.lq, **self._tiles)
        net.train(training and not hasattr(self, 'net_g_ema'))

    def _measure(self, clean: torch.Tensor, lq_clean: torch.Tensor) -> None:
        """Compute the stability and the other metrics of the attacked image."""
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
        for name, metric in {'stability': stability, **self._attack_metrics}.items():
            self._measured.setdefault(name, []).append(calculate(metric, images))

    @property
    def _tiles(self) -> dict[str, int]:
        return {'tile': cast(int, self.options.val.tile), 'overlap': self.options.val.tile_overlap}

    @property
    def _tested_net(self) -> nn.Module:
        return self.net_g_ema if hasattr(self, 'net_g_ema') else self.get_bare_model(self.net_g)

    def _attacked(self, attack: Attack, lq: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Attack images ``lq``; ``clean`` is the output for them."""
        net = self._tested_net
        if attack.objective.needs_ground_truth and not hasattr(self, 'gt'):
            objective = cast(ValAttackOptions, self.options.val.attack).plain()['objective']
            raise OptionsError(
                f'val.attack.objective: {objective} needs a ground truth, which this data set does not have; write '
                'stability'
            )
        tiled = self.options.val.tile is not None
        if tiled and attack.tile is None and attack.memory is None and 'tile' in attack.parameters():
            attack = attack.but(**self._tiles)
        training = net.training
        net.eval()
        try:
            target = self.gt if attack.objective.needs_ground_truth else clean
            return attack_that_fits(attack, self._for_any_size(net), lq, target)
        finally:
            net.train(training)

    def _for_any_size(self, net: nn.Module) -> nn.Module:
        window = self.opt['network_g'].get('window_size')
        return net if window is None else Padded(net, window)

    def _remember(self, what: str, images: torch.Tensor) -> None:
        """Keep the first image of a validation for the panel."""
        if self._panel is not None:
            self._panel.setdefault(what, images[:1].detach().float().cpu().clamp(0, 1))

    def _write_panel(self, name: str, panel: Mapping[str, torch.Tensor], current_iter: Any, tb_logger: Any) -> None:
        """Write the images of the panel as one."""
        size = panel['output'].shape[-2:]
        images = [F.interpolate(image, size=size, mode='nearest') for image in panel.values()]
        grid = make_grid(torch.cat(images), nrow=2, padding=4, pad_value=1)
        imwrite(tensor2img(grid), osp.join(self.opt['path']['visualization'], 'panel', f'{name}_{current_iter}.png'))
        if tb_logger:
            tb_logger.add_image(f'panel/{name}', grid, current_iter)


def _sent(data: Any, device: torch.device) -> Any:
    """A batch on its way to a GPU: BasicSR waits until each tensor is there, and so for the whole step before."""
    if device.type != 'cuda' or not isinstance(data, Mapping):
        return data
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in data.items()
    }


def _is_basicsrs(test: Callable[[], None]) -> bool:
    return getattr(test, '__func__', None) is SRModel.test
