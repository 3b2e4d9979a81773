"""Measure one cell of a benchmark: defended network -> attack -> 8-bit image -> metrics -> record."""

from __future__ import annotations

import math
import platform
import time
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from statistics import fmean
from typing import Any

import basicsr
import numpy as np
import torch
from basicsr.utils import tensor2img
from torch import nn

import rsr_basicsr
from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.attacks import DetectorAware, Universal, WorstOf
from rsr_basicsr.attacks.alarms import zero_gradient
from rsr_basicsr.attacks.objectives import Objective
from rsr_basicsr.attacks.problem import gate_set
from rsr_basicsr.benchmark.matrix import GATE_SETTINGS, Cell, Matrix, seeded
from rsr_basicsr.benchmark.names import CLEAN, STABILITY
from rsr_basicsr.benchmark.options import decides
from rsr_basicsr.benchmark.record import Record, Recorder
from rsr_basicsr.metrics.inputs import calculate
from rsr_basicsr.utils.device_errors import out_of_memory, release, stop_if_lost
from rsr_basicsr.utils.errors import in_one_line

#: Side of the central window of an input that the gallery keeps, in pixels
GALLERY_SIDE = 160


class Bench:
    """Measures cells; caches what the next cell of the same network or image needs again.

    Args:
        matrix: the matrix of the cells.
        recorder: stores the images of the gallery.
    """

    def __init__(self, matrix: Matrix, recorder: Recorder) -> None:
        self.matrix, self.options, self.recorder = matrix, matrix.options, recorder
        self._clean: tuple[object, list[np.ndarray]] = (None, [])
        self._universal: dict[tuple[str, str, str, float, str], Universal | Exception] = {}

    def measure(self, cell: Cell) -> Record:
        """Measure a cell; a failure becomes a record with its error.

        Raises:
            DeviceError: the GPU has failed, and the next cells would fail too.
        """
        started = time.time()
        names: dict[str, Any] = dict(
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
            environment=environment(self.matrix.device),
            started=datetime.fromtimestamp(started, timezone.utc).isoformat(timespec='seconds'),
        )
        try:
            found = self._measured(cell)
        except Exception as error:  # networks, attacks and metrics raise errors of any type
            return Record(**names, error=_failure(error), seconds=round(time.time() - started, 2))
        return Record(**names, **found, seconds=round(time.time() - started, 2))

    def _measured(self, cell: Cell) -> dict[str, Any]:
        net = self.matrix.network(cell.network, cell.defense)
        item = self.matrix.read(cell.image)
        lq, gt = item['lq'], item.get('gt')
        found: dict[str, Any] = {}
        attacked, objective = lq, None
        if cell.attack != CLEAN:
            attacked, objective, found = self._attacked(cell, net, lq, gt)
        clean = self._clean_outputs(cell, net, lq)
        outputs = clean if cell.attack == CLEAN else self._outputs(net, attacked)
        found['random'] = self.matrix.draws_at_random(net)
        images = {'lq': tensor2img(attacked)}
        if gt is not None:
            images['img2'] = tensor2img(gt)
        if objective is not None:
            images['lq_clean'] = tensor2img(lq)
            found['loss'] = _attack_loss(objective, outputs, images.get('img2'), clean)
        found['values'], found['metric_errors'] = self._metrics(
            images, outputs, clean if cell.attack != CLEAN else None
        )
        if cell.attack == CLEAN and decides(net):
            found['gate_stability'] = self._gate_stability(net, lq)
        found['score'] = detector_score(net, attacked, self.options.get('tile') is not None)
        if cell.in_gallery:
            kept = {'lq': images['lq'], 'sr': outputs[0], **({'gt': images['img2']} if gt is not None else {})}
            found['gallery'] = {
                name: self.recorder.keep_image(f'{cell.key}.{name}', _centre(image, lq.shape[-2:]))
                for name, image in kept.items()
                if name != 'gt' or cell.attack == CLEAN
            }
        return found

    def _attacked(
        self, cell: Cell, net: nn.Module, lq: torch.Tensor, gt: torch.Tensor | None
    ) -> tuple[torch.Tensor, Objective, dict[str, Any]]:
        """The attacked image, the objective of the attack, and fields of the record."""
        attack = self.matrix.attack(cell.attack, cell.eps, net)
        if isinstance(attack, Universal):
            attack = self._fitted(cell, attack, net)
        target = gt if attack.objective.needs_ground_truth else None
        # For attacks without a seed of their own.
        with seeded(self.options['seed'], zlib.crc32(cell.key.encode()), self.matrix.device):
            attacked, *more = attack.results(net, lq, target)
            if not attacked.isfinite().all():
                raise ValueError('the output or the gradient of the network is not a number')
            zeros = zero_gradient(
                attack.attacks[0] if isinstance(attack, WorstOf) else attack, net, lq, target, attacked
            )
        found: dict[str, Any] = {'zero_gradient': zeros}
        if isinstance(attack, WorstOf):
            chosen = int(more[1][0])
            types = _inner_types(self.options['attacks'][cell.attack])
            found['worst'] = GATE_SETTINGS[chosen] if types is None else types[chosen]
        elif isinstance(attack, DetectorAware):
            found['worst'] = 'undetected' if bool(more[1][0]) else 'detected'
        return attacked, attack.objective, found

    def _fitted(self, cell: Cell, attack: Universal, net: nn.Module) -> Universal:
        """The attack with its perturbation for all images of the data set; a failed fit is not repeated."""
        key = (cell.network, cell.defense, cell.attack, cell.eps, cell.image.dataset)
        if key not in self._universal:
            self._universal = {k: fitted for k, fitted in self._universal.items() if k[:2] == key[:2]}
            items = [self.matrix.read(p) for p in self.matrix.images if p.dataset == cell.image.dataset]
            targets = [item['gt'] for item in items] if attack.objective.needs_ground_truth else None
            generator = torch.Generator().manual_seed(self.options['seed'])
            try:
                with seeded(self.options['seed'], 0, self.matrix.device):
                    fitted: Universal | Exception = attack.fit(
                        net, [item['lq'] for item in items], targets, generator=generator
                    )
            except Exception as error:  # every cell with this perturbation fails
                fitted = error
            self._universal[key] = fitted
        known = self._universal[key]
        if isinstance(known, Exception):
            raise known
        return known

    def _clean_outputs(self, cell: Cell, net: nn.Module, lq: torch.Tensor) -> list[np.ndarray]:
        place = cell.network, cell.defense, cell.image
        if self._clean[0] != place:
            self._clean = place, self._outputs(net, lq)
        return self._clean[1]

    def _gate_stability(self, net: nn.Module, lq: torch.Tensor) -> float:
        """PSNR between the outputs with the gate forced on and off, in dB: what triggering it does by itself."""
        outputs = []
        for gate in ('always', 'never'):
            with gate_set(net, gate):
                outputs.append(self._outputs(net, lq))
        metric = self.options['metrics'][STABILITY]
        values = (finite(calculate(metric, {'img': masked, 'img_clean': plain})) for masked, plain in zip(*outputs))
        return round(fmean(value for value in values if value is not None), 4)

    def _outputs(self, net: nn.Module, lq: torch.Tensor) -> list[np.ndarray]:
        """Outputs for an image, BGR uint8, one per mask seed."""
        outputs = []
        for output in self.matrix.outputs(net, lq, self.options['mask_seeds']):
            if not output.isfinite().all():
                raise ValueError('the output of the network is not a number')
            outputs.append(tensor2img(output))
        return outputs

    def _metrics(
        self, images: Mapping[str, np.ndarray], outputs: Sequence[np.ndarray], clean: Sequence[np.ndarray] | None
    ) -> tuple[dict[str, list[float | None]], dict[str, str]]:
        """Values and errors of all metrics; equal outputs are measured once."""
        values: dict[str, list[float | None]] = {name: [] for name in self.options['metrics']}
        errors: dict[str, str] = {}
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
                    values[name].append(finite(calculate(metric, given)) if same is None else values[name][same])
                except Exception as error:  # the other metrics and the attack are still valid
                    values[name].append(None)
                    errors[name] = _failure(error)
        return values, errors


def _failure(error: Exception) -> str:
    """The error for a record; frees the memory that a failed cell or metric holds."""
    stop_if_lost(error)
    if not out_of_memory(error):
        return f'{type(error).__name__}: {in_one_line(error)}'
    release(error)
    return 'out of memory; write tile in the options, or take smaller images'


def detector_score(net: nn.Module, lq: torch.Tensor, tiled: bool = False) -> float | None:
    """Log odds that an image is attacked by the network's own detector, above 0 if it flags it; None without one.

    Behind another defence the detector sees the transformed image, but with tiles the whole image as it is.
    """
    defended = next((module for module in net.modules() if isinstance(module, DefenseMixin)), None)
    if defended is None or defended.defense.gate not in ('classifier', 'soft'):
        return None
    seen: list[torch.Tensor] = []
    handle = defended.register_forward_pre_hook(lambda module, args: seen.append(args[0][:1]))
    try:
        with seeded(0, 0, lq.device), torch.no_grad():
            if defended is net or tiled:
                seen.append(lq)
            else:
                net(lq)
            return round(_number('score of the detector', defended.defense.logit(seen[0]).item()), 4)
    finally:
        handle.remove()


def _inner_types(options: Mapping[str, Any]) -> list[str] | None:
    """The types of the attacks inside a WorstOf; None for other attacks."""
    return [inner.get('type', 'PGD') for inner in options['attacks']] if options['type'] == 'WorstOf' else None


def environment(device: torch.device) -> dict[str, str]:
    """Versions and device, which can change the last bits of a result."""
    on_gpu = device.type == 'cuda'
    hardware = torch.cuda.get_device_name(device) if on_gpu else platform.machine()
    return {
        'rsr_basicsr': rsr_basicsr.__version__,
        'basicsr': basicsr.__version__,
        'torch': torch.__version__,
        'python': platform.python_version(),
        'device': f'{device.type}, {hardware}',
        **({'tf32': 'on' if torch.backends.cudnn.allow_tf32 else 'off'} if on_gpu else {}),
    }


def _attack_loss(
    objective: Objective,
    outputs: Sequence[np.ndarray],
    original: np.ndarray | None,
    clean: Sequence[np.ndarray],
) -> float:
    """The attack's objective, averaged over the mask seeds; clean and attacked outputs use the same masks."""
    references = clean
    if objective.needs_ground_truth and original is not None:
        references = [original] * len(outputs)
    pairs = [
        [torch.from_numpy(image / 255.0).permute(2, 0, 1)[None].float() for image in pair]
        for pair in zip(outputs, references)
    ]
    with torch.no_grad():
        return _number('loss', fmean(objective(*pair).item() for pair in pairs))


def _centre(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The central window that the gallery keeps of an image, (H, W, 3), whose input is of ``size``."""
    factor = image.shape[0] // size[0]
    (top, height), (left, width) = (
        (max(side - GALLERY_SIDE, 0) // 2 * factor, min(side, GALLERY_SIDE) * factor) for side in size
    )
    return image[top : top + height, left : left + width]


def _number(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f'the {name} is not a number')
    return value


def finite(value: float | None) -> float | None:
    """The value of a metric for the record: the infinite PSNR of equal images counts as 100 dB."""
    if value is None or np.isnan(value):
        return None
    return round(min(max(value, -1e6), 100.0) if np.isinf(value) else value, 6)
