"""Base class of the adversarial sample classifiers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rsr_basicsr.catalog.choices import BUILTIN
from rsr_basicsr.ops.caching import any_size
from rsr_basicsr.ops.frequency import without_autocast
from rsr_basicsr.utils.errors import WeightsError, in_one_line
from rsr_basicsr.weights.state_dict import load_state

if TYPE_CHECKING:
    from typing_extensions import Self

CLEAN = 0  # index of the class; 1 is attacked

#: Calibration entries and their defaults for weight files without them; the threshold 0.9 is from Yue et al. 2021
CALIBRATION = {'threshold': 0.9, 'temperature': 1.0}
_WEIGHTS = Path(__file__).parent / 'weights'


class SampleClassifier(nn.Module):
    """Classifies images as clean or attacked. Subclasses implement :meth:`raw_logits`.

    Two numbers are stored with the weights: ``threshold``, an image counts as attacked if P(clean) is below it, and
    ``temperature``, by which logits are divided so that P(clean) is calibrated (Guo et al. 2017).

    Shape:
        (B, 3, H, W) in [0, 1] -> logits (B, 2), float32, float64 for float64 input; class 0 is clean, class 1 attacked.
    """

    #: Origin of the weights: ``builtin``, ``untrained`` or a file
    origin: str | Path = 'untrained'
    #: Defaults for weight files without a calibration
    calibration: Mapping[str, float] = CALIBRATION
    #: Whether logits have a gradient with respect to the images
    has_gradient = True

    def __init__(self) -> None:
        super().__init__()
        self.threshold, self.temperature = (constant(torch.tensor(self.calibration[name])) for name in CALIBRATION)
        self.register_load_state_dict_pre_hook(_calibrate_files_without)

    @classmethod
    def builtin_weights(cls) -> Path:
        """Path of the weights that come with the package; the file need not exist."""
        return _WEIGHTS / f'{cls.__name__}.pth'

    def take(self, weights: str | Path | None) -> None:
        """Load a state dict.

        Args:
            weights: a file, or ``builtin``; None loads nothing.

        Raises:
            WeightsError: as :func:`rsr_basicsr.weights.load_state`, or the file is for another classifier.
        """
        if weights is None:
            return
        path = self.builtin_weights() if weights == BUILTIN else Path(weights)
        if weights == BUILTIN and not path.is_file():
            raise WeightsError(f'no weights of {type(self).__name__} come with the package; name a file')
        try:
            self.load_state_dict(load_state(path))
        except RuntimeError as error:
            raise WeightsError(
                f'{path} holds weights of another classifier than {type(self).__name__}: {in_one_line(error)}'
            ) from error

    def train(self, mode: bool = True) -> Self:
        """As in torch, but a frozen classifier stays in evaluation mode, without dropout."""
        return super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))

    def seen(self, x: torch.Tensor, seed: int | None = None) -> torch.Tensor:
        """The part of each image that the classifier looks at, (B, 3, h, w): all of it, unless it takes random crops.

        Args:
            x: images, (B, 3, H, W).
            seed: makes the crop depend on this number and the image size only; None draws a new one at every call.
        """
        return x

    def raw_logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images before the temperature, (B, 2); called outside of autocast."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Calibrated logits of images, (B, 2)."""
        with without_autocast(x.device), _without_tf32(x.device):
            kind = torch.float64 if x.dtype == torch.float64 else torch.float32
            return self.raw_logits(x.to(kind)).to(kind) / self.temperature.to(kind)

    def clean_probability(self, x: torch.Tensor) -> torch.Tensor:
        """P(clean) per image, (B,)."""
        return self(x).softmax(dim=1)[:, CLEAN]


@contextlib.contextmanager
def _without_tf32(device: torch.device) -> Iterator[None]:
    """Within the block products on a GPU keep 23 bits, not 10: TF32 moves the log odds by up to 0.3."""
    if device.type != 'cuda' or torch.compiler.is_compiling():
        yield
        return
    products: list[Any] = [torch.backends.cudnn, torch.backends.cuda.matmul]
    before = [place.allow_tf32 for place in products]
    try:
        for place in products:
            place.allow_tf32 = False
        yield
    finally:
        for place, allowed in zip(products, before):
            place.allow_tf32 = allowed


def constant(value: torch.Tensor) -> nn.Parameter:
    """A tensor that is stored with the weights, but not trained.

    Not a buffer: BasicSR's moving average does not copy buffers, and DistributedDataParallel broadcasts them in every
    step.
    """
    return nn.Parameter(value, requires_grad=False)


def log_odds(logits: torch.Tensor) -> torch.Tensor:
    """Log odds of attacked against clean, (B,), from logits (B, 2)."""
    return logits[:, 1 - CLEAN] - logits[:, CLEAN]


def mirrored(x: torch.Tensor, smallest: int) -> torch.Tensor:
    """Images, extended by mirroring where a side has fewer pixels than ``smallest``."""
    for dim in (-2, -1):
        size = x.shape[dim]
        if size < smallest:
            index = torch.arange(smallest, device=x.device) % (2 * size)
            x = x.index_select(dim, torch.where(index < size, index, 2 * size - 1 - index))
    return x


def row_bands(x: torch.Tensor, rows: int, pixels: int, multiple: int) -> Iterator[tuple[int, int]]:
    """Divide rows into bands, given as (first row, last row + 1); a single band if a gradient is required.

    Args:
        x: (B, C, H, W).
        rows: number of rows to divide.
        pixels: approximate size of a band, which has at least 64 rows.
        multiple: bands begin at multiples of this number of rows.
    """
    if any_size():
        return iter([(0, rows)])
    each = rows if x.requires_grad else max(64, pixels // x.shape[-1] // multiple * multiple)
    return ((top, min(top + each, rows)) for top in range(0, rows, each))


def rows_between(x: torch.Tensor, top: int, bottom: int) -> torch.Tensor:
    """The rows of a band."""
    return _first(x, -2, bottom) if any_size() else x[..., top:bottom, :]  # any_size: one band, from row 0


def upper_left(x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The upper left part of ``x``, which has at least as many rows and columns."""
    return _first(_first(x, -2, rows), -1, columns) if any_size() else x[..., :rows, :columns]


def _first(x: torch.Tensor, dim: int, size: int) -> torch.Tensor:
    # Not a slice: exporters would have to prove that it lies within an image of any size.
    return x.index_select(dim, torch.arange(size, device=x.device))


def _calibrate_files_without(
    net: SampleClassifier, state_dict: dict[str, torch.Tensor], prefix: str, *args: Any
) -> None:
    for name, value in net.calibration.items():
        state_dict.setdefault(f'{prefix}{name}', torch.full_like(getattr(net, name), value))
