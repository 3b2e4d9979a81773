"""Find for each network of a benchmark the blend with bicubic upscaling that is as sharp as the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
from basicsr.utils import tensor2img
from torch import distributed as dist
from torch import nn

from rsr_basicsr.benchmark.images import BenchmarkImage
from rsr_basicsr.benchmark.matrix import Matrix
from rsr_basicsr.benchmark.measure import finite
from rsr_basicsr.benchmark.names import NO_DEFENSE
from rsr_basicsr.benchmark.plane_options import is_interpolation, with_blends
from rsr_basicsr.benchmark.run import is_first, prepared_device
from rsr_basicsr.defenses import Blend
from rsr_basicsr.metrics.inputs import calculate
from rsr_basicsr.utils.device_errors import release, stop_if_lost
from rsr_basicsr.utils.errors import OptionsError
from rsr_basicsr.utils.progress import progress_bar

STEPS = 100  # of alpha per 1
LARGEST = 140  # alpha in such steps
_COARSE = 10


def resolve_plane(
    options: Mapping[str, Any], images: Sequence[BenchmarkImage], progress: bool = True
) -> dict[str, Any]:
    """Replace ``match`` and ``alphas`` of the block ``plane`` by blends among the defences of the networks.

    The first process of a launcher measures the clean outputs and tells the others. Options without the block are
    returned as they are.

    Args:
        options, images: as returned by :func:`rsr_basicsr.benchmark.options.check_benchmark`.
        progress: show a progress bar on stderr.

    Returns:
        The options; ``plane`` holds the name of the reference, the result as ``matched``, and the measure for the
        reference and for bicubic upscaling as ``level`` and ``bicubic``.

    Raises:
        OptionsError: the measure failed on every image of the reference.
    """
    if options.get('plane') is None:
        return dict(options)
    found: list[Any] = [None]
    if is_first():
        try:
            found = [_found(options, images, progress)]
        except OptionsError as error:  # the other processes must not wait for a result
            found = [error]
    if dist.is_initialized():
        dist.broadcast_object_list(found)
    if isinstance(found[0], OptionsError):
        raise found[0]
    resolved = with_blends(options, found[0]['matched'])
    resolved['plane'].update(found[0])
    return resolved


def smallest_alpha(distances: Callable[[Sequence[int]], Sequence[float]], level: float) -> int | None:
    """The smallest alpha whose distance is at most the level, in steps of 0.01 from 0 to 1.4.

    Exact for distances that fall to a minimum and rise again, as those of blends do: steps of 0.1 are tried first.

    Args:
        distances: alphas in 1/100 -> the distance of each.
        level: the distance to reach.

    Returns:
        alpha in 1/100, or None if there is none.
    """
    coarse = list(range(0, LARGEST + 1, _COARSE))
    values = distances(coarse)
    reached = [alpha for alpha, value in zip(coarse, values) if value <= level]
    middle = reached[0] if reached else coarse[int(np.argmin(values))]
    end = middle if reached else min(middle + _COARSE, LARGEST)
    fine = [alpha for alpha in range(max(middle - _COARSE, 0), end) if alpha % _COARSE]
    reached += [alpha for alpha, value in zip(fine, distances(fine) if fine else ()) if value <= level]
    return min(reached, default=None)


def _found(options: Mapping[str, Any], images: Sequence[BenchmarkImage], progress: bool) -> dict[str, Any]:
    plane = dict(options['plane'])
    clean = CleanBlends(options, images)
    if plane['reference'] not in options['networks']:
        plane['reference'] = clean.blurriest()
    of_reference = clean.distances(plane['reference'], [0, STEPS])
    if np.isnan(of_reference).all():
        raise OptionsError(
            f'plane.measure: {plane["measure"]} cannot be computed for {plane["reference"]} on any image of '
            f'{plane["dataset"]}: {clean.error}'
        )
    bicubic, level = np.nanmean(of_reference, axis=0)
    matched: dict[str, float | None] = {}
    names = [
        name
        for name, network in options['networks'].items()
        if plane['match']
        and bicubic > level  # else a blurry image would be as sharp
        and name != plane['reference']
        and NO_DEFENSE in network['defenses']
        and not is_interpolation(network)
    ]
    with progress_bar(total=len(names), desc='equal sharpness', disable=not (progress and names)) as bar:
        for name in names:
            matched[name] = clean.matched(name, of_reference[:, 1])
            bar.update()
    return {
        'reference': plane['reference'],
        'matched': matched,
        'level': round(float(level), 6),
        'bicubic': round(float(bicubic), 6),
    }


class CleanBlends:
    """Measures the clean outputs of blends of a network, as the benchmark would.

    Args:
        options, images: as of :func:`resolve_plane`.

    Attributes:
        error: why the last image that failed did; empty if none failed.
    """

    def __init__(self, options: Mapping[str, Any], images: Sequence[BenchmarkImage]) -> None:
        self.options, plane = options, options['plane']
        self.images = [image for image in images if image.dataset == plane['dataset'] and image.has_gt]
        self.metric = options['metrics'][plane['measure']]
        self.matrix = Matrix(options, list(images), prepared_device(options))
        self.error = ''
        self._clean: tuple[str, dict[BenchmarkImage, list[torch.Tensor]]] = '', {}

    def matched(self, name: str, reference: np.ndarray) -> float | None:
        """The alpha at which a network is as sharp as the reference, whose distances per image are given."""

        def differences(alphas: Sequence[int]) -> list[float]:
            found = self.distances(name, alphas) - reference[:, None]
            measured = found[~np.isnan(found).any(axis=1)]
            return list(measured.mean(axis=0)) if len(measured) else [float('inf')] * len(alphas)

        alpha = smallest_alpha(differences, 0)
        return None if alpha is None else alpha / STEPS

    def blurriest(self) -> str:
        """The network without a defence whose clean outputs are farthest from the originals.

        Raises:
            OptionsError: the measure failed on every image of every network.
        """
        found = {
            name: self.distances(name, [STEPS])
            for name, network in self.options['networks'].items()
            if NO_DEFENSE in network['defenses'] and not is_interpolation(network)
        }
        means = {name: float(np.nanmean(values)) for name, values in found.items() if not np.isnan(values).all()}
        if not means:
            raise OptionsError(f'plane.reference: no network is measured without a defence: {self.error}')
        return max(means, key=means.__getitem__)

    def distances(self, name: str, alphas: Sequence[int]) -> np.ndarray:
        """The measure of the blends of a network, (images, alphas); NaN for images on which it fails.

        Args:
            name: the network.
            alphas: in 1/100.
        """
        found = np.full((len(self.images), len(alphas)), np.nan)
        for row, image in enumerate(self.images):
            try:
                found[row] = self._of_image(name, image, [alpha / STEPS for alpha in alphas])
            except Exception as error:  # networks and metrics raise anything; the cell of this image fails too
                stop_if_lost(error)
                release(error)
                self.error = str(error)
        return found

    def _of_image(self, name: str, image: BenchmarkImage, alphas: Sequence[float]) -> list[float]:
        item = self.matrix.read(image)
        given = {'lq': tensor2img(item['lq']), 'img2': tensor2img(item['gt'])}
        outputs = self._outputs(name, image, item['lq'])
        means = []
        for alpha in alphas:
            blends = [Blend(_Known(output), alpha=alpha)(item['lq']) for output in outputs]
            values = [finite(calculate(self.metric, {**given, 'img': tensor2img(blend)})) for blend in blends]
            if None in values:
                raise ValueError('the measure is not a number')
            means.append(fmean(value for value in values if value is not None))
        return means

    def _outputs(self, name: str, image: BenchmarkImage, lq: torch.Tensor) -> list[torch.Tensor]:
        """Clean outputs, one per mask seed; one of a network that does not draw. Those of the last network are kept."""
        if self._clean[0] != name:
            self._clean = name, {}
        known = self._clean[1]
        if image not in known:
            net, seeds = self.matrix.network(name), self.options['mask_seeds']
            known[image] = list(self.matrix.outputs(net, lq, seeds if self.matrix.draws_at_random(net) else seeds[:1]))
        return known[image]


class _Known(nn.Module):
    """A network whose output for the image at hand is known."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output
