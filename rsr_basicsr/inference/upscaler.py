"""Images in, larger images and verdicts out: one decision an image, tiles, every kind of image file."""

from __future__ import annotations

import contextlib
import math
from typing import NamedTuple

import cv2
import torch
from torch import nn
from torch.nn import functional as F

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.archs.defense import Decision, Defense
from rsr_basicsr.inference.image_io import LoadedImage
from rsr_basicsr.ops.tiled import upscale, windows_of
from rsr_basicsr.utils.errors import ImageError, OptionsError, in_one_line

PRECISIONS = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}
TILE, OVERLAP = 512, 64
_LUMA = 0.299, 0.587, 0.114  # of ITU-R BT.601, as OpenCV makes grey of RGB


class Verdict(NamedTuple):
    """What was decided on an image.

    Args:
        clean_probability: P(clean).
        attacked: it is below the threshold.
        masked: how much the image was masked, 0 to 1.
    """

    clean_probability: float
    attacked: bool
    masked: float


class Upscaler:
    """A network at work on whole images.

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW). Of one that is not defended the built-in detector gives a verdict,
            and the image is upscaled as it is.
        outscale: final size of the output, in multiples of the input; None for the network's own.
        tile: size of the tiles in pixels of the input, without the overlap; 0 takes whole images.
        overlap: pixels around a tile that the network sees.
        precision: ``fp32``, ``fp16`` or ``bf16``, of the network; masks and classifier stay in fp32. ``auto`` is fp16
            on a GPU, else fp32.
        device: where the network runs, ``auto`` for a GPU where there is one; images stay in main memory.
        gate: who decides whether an image is masked, see :class:`rsr_basicsr.archs.Defense`; None for what the
            network says.
        seed: of the masks, which are the same every time then; None for what the network says.
        alpha_by_network: whether the network upscales alpha channels, too; else they are upscaled by interpolation.

    Raises:
        OptionsError: there is no such device, it has no such precision, the network is not defended but something was
            asked of its defence, or a number makes no sense.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        outscale: float | None = None,
        tile: int = TILE,
        overlap: int = OVERLAP,
        precision: str = 'auto',
        device: str = 'auto',
        gate: str | None = None,
        seed: int | None = None,
        alpha_by_network: bool = True,
    ):
        if outscale is not None and not (math.isfinite(outscale) and outscale > 0):
            raise OptionsError(f'outscale {outscale}: expected a number above 0')
        if tile < 0 or overlap < 0:
            raise OptionsError(f'tile {tile} with an overlap of {overlap}: expected pixels, 0 or more')
        self.device, self.precision = _device(device), precision
        if precision == 'auto':
            self.precision = 'fp16' if self.device.type == 'cuda' else 'fp32'
        _check_precision(self.precision, self.device)
        self.net = net.eval().requires_grad_(False).to(self.device)
        self.defended = isinstance(net, DefenseMixin)
        if not self.defended and (gate, seed) != (None, None):
            raise OptionsError(f'gate and seed are for defended networks; this {type(net).__name__} is none')
        # Of a network without a defence, the verdict alone is used.
        self.defense: Defense = net.defense if self.defended else Defense(gate='never').eval().to(self.device)
        self.defense.gate = gate or self.defense.gate
        self.defense.seed = self.defense.seed if seed is None else seed
        self.outscale, self.tile, self.overlap = outscale, tile or None, overlap
        self.alpha_by_network = alpha_by_network
        self.multiple = windows_of(net)

    def __call__(self, image: LoadedImage) -> tuple[LoadedImage, Verdict]:
        """The image, upscaled, and what was decided on it.

        Raises:
            ImageError: the network does not take it, memory does not suffice, or the output is not an image.
        """
        with torch.no_grad():
            clean = self.defense.clean_probability(image.rgb.to(self.device))
            attacked, decision = bool(self.defense.below_threshold(clean)), self.defense.decision_for(clean)
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
            rgb, alpha = (values if values is None else _resized(values, size) for values in (rgb, alpha))
        upscaled = image.replaced(rgb=rgb, alpha=alpha, notes=(*image.notes, *notes))
        return upscaled, Verdict(clean.item(), attacked, float(decision))

    def _upscale(self, lq, decision: Decision):
        """The output, and notes on it."""
        output = self._run(lq, decision, self.precision)
        if output.sum().isfinite():
            return output.clamp_(0, 1), ()
        if self.precision != 'fp32':
            output = self._run(lq, decision, 'fp32').clamp_(0, 1)
        if not output.sum().isfinite():
            raise ImageError('the network makes NaN or infinite values of it; take other weights')
        return output, (f'{self.precision} gave NaN or infinite values; done in fp32',)

    def _run(self, lq, decision, precision):
        height, width = lq.shape[-2:]
        missing = [-side % self.multiple for side in (height, width)]
        # An image can be too small to be continued by its mirror image.
        mode = 'reflect' if missing[0] < height and missing[1] < width else 'replicate'
        padded = F.pad(lq, (0, missing[1], 0, missing[0]), mode)
        half = (
            contextlib.nullcontext() if precision == 'fp32' else torch.autocast(self.device.type, PRECISIONS[precision])
        )
        try:
            with self.defense.forced(decision), half:
                output = upscale(self.net, padded, tile=self.tile, overlap=self.overlap).float().cpu()
        except (RuntimeError, ValueError) as error:  # torch's for memory, and whatever a network makes of a size
            if isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error):
                raise ImageError(
                    f'{width}x{height} pixels take more memory than there is; take a smaller tile than '
                    f'{self.tile or "the whole image"}'
                ) from error
            raise ImageError(
                f'{type(self.net).__name__} does not take an image of {width}x{height}: {in_one_line(error)}'
            ) from error
        scale = output.shape[-1] // padded.shape[-1]
        return output[..., : height * scale, : width * scale]


def _luma(rgb):
    return (rgb * rgb.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def _resized(values, size):
    array = values[0].permute(1, 2, 0).numpy()
    resized = cv2.resize(array, (max(size[1], 1), max(size[0], 1)), interpolation=cv2.INTER_LANCZOS4)
    return torch.from_numpy(resized.reshape(*resized.shape[:2], -1)).permute(2, 0, 1)[None].clamp_(0, 1)


def _device(name):
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # no such word, no such driver, no such number
        raise OptionsError(f'device {name}: {in_one_line(error)}; take cpu, or leave it out') from None
    return device


def _check_precision(precision, device):
    if precision not in PRECISIONS:
        raise OptionsError(f'precision {precision}: expected one of {", ".join(PRECISIONS)}')
    if precision == 'fp16' and device.type == 'cpu':
        raise OptionsError('precision fp16 is for GPUs; on a CPU take bf16 or fp32')
    if precision == 'bf16' and device.type == 'cuda' and not torch.cuda.is_bf16_supported():
        raise OptionsError('precision bf16: this GPU does not have it; take fp16 or fp32')
