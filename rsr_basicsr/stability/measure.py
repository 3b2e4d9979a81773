"""How much a network amplifies noise: white-box attacks on crops of images, with random noise and bicubic beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.utils import tensor2img
from torch import nn

from rsr_basicsr.archs import Interpolation
from rsr_basicsr.attacks import PGD, Attack, RandomNoise, WorstOf
from rsr_basicsr.benchmark.matrix import GATE_SETTINGS, every_gate_setting, is_random, upscaled_under
from rsr_basicsr.benchmark.measure import environment
from rsr_basicsr.benchmark.options import decides, parameter_counts
from rsr_basicsr.catalog.choices import DEFAULT_CROP, DEFAULT_EPS, DEFAULT_IMAGES, DEFAULT_STEPS
from rsr_basicsr.inference.upscaler import device_of
from rsr_basicsr.metrics.stability_metric import calculate_stability
from rsr_basicsr.ops.tiled import Padded, windows_of
from rsr_basicsr.stability.crops import MIN_SIDE, Crop, read_images, take_crops
from rsr_basicsr.stability.result import CropAttack, MeasuredCrop, StabilityResult, gain_row
from rsr_basicsr.utils.device_errors import out_of_memory, release, stop_if_lost
from rsr_basicsr.utils.errors import ImageError, OptionsError, in_one_line
from rsr_basicsr.utils.progress import progress_bar
from rsr_basicsr.weights.spandrel_network import architecture_of
from rsr_basicsr.weights.state_dict import digest

MASK_SEEDS = 0, 1, 2  # under each of which the outputs of a random network are measured
BORDER = 4  # pixels of the output that stability leaves out, as in the benchmark
_EQUAL = 100.0  # dB, for equal outputs, as in the benchmark


def measure_stability(
    net: nn.Module,
    images: Sequence[str | Path | torch.Tensor],
    *,
    name: str | None = None,
    eps: Sequence[float] = DEFAULT_EPS,
    steps: int = DEFAULT_STEPS,
    crop: int = DEFAULT_CROP,
    num_images: int = DEFAULT_IMAGES,
    seed: int = 0,
    device: str = 'auto',
    progress: bool = False,
) -> StabilityResult:
    """Attack crops of images with PGD on stability, and measure how much the output moves.

    The attack is white-box and rounded to 8 bits. On a network with a detector it is made with each gate setting, and
    the worst counts, as in the benchmark. The most textured windows of an image are attacked; few images give several
    each, at least 8 in all if there is room.

    Args:
        net: maps (1, 3, H, W) in [0, 1] to (1, 3, sH, sW); it is put on the device, in evaluation mode.
        images: files, folders, or tensors (1, 3, H, W) in [0, 1]; rounded to 8 bits.
        name: of the network in the result; None takes its class.
        eps: radii of the L-inf ball in 1/255: whole numbers, since images have 8 bits.
        steps: of the attack.
        crop: side of the windows in pixels; smaller images are taken whole.
        num_images: how many images to take, evenly spread over those found; 0 takes all.
        seed: of attacks and noise. On a CPU the result depends on nothing else but the number of threads.
        device: ``auto`` is a GPU if there is one.
        progress: show a progress bar on stderr.

    Returns:
        The result; ``failed`` lists images that could not be read or measured.

    Raises:
        OptionsError: a setting is out of range, or there is no image.
        ImageError: no image can be read or measured.
        DeviceError: the GPU has failed.

    Examples:
        >>> from rsr_basicsr.archs import Interpolation
        >>> from rsr_basicsr.stability import measure_stability
        >>> net, image = Interpolation(scale=2, mode='nearest'), torch.full((1, 3, 48, 48), 0.5)
        >>> result = measure_stability(net, [image], steps=5, device='cpu')
        >>> round(result.gain(8), 2)  # nearest neighbours pass noise on as it is
        1.0
    """
    settings = check_settings(eps=eps, steps=steps, crop=crop, num_images=num_images, seed=seed)
    place = device_of(device)
    name, facts = name or architecture_of(net), _facts(net)
    found = list(read_images(images, num_images))
    failed = [str(image) for image in found if isinstance(image, ImageError)]
    crops = take_crops([image for image in found if not isinstance(image, ImageError)], crop)
    if not crops:
        raise ImageError('; '.join(failed))
    net = _on_crops(net, crops).to(place).eval()
    scale = _scale(net, crops[0].lq.to(place))
    network, baseline = Probe(net, settings, place), Probe(Interpolation(scale=scale), settings, place)
    measured, of_baseline = [], []
    with progress_bar(total=len(crops), unit='crop', disable=not progress) as bar:
        for each in crops:
            try:
                measured.append(network.measure(each))
                of_baseline.append(baseline.measure(each))
            except ImageError as error:
                failed.append(str(error))
            bar.update()
    if not measured:
        raise ImageError(failed[-1])
    interpolation = 'bicubic' if scale > 1 else 'identity'
    rows = [
        gain_row(label, probe is baseline, each, [one.attacks for one in of])
        for each in settings['eps']
        for label, probe, of in ((name, network, measured), (interpolation, baseline, of_baseline))
    ]
    measured.sort(key=lambda one: -one.gain(settings['eps'][-1]))
    return StabilityResult(
        name,
        {**facts, 'scale': scale, 'random': network.random},
        rows,
        measured,
        {**settings, 'images': len({one.crop.image.name for one in measured}), 'crops': len(measured)},
        {**environment(place), 'threads': str(torch.get_num_threads())},
        failed,
    )


class Probe:
    """Attacks a network on crops.

    Args:
        net: on the device, in evaluation mode.
        settings: ``eps``, ``steps`` and ``seed`` of the attacks.
        device: of the network.
    """

    def __init__(self, net: nn.Module, settings: Mapping[str, Any], device: torch.device) -> None:
        self.net, self.device = net, device
        try:
            self.random = is_random(net, device)
        except Exception:  # too small an image for this network
            self.random = True
        common: dict[str, Any] = {'quantize': 'nearest', 'seed': settings['seed']}
        self.attacks: dict[int, tuple[Attack, Attack]] = {
            eps: (
                every_gate_setting(PGD(eps=eps, steps=settings['steps'], **common), net),
                RandomNoise(eps=eps, **common),
            )
            for eps in settings['eps']
        }

    def measure(self, crop: Crop) -> MeasuredCrop:
        """Attack a crop at each eps.

        Raises:
            ImageError: the network rejects the crop, memory runs out, or values are not finite.
        """
        lq = crop.lq.to(self.device)
        try:
            clean = self._outputs(lq)
            attacks = {eps: self._attacked(lq, clean, *of_eps) for eps, of_eps in self.attacks.items()}
        except Exception as error:  # networks raise errors of any type
            failed = f': {_name(self.net)} cannot be attacked'
            raise _image_error(crop.image.name, failed, crop.lq, error) from error
        return MeasuredCrop(crop, clean[0], attacks)

    def _attacked(self, lq: torch.Tensor, clean: Sequence[np.ndarray], attack: Attack, noise: Attack) -> CropAttack:
        attacked, *more = attack.results(self.net, lq)
        outputs = self._outputs(attacked)
        changes = [np.square(after - before.astype(np.float32)) for after, before in zip(outputs, clean)]
        return CropAttack(
            _stability(outputs, clean),
            _stability(self._outputs(noise(self.net, lq)), clean),
            GATE_SETTINGS[int(more[1][0])] if isinstance(attack, WorstOf) else '',
            tensor2img(attacked),
            outputs[0],
            np.sqrt(np.mean(changes, axis=(0, 3))),
        )

    def _outputs(self, lq: torch.Tensor) -> list[np.ndarray]:
        """Outputs, BGR uint8; one per mask seed if the network is random."""
        found = []
        for output in upscaled_under(self.net, lq, MASK_SEEDS if self.random else MASK_SEEDS[:1]):
            if not output.isfinite().all():
                raise ValueError('the output or the gradient of the network is not a number; use other weights')
            found.append(tensor2img(output))
        return found


def _stability(outputs: Sequence[np.ndarray], clean: Sequence[np.ndarray]) -> list[float]:
    return [min(calculate_stability(*pair, crop_border=BORDER), _EQUAL) for pair in zip(outputs, clean)]


def check_settings(*, eps: Sequence[float], **others: int) -> dict[str, Any]:
    """The settings of :func:`measure_stability`, eps sorted and unique.

    Raises:
        OptionsError: one is out of range.
    """
    for value in eps:
        if value not in range(1, 256):
            raise OptionsError(
                f'eps {value:g}: expected a whole number from 1 to 255, since images have 8 bits; 8 stands for 8/255'
            )
    lowest = {'steps': 1, 'crop': MIN_SIDE, 'num_images': 0, 'seed': 0}
    for name, value in others.items():
        if value < lowest[name]:
            raise OptionsError(f'{name} {value}: expected at least {lowest[name]}')
    if not eps:
        raise OptionsError('eps: expected at least one number, such as 8')
    return {'eps': sorted({int(value) for value in eps}), **others}


def _facts(net: nn.Module) -> dict[str, Any]:
    state = {key: value.cpu() for key, value in net.state_dict().items()}
    return {
        'type': architecture_of(net),
        **parameter_counts(net),
        'digest': digest(state),
        'detector': decides(net),
    }


def _on_crops(net: nn.Module, crops: Sequence[Crop]) -> nn.Module:
    """The network, padding what is not a multiple of its windows."""
    multiple = windows_of(net)
    fits = all(side % multiple == 0 for crop in crops for side in crop.lq.shape[-2:])
    return net if fits else Padded(net, multiple)


def _scale(net: nn.Module, lq: torch.Tensor) -> int:
    """The scale of a network, from its output for a crop on its device.

    Raises:
        ImageError: it does not take the crop, or does not upscale by a whole number.
    """
    height, width = lq.shape[-2:]
    try:
        with torch.no_grad():
            output = net(lq)
        size = tuple(output.shape)
    except Exception as error:  # networks raise errors of any type
        raise _image_error(_name(net), f' does not take an image of {width}x{height}', lq, error) from error
    scale = size[-1] // width
    if size != (1, 3, scale * height, scale * width) or not scale:
        raise ImageError(
            f'{_name(net)} makes {"x".join(map(str, size))} of 1x3x{height}x{width}; '
            'expected an image, upscaled by a whole number'
        )
    return scale


def _image_error(subject: str, failed: str, lq: torch.Tensor, error: Exception) -> ImageError:
    """The failure of a crop in one sentence.

    Args:
        subject: the image or the network, which the sentence begins with.
        failed: how it goes on where the reason is not memory.
        lq: the crop, (1, 3, H, W).
        error: of any type; one of memory gives back what the computation held.
    """
    stop_if_lost(error)
    if out_of_memory(error):
        release(error)
        return ImageError(f'{subject}: out of memory; take smaller crops than {lq.shape[-1]} pixels')
    return ImageError(f'{subject}{failed}: {in_one_line(error)}')


def _name(net: nn.Module) -> str:
    return type(net.net if isinstance(net, Padded) else net).__name__
