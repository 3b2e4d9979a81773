"""What a measurement of stability found: figures per network and eps, and images per crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rsr_basicsr.benchmark.summary import MetricEstimate, estimate
from rsr_basicsr.metrics.stability_metric import rms_gain
from rsr_basicsr.stability.crops import Crop


class GainRow(NamedTuple):
    """A network under attack of one eps, over all crops.

    Args:
        network: its name.
        is_baseline: whether it is the interpolation beside the network in question.
        eps: of the attack, in 1/255.
        stability: under attack, in dB.
        noise: stability under random noise of the same eps, in dB.
    """

    network: str
    is_baseline: bool
    eps: int
    stability: MetricEstimate
    noise: MetricEstimate

    @property
    def gain(self) -> float:
        """RMS change of the output over eps, under attack: the geometric mean over the crops."""
        return rms_gain(self.stability.mean, self.eps)

    @property
    def noise_gain(self) -> float:
        """The same under random noise."""
        return rms_gain(self.noise.mean, self.eps)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the gain."""
        return rms_gain(self.stability.high, self.eps), rms_gain(self.stability.low, self.eps)


class CropAttack(NamedTuple):
    """A network under attack of one eps, on one crop.

    Args:
        stability: in dB, one value per mask seed.
        noise: the same under random noise.
        gate: the gate setting that was the worst; empty without a detector.
        lq: the attacked crop, (h, w, 3), BGR uint8.
        output: what the network makes of it, (sh, sw, 3), BGR uint8.
        change: RMS change of each output pixel over the channels and mask seeds, in levels, float32 (sh, sw).
    """

    stability: list[float]
    noise: list[float]
    gate: str
    lq: np.ndarray
    output: np.ndarray
    change: np.ndarray


class MeasuredCrop(NamedTuple):
    """A crop, the network's output for it, and its attacks.

    Args:
        crop: the crop.
        output: clean output, (sh, sw, 3), BGR uint8.
        attacks: eps in 1/255 -> attack.
    """

    crop: Crop
    output: np.ndarray
    attacks: Mapping[int, CropAttack]

    def gain(self, eps: int) -> float:
        """RMS change of the output over eps, under attack."""
        return rms_gain(float(np.mean(self.attacks[eps].stability)), eps)


@dataclass(frozen=True)
class StabilityResult:
    """How much a network amplifies noise.

    Attributes:
        network: its name.
        facts: type, parameters, digest and scale of the network, and whether it is random.
        rows: by eps, first the network, then the baseline.
        crops: the measured crops, the one with the largest gain at the largest eps first.
        settings: of the measurement.
        versions: software and device, name -> version.
        failed: sentences on images that could not be read or measured.
    """

    network: str
    facts: Mapping[str, Any]
    rows: Sequence[GainRow]
    crops: Sequence[MeasuredCrop]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    failed: Sequence[str]

    @property
    def strengths(self) -> list[int]:
        """Each eps in 1/255, ascending."""
        return sorted({row.eps for row in self.rows})

    def row(self, eps: int, baseline: bool = False) -> GainRow:
        """The figures of the network, or of the baseline, at an eps.

        Raises:
            ValueError: this eps was not measured.
        """
        for row in self.rows:
            if (row.eps, row.is_baseline) == (eps, baseline):
                return row
        raise ValueError(f'eps {eps} was not measured; measured are {", ".join(map(str, self.strengths))}')

    def gain(self, eps: int) -> float:
        """RMS change of the network's output over eps, under attack: the geometric mean over the crops."""
        return self.row(eps).gain


def gain_row(network: str, is_baseline: bool, eps: int, crops: Sequence[Mapping[int, CropAttack]]) -> GainRow:
    """The figures over crops at an eps.

    Args:
        network: name of the network.
        is_baseline: see :class:`GainRow`.
        eps: in 1/255.
        crops: the attacks of each crop, by eps.
    """
    return GainRow(
        network,
        is_baseline,
        eps,
        estimate([attacks[eps].stability for attacks in crops]),
        estimate([attacks[eps].noise for attacks in crops]),
    )
