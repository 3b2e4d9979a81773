"""Upscale whole images with one gate decision per image, in tiles where they are large."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import torch
from torch import nn
from torch.nn import functional as F

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.archs.defense import Decision, Defense
from rsr_basicsr.catalog.choices import PRECISIONS, TILE, TILE_PAD
from rsr_basicsr.inference.image_io import LoadedImage
from rsr_basicsr.ops.precision import emulates_bf16
from rsr_basicsr.ops.tiled import upscale, windows_of
from rsr_basicsr.utils.device_errors import device_lost, out_of_memory, within_memory
from rsr_basicsr.utils.errors import ImageError, OptionsError, in_one_line
from rsr_basicsr.weights.spandrel_network import architecture_of

_DTYPES = dict(zip(PRECISIONS, (torch.float32, torch.float16, torch.bfloat16), strict=True))
_LARGEST_OUTSCALE = 64
_PROBE = 32  # pixels per side of the image that tells the scale of a network
_LUMA = 0.299, 0.587, 0.114  # ITU-R BT.601, as OpenCV converts RGB to grey


class GateVerdict(NamedTuple):
    """The classifier's verdict on an image, and the masking that followed from it.

    Args:
        clean_probability: P(clean).
        attacked: whether P(clean) is below the threshold.
        masked: how much the image was masked, from 0 to 1.
    """

    clean_probability: float
    attacked: bool
    masked: float


class Upscaler:
    """Upscales whole images with a network.

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW). If it is not defended, the built-in detector still gives a verdict,
            but no image is masked.
        outscale: output size as a multiple of the input size; None for the network's scale.
        tile: tile size in pixels of the input, without the overlap; 0 for no tiles.
        overlap: pixels around a tile that the network sees.
        precision: of the network, ``fp32``, ``fp16`` or ``bf16``; masks and classifier stay in fp32. ``auto`` is
            fp16 on a GPU if the network takes it, else fp32.
        device: where the network runs; ``auto`` is a GPU if there is one. Images stay in main memory.
        gate: overrides the network's gate, see :class:`rsr_basicsr.archs.Defense`.
        seed: overrides the network's seed; with a seed, masks are the same every time.
        alpha_by_network: upscale alpha channels with the network; else by bicubic interpolation.

    Raises:
        OptionsError: the device is missing or lacks the precision, a number is out of range, or ``gate`` or ``seed``
            is given for a network that is not defended.

    Examples:
        >>> from rsr_basicsr.archs import Interpolation
        >>> upscaler = Upscaler(Interpolation(scale=4), device='cpu')
        >>> image, verdict = upscaler(LoadedImage(rgb=torch.full((1, 3, 32, 48), 0.5)))
        >>> image.rgb.shape
        torch.Size([1, 3, 128, 192])
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        outscale: float | None = None,
        tile: int = TILE,
        overlap: int = TILE_PAD,
        precision: str = 'auto',
        device: str = 'auto',
        gate: str | None = None,
        seed: int | None = None,
        alpha_by_network: bool = True,
    ) -> None:
        if outscale is not None and not 0 < outscale <= _LARGEST_OUTSCALE:
            raise OptionsError(f'outscale {outscale}: expected a number above 0, at most {_LARGEST_OUTSCALE}')
        if tile < 0 or overlap < 0:
            raise OptionsError(f'tile {tile} with an overlap of {overlap}: expected pixels, 0 or more')
        self.device, self.precision = device_of(device), precision
        if precision == 'auto':
            takes_half = getattr(net, 'supports_half', True)  # spandrel knows networks that do not
            self.precision = 'fp16' if self.device.type == 'cuda' and takes_half else 'fp32'
        _check_precision(self.precision, self.device)
        self.net = net.eval().requires_grad_(False).to(self.device)
        self.defended = isinstance(net, DefenseMixin)
        if not self.defended and (gate, seed) != (None, None):
            raise OptionsError(f'gate and seed need a defended network; {architecture_of(net)} is not defended')
        # Without a defence in the network, only the verdict is used.
        self.defense: Defense = (
            net.defense if isinstance(net, DefenseMixin) else Defense(gate='never').eval().to(self.device)
        )
        self.defense.gate = gate or self.defense.gate
        self.defense.seed = self.defense.seed if seed is None else seed
        self.outscale, self.tile, self.overlap = outscale, tile or None, overlap
        self.alpha_by_network = alpha_by_network
        self.multiple = windows_of(net)

    def __call__(self, image: LoadedImage) -> tuple[LoadedImage, GateVerdict]:
        """Upscale an image; returns it with the verdict on the input.

        Raises:
            ImageError: the network rejects the size, memory runs out, or the output has NaN or infinite values.
            DeviceError: the GPU has failed.
        """
        size = f'{image.rgb.shape[-1]}x{image.rgb.shape[-2]} pixels'
        with torch.no_grad(), within_memory(f'{size} in the detector, which sees the whole image', 'cut it into parts'):
            clean = self.defense.clean_probability(image.rgb.to(self.device))
            attacked, decision = bool(self.defense.below_threshold(clean)), self.defense.decision_for(clean)
        with within_memory(size, f'take a smaller tile than {self.tile or "the whole image"}'):
            return self._upscaled(image, decision), GateVerdict(clean.item(), attacked, float(decision))

    def _upscaled(self, image: LoadedImage, decision: Decision) -> LoadedImage:
        with torch.no_grad():
            rgb, notes = self._upscale(image.rgb, decision)
            if image.grey:
                rgb = _luma(rgb).expand_as(rgb)
            alpha = image.alpha
            if alpha is not None:
                by_network = self.alpha_by_network and alpha.min() < alpha.max()
                alpha = (
                    _luma(self._upscale(alpha.expand(-1, 3, -1, -1), decision)[0])
                    if by_network
                    else F.interpolate(alpha, rgb.shape[-2:], mode='bicubic').clamp_(0, 1)
                )
        if self.outscale is not None:
            size = [int(side * self.outscale) for side in image.rgb.shape[-2:]]
            rgb, alpha = _resized(rgb, size), None if alpha is None else _resized(alpha, size)
        return image.replaced(rgb=rgb, alpha=alpha, notes=(*image.notes, *notes))

    def output_size(self, image: LoadedImage) -> tuple[int, int]:
        """(H, W) of the output for an image, without computing it."""
        height, width = image.rgb.shape[-2:]
        factor = self._scale if self.outscale is None else self.outscale
        return int(height * factor), int(width * factor)

    @functools.cached_property
    def _scale(self) -> int:
        """What the network upscales by: found out on a small image, since not every network says so."""
        with torch.no_grad(), within_memory(f'{_PROBE}x{_PROBE} pixels', 'take a smaller network'):
            return self._run(torch.zeros(1, 3, _PROBE, _PROBE), False, 'fp32').shape[-1] // _PROBE

    def _upscale(self, lq: torch.Tensor, decision: Decision) -> tuple[torch.Tensor, tuple[str, ...]]:
        """The output in [0, 1] and notes on it; repeats in fp32 where half precision overflows."""
        output = self._run(lq, decision, self.precision)
        if output.sum().isfinite():
            return output.clamp_(0, 1), ()
        if self.precision != 'fp32':
            output = self._run(lq, decision, 'fp32').clamp_(0, 1)
        if not output.sum().isfinite():
            raise ImageError('the network gives NaN or infinite values; use other weights')
        return output, (f'{self.precision} gave NaN or infinite values; repeated in fp32',)

    def _run(self, lq: torch.Tensor, decision: Decision, precision: str) -> torch.Tensor:
        height, width = lq.shape[-2:]
        missing = [-side % self.multiple for side in (height, width)]
        # Reflection needs an image larger than the padding.
        mode = 'reflect' if missing[0] < height and missing[1] < width else 'replicate'
        padded = F.pad(lq, (0, missing[1], 0, missing[0]), mode)
        half = contextlib.nullcontext() if precision == 'fp32' else torch.autocast(self.device.type, _DTYPES[precision])
        try:
            with self.defense.forced(decision), half:
                output = upscale(self.net, padded, tile=self.tile, overlap=self.overlap).float().cpu()
        except (RuntimeError, ValueError) as error:  # out of memory, or a size that the network rejects
            if out_of_memory(error) or device_lost(error):
                raise
            raise ImageError(
                f'{architecture_of(self.net)} does not take an image of {width}x{height}: {in_one_line(error)}'
            ) from error
        scale = output.shape[-1] // padded.shape[-1]
        return output[..., : height * scale, : width * scale]


def _luma(rgb: torch.Tensor) -> torch.Tensor:
    return (rgb * rgb.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def _resized(values: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    array = values[0].permute(1, 2, 0).numpy()
    resized = cv2.resize(array, (max(size[1], 1), max(size[0], 1)), interpolation=cv2.INTER_LANCZOS4)
    return torch.from_numpy(resized.reshape(*resized.shape[:2], -1)).permute(2, 0, 1)[None].clamp_(0, 1)


def device_of(name: str) -> torch.device:
    """The device of that name; ``auto`` is a GPU if there is one, else the CPU.

    Raises:
        OptionsError: there is no such device.
    """
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # unknown name, no driver, no such index
        raise OptionsError(f'device {name}: {in_one_line(error)}; use cpu, or leave it out') from None
    return device


def _check_precision(precision: str, device: torch.device) -> None:
    if precision not in PRECISIONS:
        raise OptionsError(f'precision {precision}: expected one of {", ".join(PRECISIONS)}')
    if precision == 'fp16' and device.type == 'cpu':
        raise OptionsError('precision fp16 needs a GPU; on a CPU use bf16 or fp32')
    if precision == 'bf16' and emulates_bf16(device):
        raise OptionsError('precision bf16: this GPU only emulates it; use fp16 or fp32')
