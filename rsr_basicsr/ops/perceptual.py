"""Perceptual distances between images: LPIPS, and measures that need no weights.

All are modules that map two batches of images (B, 3, H, W) in [0, 1] to B distances: lower is better, 0 for equal
images, differentiable.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os.path as osp
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from rsr_basicsr.ops.frequency import without_autocast
from rsr_basicsr.ops.local_contrast import LocalContrast
from rsr_basicsr.utils.errors import WeightsError
from rsr_basicsr.utils.hints import did_you_mean
from rsr_basicsr.weights.backbones import cached_at, fetch_backbone
from rsr_basicsr.weights.state_dict import load_state

#: Name of a measure -> its network in the package lpips, and what that is called
LEARNED = {'lpips': ('alex', 'AlexNet'), 'lpips_squeeze': ('squeeze', 'SqueezeNet 1.1')}
#: Name of a measure -> its function in the package piq, and the value for equal images
WEIGHT_FREE = {'haarpsi': ('haarpsi', 1), 'mdsi': ('mdsi', 0), 'gmsd': ('gmsd', 0), 'vif': ('vif_p', 1)}
#: What ``auto`` is on a machine without weights of LPIPS: the one that agrees with LPIPS, see docs/benchmark.md
WITHOUT_WEIGHTS = 'local_contrast'
MEASURES = (*LEARNED, WITHOUT_WEIGHTS, *WEIGHT_FREE)
#: The smallest side of an image in pixels
SMALLEST = {'lpips': 31, 'lpips_squeeze': 17, 'local_contrast': 11, 'haarpsi': 16, 'mdsi': 3, 'gmsd': 3, 'vif': 41}
#: Word for the best measure of this machine, see :func:`available_measure`
AUTO = 'auto'
_SECONDS = 15.0  # for the 5 MB of SqueezeNet
_INSTALL = "install the extra metrics: pip install 'rsr-basicsr[metrics]', or pip install lpips piq"


class LPIPS(nn.Module):
    """LPIPS, the learned perceptual distance of Zhang et al. 2018, by its authors' package.

    Args:
        metric: ``lpips.LPIPS``; is frozen.
    """

    def __init__(self, metric: nn.Module) -> None:
        super().__init__()
        self.metric = metric.eval().requires_grad_(False)

    def forward(self, output: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Distance per sample, (B,), between images (B, 3, H, W) in [0, 1]."""
        return self.metric.to(output.device)(output, reference, normalize=True).flatten()


class Structural(nn.Module):
    """A structural distance of the package piq, without weights.

    Args:
        function: of piq; compares two batches in [0, 1].
        best: its value for equal images. If it is 1 the distance is 1 minus the value, if it is 0 the value itself.
    """

    def __init__(self, function: Callable[..., torch.Tensor], best: int) -> None:
        super().__init__()
        self.function, self.best = function, best

    def forward(self, output: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Distance per sample, (B,), between images (B, 3, H, W), which are clamped to [0, 1].

        Raises:
            ValueError: an image holds a value that is not a number.
        """
        images = [x if x.dtype == torch.float64 else x.float() for x in (output, reference)]
        if not all(x.isfinite().all() for x in images):
            raise ValueError('the images to compare hold values that are not numbers')
        clamped, target = (x.clamp(0, 1) for x in images)
        if clamped.requires_grad:
            # The gradient magnitude of a flat area is a root at 0, whose derivative times 0 is not a number.
            clamped.register_hook(lambda gradient: torch.where(gradient.isfinite(), gradient, 0))
        with without_autocast(output.device):
            value = self.function(clamped, target, reduction='none').reshape(len(output))
        return 1 - value if self.best else value

    def extra_repr(self) -> str:
        return self.function.__name__


def perceptual_measure(name: str, backbone: str | Path | None = None) -> nn.Module:
    """A perceptual distance, built once per process.

    Args:
        name: ``lpips`` (on AlexNet), ``lpips_squeeze`` (on SqueezeNet 1.1), ``local_contrast`` (see
            :class:`rsr_basicsr.ops.local_contrast.LocalContrast`), ``haarpsi`` (Reisenhofer et al. 2018), ``mdsi``
            (Nafchi et al. 2016), ``gmsd`` (Xue et al. 2014), ``vif`` (Sheikh and Bovik 2006; below 0 where the output
            has more contrast than the reference), or ``auto``, see :func:`available_measure`.
        backbone: for LPIPS: file with the weights of torchvision's network (only ``features.*`` are used); None takes
            torchvision's from torch's cache, and downloads them if missing.

    Raises:
        ValueError: there is no such measure, its package is missing, the file is for another network, or a measure
            without weights is given one.
        WeightsError: the weights cannot be read or downloaded.
    """
    if name == AUTO:
        name = available_measure(backbone)
    if not isinstance(name, str) or name not in MEASURES:
        raise ValueError(f'there is no perceptual measure {name!r}; {did_you_mean(name, (*MEASURES, AUTO))}')
    return _built(name, None if backbone is None else osp.expanduser(str(backbone)))


def available_measure(backbone: str | Path | None = None) -> str:
    """The measure that ``auto`` means on this machine; decided once per process, within seconds.

    LPIPS on AlexNet if its weights are in torch's cache, else on SqueezeNet if its weights are there or can be
    downloaded quickly, else, or without the package lpips, local contrast. HaarPSI and its like cannot take its place:
    they prefer a blurry image to one with invented detail.

    Args:
        backbone: file with the weights of AlexNet or SqueezeNet 1.1, which decides between the two.

    Raises:
        ValueError: the file is for another network.
        WeightsError: the file cannot be read.
    """
    return _available(None if backbone is None else osp.expanduser(str(backbone)))


@functools.cache
def _available(backbone: str | None) -> str:
    if backbone is not None:
        return _measure_of(load_state(backbone), backbone)
    if importlib.util.find_spec('lpips') is not None:
        if cached_at('alex').is_file():
            return 'lpips'
        try:
            _weights_of('squeeze', _SECONDS)
            return 'lpips_squeeze'
        except WeightsError:
            pass
    return WITHOUT_WEIGHTS


def _measure_of(state: Mapping[str, torch.Tensor], path: str) -> str:
    """The measure whose network has such a first convolution."""
    first = state.get('features.0.weight')
    for name, size in (('lpips', 11), ('lpips_squeeze', 3)):
        if first is not None and tuple(first.shape) == (64, 3, size, size):
            return name
    raise ValueError(f"{path} holds no features of torchvision's AlexNet or SqueezeNet 1.1; name another file")


@functools.cache
def _built(name: str, backbone: str | None) -> nn.Module:
    if name in LEARNED:
        return _lpips(name, backbone)
    if backbone is not None:
        raise ValueError(f'backbone: {backbone} is for lpips and lpips_squeeze; {name} has no weights')
    if name == WITHOUT_WEIGHTS:
        return LocalContrast()
    function, best = WEIGHT_FREE[name]
    return Structural(getattr(_package('piq', name), function), best)


def _lpips(name: str, backbone: str | None) -> LPIPS:
    network, title = LEARNED[name]
    lpips = _package('lpips', name)
    # The network is initialized at random: a training must draw the same random numbers as without LPIPS.
    with torch.random.fork_rng(devices=[]):
        metric = lpips.LPIPS(net=network, pnet_rand=True, verbose=False)
    state = _weights_of(network) if backbone is None else load_state(backbone)
    for number in range(1, metric.net.N_slices + 1):
        part = getattr(metric.net, f'slice{number}')
        try:
            part.load_state_dict({key: state[f'features.{key}'].float() for key in part.state_dict()})
        except (KeyError, RuntimeError):
            where = backbone or cached_at(network)
            raise ValueError(f"{where} holds no features of torchvision's {title}; name another file") from None
    return LPIPS(metric)


def _package(package: str, name: str) -> ModuleType | Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ValueError(f'the measure {name} needs the package {package}; {_INSTALL}') from None


def _weights_of(network: str, seconds: float | None = None) -> Mapping[str, torch.Tensor]:
    """Seam for ``rsr check``, which downloads nothing."""
    return fetch_backbone(network, seconds)


def forget_measures() -> None:
    """Build measures anew and decide anew what ``auto`` means."""
    _built.cache_clear()
    _available.cache_clear()
