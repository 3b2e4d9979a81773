"""What all adversarial sample classifiers have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

from rsr_basicsr.ops.caching import any_size
from rsr_basicsr.ops.frequency import without_autocast
from rsr_basicsr.utils.errors import WeightsError, in_one_line
from rsr_basicsr.weights.state_dict import load_state

CLEAN = 0  # the class; 1 is attacked

#: The word for the weights that come with the package
BUILTIN = 'builtin'

#: What weight files may lack, the entries of a calibration, and what they then mean; 0.9 is of Yue et al. 2021
CALIBRATION = {'threshold': 0.9, 'temperature': 1.0}
_WEIGHTS = Path(__file__).parent / 'weights'


class SampleClassifier(nn.Module):
    """Tells attacked images from clean ones. Subclasses fill in :meth:`raw_logits`.

    Two numbers travel with the weights, since they belong to them: ``threshold``, an image counts as attacked when
    P(clean) is below it, and ``temperature``, by which logits are divided so that P(clean) means what it says (Guo et
    al. 2017).

    Shape:
        (B, 3, H, W) in [0, 1] -> logits (B, 2), float32, float64 for float64 input; class 0 is clean, class 1 attacked.
    """

    #: Where the weights of this network came from: ``builtin``, ``untrained`` or a file
    origin = 'untrained'
    #: What its weight files may lack, and what they then mean
    calibration: Mapping[str, float] = CALIBRATION
    #: Whether a gradient reaches the images
    has_gradient = True

    def __init__(self):
        super().__init__()
        self.threshold, self.temperature = (constant(torch.tensor(self.calibration[name])) for name in CALIBRATION)
        self.register_load_state_dict_pre_hook(_calibrate_files_without)

    @classmethod
    def builtin_weights(cls) -> Path:
        """Where the weights lie that come with the package; there need not be any."""
        return _WEIGHTS / f'{cls.__name__}.pth'

    def take(self, weights: str | Path | None) -> None:
        """Load a state dict: a file, ``builtin``, or None for nothing.

        Raises:
            WeightsError: as :func:`rsr_basicsr.weights.load_state` does, or the file is for another classifier.
        """
        if weights is None:
            return
        path = self.builtin_weights() if weights == BUILTIN else weights
        if weights == BUILTIN and not path.is_file():
            raise WeightsError(f'no weights of {type(self).__name__} come with the package; name a file')
        try:
            self.load_state_dict(load_state(path))
        except RuntimeError as error:
            raise WeightsError(
                f'{path} holds weights of another classifier than {type(self).__name__}: {in_one_line(error)}'
            ) from error

    def train(self, mode: bool = True):
        """Training mode, but only of a classifier that is trained: one that is frozen decides without dropout."""
        return super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))

    def seen(self, x: torch.Tensor, seed: int | None = None) -> torch.Tensor:
        """The part of images that it decides on, (B, 3, h, w): all of them, unless it looks at random crops.

        Args:
            x: images, (B, 3, H, W).
            seed: makes a crop a function of this number and the size alone; None draws anew at every call.
        """
        return x

    def raw_logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images before the temperature, (B, 2), outside of autocast."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with without_autocast(x.device):
            kind = torch.float64 if x.dtype == torch.float64 else torch.float32
            return self.raw_logits(x.to(kind)).to(kind) / self.temperature.to(kind)

    def clean_probability(self, x: torch.Tensor) -> torch.Tensor:
        """P(clean) of each image, (B,)."""
        return self(x).softmax(dim=1)[:, CLEAN]


def constant(value: torch.Tensor) -> nn.Parameter:
    """A number that belongs to the weights, but is not trained.

    No buffer: BasicSR's moving average does not copy those, and several processes would send them to each other in
    every step.
    """
    return nn.Parameter(value, requires_grad=False)


def log_odds(logits: torch.Tensor) -> torch.Tensor:
    """Log odds of attacked against clean, (B,), of logits (B, 2)."""
    return logits[:, 1 - CLEAN] - logits[:, CLEAN]


def mirrored(x: torch.Tensor, smallest: int) -> torch.Tensor:
    """Images, continued by their mirror images where a side has fewer pixels than ``smallest``."""
    for dim in (-2, -1):
        size = x.shape[dim]
        if size < smallest:
            index = torch.arange(smallest, device=x.device) % (2 * size)
            x = x.index_select(dim, torch.where(index < size, index, 2 * size - 1 - index))
    return x


def row_bands(x: torch.Tensor, rows: int, pixels: int, multiple: int) -> Iterator[tuple[int, int]]:
    """First row and the one behind the last of bands of about that many pixels; one band where a gradient is asked for.

    Args:
        x: (B, C, H, W).
        rows: how many rows are to be divided.
        pixels: of a band, which has 64 rows at least.
        multiple: bands begin at multiples of this number of rows.
    """
    if any_size():
        return iter([(0, rows)])
    each = rows if x.requires_grad else max(64, pixels // x.shape[-1] // multiple * multiple)
    return ((top, min(top + each, rows)) for top in range(0, rows, each))


def rows_between(x: torch.Tensor, top: int, bottom: int) -> torch.Tensor:
    """The rows of a band."""
    return _first(x, -2, bottom) if any_size() else x[..., top:bottom, :]  # where there is one band, from row 0


def upper_left(x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """That part of ``x``, which has as many rows and columns at least."""
    return _first(_first(x, -2, rows), -1, columns) if any_size() else x[..., :rows, :columns]


def _first(x, dim, size):
    # A slice would have to be proved to lie within an image of any size.
    return x.index_select(dim, torch.arange(size, device=x.device))


def _calibrate_files_without(net, state_dict, prefix, *args):
    for name, value in net.calibration.items():
        state_dict.setdefault(f'{prefix}{name}', torch.full_like(getattr(net, name), value))
