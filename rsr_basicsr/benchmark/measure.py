"""One cell of a benchmark: network under a defence -> attack -> 8-bit image -> metrics -> record."""

from __future__ import annotations

import math
import platform
import time
import zlib
from statistics import fmean

import basicsr
import numpy as np
import torch
from basicsr.utils import tensor2img
from torch import nn

import rsr_basicsr
from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.attacks import Attack, DetectorAware, Universal, WorstOf
from rsr_basicsr.attacks.alarms import zero_gradient
from rsr_basicsr.benchmark.matrix import GATES, Cell, Matrix, drawing
from rsr_basicsr.benchmark.names import CLEAN
from rsr_basicsr.benchmark.record import Record, Recorder
from rsr_basicsr.metrics.inputs import calculate
from rsr_basicsr.ops.tiled import upscale
from rsr_basicsr.utils.errors import in_one_line

#: Pixels of the input, at the centre, that the gallery keeps
SHOWN = 160


class Bench:
    """Measures cells; keeps what the next cell of the same network and image needs again.

    Args:
        matrix: whose cells they are.
        recorder: takes the images of the gallery.
    """

    def __init__(self, matrix: Matrix, recorder: Recorder):
        self.matrix, self.options, self.recorder = matrix, matrix.options, recorder
        self._clean: tuple[object, list[np.ndarray]] = (None, [])
        self._universal: dict[tuple, Attack | Exception] = {}

    def measure(self, cell: Cell) -> Record:
        """Measure a cell. A failure is a result too: its record has the reason."""
        started = time.time()
        names = dict(
            key=cell.key,
            network=cell.network,
            defense=cell.defense,
            attack=cell.attack,
            eps=cell.eps,
            dataset=cell.image.dataset,
            image=cell.image.name,
            content=cell.image.digest,
            facts=self.matrix.facts[cell.network],
            attack_options=self.options['attacks'].get(cell.attack, {}),
            environment=environment(self.matrix),
        )
        try:
            found = self._measured(cell)
        except Exception as error:  # whatever a network, an attack or a metric makes of one image
            return Record(
                **names, error=f'{type(error).__name__}: {in_one_line(error)}', seconds=round(time.time() - started, 2)
            )
        return Record(**names, **found, seconds=round(time.time() - started, 2))

    def _measured(self, cell):
        net = self.matrix.network(cell.network, cell.defense)
        item = self.matrix.read(cell.image)
        lq, gt = item['lq'], item.get('gt')
        attacked, found = lq, {}
        if cell.attack != CLEAN:
            attacked, objective, found = self._attacked(cell, net, lq, gt)
        clean = self._clean_outputs(cell, net, lq)
        outputs = clean if cell.attack == CLEAN else self._outputs(net, attacked)
        found['random'] = self.matrix.draws_at_random(net)
        images = {'lq': tensor2img(attacked)}
        if gt is not None:
            images['img2'] = tensor2img(gt)
        if cell.attack != CLEAN:
            images['lq_clean'] = tensor2img(lq)
            found['loss'] = _loss_of_attack(objective, outputs, images.get('img2'), clean)
        found['values'], found['trouble'] = self._metrics(images, outputs, clean if cell.attack != CLEAN else None)
        found['score'] = detector_score(net, attacked, self.options.get('tile') is not None)
        if cell.shown:
            kept = {'lq': images['lq'], 'sr': outputs[0], **({'gt': images['img2']} if gt is not None else {})}
            found['shown'] = {
                name: self.recorder.keep_image(f'{cell.key}.{name}', _centre(image, lq.shape[-2:]))
                for name, image in kept.items()
                if name != 'gt' or cell.attack == CLEAN
            }
        return found

    def _attacked(self, cell, net, lq, gt):
        attack = self.matrix.attack(cell.attack, cell.eps, net)
        if isinstance(attack, Universal):
            attack = self._fitted(cell, attack, net)
        target = gt if attack.objective.needs_ground_truth else None
        # The attack has its own seed; this one is for attacks that take none.
        with drawing(self.options['seed'], zlib.crc32(cell.key.encode()), self.matrix.device):
            attacked, *more = attack.results(net, lq, target)
            if not attacked.isfinite().all():
                raise ValueError('the output or the gradient of the network is not a number')
            zeros = zero_gradient(
                attack.attacks[0] if isinstance(attack, WorstOf) else attack, net, lq, target, attacked
            )
        found = {'zero_gradient': zeros}
        if isinstance(attack, WorstOf):
            chosen = int(more[1][0])
            named = _types_inside(self.options['attacks'][cell.attack])
            found['worst'] = GATES[chosen] if named is None else named[chosen]
        elif isinstance(attack, DetectorAware):
            found['worst'] = 'undetected' if bool(more[1][0]) else 'detected'
        return attacked, attack.objective, found

    def _fitted(self, cell, attack, net):
        """A universal perturbation is one for all images of a data set; one that cannot be found is tried once."""
        subject, key = (cell.network, cell.defense), (cell.attack, cell.eps, cell.image.dataset)
        if (*subject, *key) not in self._universal:
            self._universal = {k: fitted for k, fitted in self._universal.items() if k[:2] == subject}
            items = [self.matrix.read(p) for p in self.matrix.images if p.dataset == cell.image.dataset]
            targets = [item['gt'] for item in items] if attack.objective.needs_ground_truth else None
            generator = torch.Generator().manual_seed(self.options['seed'])
            try:
                with drawing(self.options['seed'], 0, self.matrix.device):
                    fitted = attack.fit(net, [item['lq'] for item in items], targets, generator=generator)
            except Exception as error:  # the failure of this cell, and of all others that ask for the same
                fitted = error
            self._universal[(*subject, *key)] = fitted
        fitted = self._universal[(*subject, *key)]
        if isinstance(fitted, Exception):
            raise fitted
        return fitted

    def _clean_outputs(self, cell, net, lq):
        place = cell.network, cell.defense, cell.image
        if self._clean[0] != place:
            self._clean = place, self._outputs(net, lq)
        return self._clean[1]

    def _outputs(self, net, lq) -> list[np.ndarray]:
        """What the network makes of an image, BGR uint8, once for each mask seed."""
        tiles = {'tile': self.options.get('tile'), 'overlap': self.options['tile_overlap']}
        outputs = []
        for seed in self.options['mask_seeds']:
            with drawing(seed, 0, self.matrix.device), torch.no_grad():
                output = upscale(net, lq, **tiles)
            if not output.isfinite().all():
                raise ValueError('the output of the network is not a number')
            outputs.append(tensor2img(output))
        return outputs

    def _metrics(self, images, outputs, clean):
        values, trouble = {name: [] for name in self.options['metrics']}, {}
        for index, output in enumerate(outputs):
            same = next(
                (
                    i
                    for i in range(index)
                    if np.array_equal(outputs[i], output) and (clean is None or np.array_equal(clean[i], clean[index]))
                ),
                None,
            )
            given = {**images, 'img': output, **({} if clean is None else {'img_clean': clean[index]})}
            for name, metric in self.options['metrics'].items():
                try:
                    values[name].append(_finite(calculate(metric, given)) if same is None else values[name][same])
                except Exception as error:  # the others, and the attack, are good all the same
                    values[name].append(None)
                    trouble[name] = f'{type(error).__name__}: {in_one_line(error)}'
        return values, trouble


def detector_score(net: nn.Module, lq: torch.Tensor, tiled: bool = False) -> float | None:
    """How far the network's own detector takes an image for attacked, above 0 where it does; None without a gate.

    A detector behind another defence sees what that makes of the image, but in tiles the whole image as it is.
    """
    defended = next((module for module in net.modules() if isinstance(module, DefenseMixin)), None)
    if defended is None or defended.defense.gate not in ('classifier', 'soft'):
        return None
    seen = []
    handle = defended.register_forward_pre_hook(lambda module, args: seen.append(args[0][:1]))
    try:
        with drawing(0, 0, lq.device), torch.no_grad():
            if defended is net or tiled:
                seen.append(lq)
            else:
                net(lq)
            return round(_number('score of the detector', defended.defense.logit(seen[0]).item()), 4)
    finally:
        handle.remove()


def _types_inside(options) -> list[str] | None:
    """The types of the attacks inside a WorstOf, None for another attack."""
    return [inner.get('type', 'PGD') for inner in options['attacks']] if options['type'] == 'WorstOf' else None


def environment(matrix: Matrix) -> dict[str, str]:
    """What the last bits of a result depend on, beside the options."""
    device = torch.cuda.get_device_name(matrix.device) if matrix.device.type == 'cuda' else platform.machine()
    return {
        'rsr_basicsr': rsr_basicsr.__version__,
        'basicsr': basicsr.__version__,
        'torch': torch.__version__,
        'python': platform.python_version(),
        'device': f'{matrix.device.type}, {device}',
    }


def _loss_of_attack(objective, outputs, original, clean):
    """By an attack's objective: the mean over the mask seeds, the clean output drawn as the attacked one."""
    references = [original] * len(outputs) if objective.needs_ground_truth else clean
    pairs = [
        [torch.from_numpy(image / 255.0).permute(2, 0, 1)[None].float() for image in pair]
        for pair in zip(outputs, references)
    ]
    with torch.no_grad():
        return _number('loss', fmean(objective(*pair).item() for pair in pairs))


def _centre(image, size):
    """What the gallery keeps of a large image, (H, W, 3), of an input of ``size``: the same window of all of them."""
    factor = image.shape[0] // size[0]
    (top, height), (left, width) = ((max(side - SHOWN, 0) // 2 * factor, min(side, SHOWN) * factor) for side in size)
    return image[top : top + height, left : left + width]


def _number(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f'the {name} is not a number')
    return value


def _finite(value):
    """A number for the record: equal images have an infinite PSNR, which counts as 100 dB."""
    if value is None or np.isnan(value):
        return None
    return round(min(max(value, -1e6), 100.0) if np.isinf(value) else value, 6)
