"""Pictures in, larger pictures and verdicts out: one decision a picture, tiles, every kind of picture file."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

import cv2
import torch
from torch import nn
from torch.nn import functional as F

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.archs.defense import Decision, Defense
from rsr_basicsr.data.adversarial_pictures import find_photos
from rsr_basicsr.errors import OptionsError, PictureError, in_one_line
from rsr_basicsr.files import write_whole
from rsr_basicsr.inference import upscale, windows_of
from rsr_basicsr.pictures import Picture, read_picture, write_picture

PRECISIONS = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}
TILE, OVERLAP = 512, 64
_LUMA = 0.299, 0.587, 0.114  # of ITU-R BT.601, as OpenCV makes grey of RGB


class Verdict(NamedTuple):
    """What was decided on a picture.

    Args:
        clean_probability: P(clean).
        attacked: it is below the threshold.
        masked: how much the picture was masked, 0 to 1.
    """

    clean_probability: float
    attacked: bool
    masked: float


class Upscaler:
    """A network at work on whole pictures.

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW). Of one that is not defended the built-in detector gives a verdict,
            and the picture is upscaled as it is.
        outscale: final size of the output, in multiples of the input; None for the network's own.
        tile: size of the tiles in pixels of the input, without the overlap; 0 takes whole pictures.
        overlap: pixels around a tile that the network sees.
        precision: ``fp32``, ``fp16`` or ``bf16``, of the network; masks and classifier stay in fp32. ``auto`` is fp16
            on a GPU, else fp32.
        device: where the network runs, ``auto`` for a GPU where there is one; pictures stay in main memory.
        gate: who decides whether a picture is masked, see :class:`rsr_basicsr.archs.Defense`; None for what the
            network says.
        seed: of the masks, which are the same every time then; None for what the network says.
        alpha_by_network: whether the network upscales alpha channels, too; else they are enlarged by interpolation.

    Raises:
        OptionsError: there is no such device, it has no such precision, the network is not defended but something was
            asked of its defence, or a number makes no sense.
    """

    def __init__(self, net: nn.Module, *, outscale: Optional[float] = None, tile: int = TILE, overlap: int = OVERLAP,
                 precision: str = 'auto', device: str = 'auto', gate: Optional[str] = None,
                 seed: Optional[int] = None, alpha_by_network: bool = True):
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

    def __call__(self, picture: Picture) -> Tuple[Picture, Verdict]:
        """The picture, enlarged, and what was decided on it.

        Raises:
            PictureError: the network does not take it, memory does not suffice, or the output is not a picture.
        """
        with torch.no_grad():
            clean = self.defense.clean_probability(picture.rgb.to(self.device))
            attacked, decision = bool(self.defense.below_threshold(clean)), self.defense.decision_for(clean)
            rgb, notes = self._upscale(picture.rgb, decision)
            if picture.grey:
                rgb = _luma(rgb).expand_as(rgb)
            alpha = picture.alpha
            if alpha is not None:
                by_network = self.alpha_by_network and alpha.min() < alpha.max()
                alpha = (_luma(self._upscale(alpha.expand(-1, 3, -1, -1), decision)[0])
                         if by_network else F.interpolate(alpha, rgb.shape[-2:], mode='bicubic').clamp_(0, 1))
        if self.outscale is not None:
            size = [int(side * self.outscale) for side in picture.rgb.shape[-2:]]
            rgb, alpha = (values if values is None else _resized(values, size) for values in (rgb, alpha))
        enlarged = picture.replaced(rgb=rgb, alpha=alpha, notes=(*picture.notes, *notes))
        return enlarged, Verdict(clean.item(), attacked, float(decision))

    def _upscale(self, lq, decision: Decision):
        """The output, and notes on it."""
        output = self._run(lq, decision, self.precision)
        if output.sum().isfinite():
            return output.clamp_(0, 1), ()
        if self.precision != 'fp32':
            output = self._run(lq, decision, 'fp32').clamp_(0, 1)
        if not output.sum().isfinite():
            raise PictureError('the network makes NaN or infinite values of it; take other weights')
        return output, (f'{self.precision} gave NaN or infinite values; done in fp32',)

    def _run(self, lq, decision, precision):
        height, width = lq.shape[-2:]
        missing = [-side % self.multiple for side in (height, width)]
        # A picture can be too small to be continued by its mirror image.
        mode = 'reflect' if missing[0] < height and missing[1] < width else 'replicate'
        padded = F.pad(lq, (0, missing[1], 0, missing[0]), mode)
        half = contextlib.nullcontext() if precision == 'fp32' else torch.autocast(self.device.type,
                                                                                   PRECISIONS[precision])
        try:
            with self.defense.forced(decision), half:
                output = upscale(self.net, padded, tile=self.tile, overlap=self.overlap).float().cpu()
        except (RuntimeError, ValueError) as error:  # torch's for memory, and whatever a network makes of a size
            if isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error):
                raise PictureError(f'{width}x{height} pixels take more memory than there is; take a smaller tile than '
                                   f'{self.tile or "the whole picture"}') from error
            raise PictureError(f'{type(self.net).__name__} does not take a picture of {width}x{height}: '
                               f'{in_one_line(error)}') from error
        scale = output.shape[-1] // padded.shape[-1]
        return output[..., :height * scale, :width * scale]


@dataclass(frozen=True)
class Naming:
    """Where the results go, as Real-ESRGAN's own script names them.

    Attributes:
        folder: of all results; those of pictures in a subfolder go into one of the same name.
        suffix: behind the name of the picture and ``_``; may be empty.
        extension: ``auto`` for that of the picture, or one of :data:`rsr_basicsr.pictures.FORMATS`. Pictures with an
            alpha channel become PNG files.
        overwrite: whether files that are there may be replaced; the pictures themselves are not, ever.
    """

    folder: Path
    suffix: str = 'out'
    extension: str = 'auto'
    overwrite: bool = False

    def path(self, file: Path, inside: Path, alpha: bool) -> Path:
        """Where the result of a file goes that lay in the subfolder ``inside``."""
        extension = 'png' if alpha else file.suffix[1:] if self.extension == 'auto' else self.extension
        return self.folder / inside / f'{file.stem}{f"_{self.suffix}" if self.suffix else ""}.{extension}'


@dataclass
class Result:
    """What became of one file; ``error`` says why nothing did.

    Attributes:
        skipped: the output was there already.
        width, height, output_width, output_height: in pixels.
        seconds: from reading to writing.
        notes: what its owner may want to know, such as a profile that was dropped.
    """

    file: str
    output: Optional[str] = None
    skipped: bool = False
    width: Optional[int] = None
    height: Optional[int] = None
    output_width: Optional[int] = None
    output_height: Optional[int] = None
    clean_probability: Optional[float] = None
    attacked: Optional[bool] = None
    masked: Optional[float] = None
    seconds: Optional[float] = None
    notes: Tuple[str, ...] = ()
    error: Optional[str] = None


def find_files(paths: Sequence[Union[str, Path]]) -> List[Tuple[Path, Path]]:
    """Each picture with the subfolder that it lay in; pictures by name as they are, those of folders sorted.

    Raises:
        OptionsError: a folder holds no picture, or nothing of all that is there.
    """
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            try:
                files = [Path(file) for file in find_photos([str(path)])]
            except PictureError as error:
                raise OptionsError(str(error)) from None
            found += [(file, file.parent.relative_to(path)) for file in files]
        else:
            found.append((path, Path()))
    if not any(file.exists() for file, _ in found):
        raise OptionsError(f'{", ".join(map(str, paths))}: no such file or folder')
    return found


def upscale_files(files: Sequence[Tuple[Path, Path]], upscaler: Upscaler, naming: Naming) -> Iterator[Result]:
    """Upscale pictures one after the other, so that memory holds one; what cannot be done is a result, too.

    Args:
        files: as :func:`find_files` returns them.
    """
    originals, written = {file.resolve() for file, _ in files}, set()
    for file, inside in files:
        started = time.time()
        try:
            result = _upscale_file(file, inside, upscaler, naming, originals, written)
        except PictureError as error:
            sentence = str(error)
            yield Result(str(file), error=sentence if str(file) in sentence else f'{file}: {sentence}')
        else:
            result.seconds = round(time.time() - started, 3)
            yield result


def _upscale_file(file, inside, upscaler, naming, originals: Set[Path], written: Set[Path]):
    picture = read_picture(file)
    path = naming.path(file, inside, picture.alpha is not None)
    _check_free(path, originals, written)
    if path.exists() and not naming.overwrite:
        written.add(path.resolve())
        return Result(str(file), str(path), skipped=True)
    enlarged, verdict = upscaler(picture)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PictureError(f'{path.parent} cannot be made: {error.strerror}') from None
    enlarged = write_picture(path, enlarged)
    written.add(path.resolve())
    return Result(str(file), str(path), False, *_size(picture), *_size(enlarged), notes=enlarged.notes,
                  **verdict._asdict())


def _check_free(path, originals, written):
    if path.resolve() in originals:
        raise PictureError(f'its result would replace the picture {path}; give a suffix or another folder')
    if path.resolve() in written:
        raise PictureError(f'its result would replace that of another picture, {path}; give folders of their own')


def write_report(path: Path, network: str, upscaler: Upscaler, results: Sequence[Result]) -> None:
    """Write all verdicts, and what they were made with, into a JSON file.

    Raises:
        PictureError: it cannot be written.
    """
    defense = upscaler.defense
    report = {'network': network, 'defended': upscaler.defended, 'gate': defense.gate,
              'threshold': defense.threshold_in_effect.item(), 'seed': defense.seed, 'precision': upscaler.precision,
              'tile': upscaler.tile, 'overlap': upscaler.overlap,
              'pictures': [dataclasses.asdict(result) for result in results]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(report, indent=2).encode())
    except OSError as error:
        raise PictureError(f'the report {path} cannot be written: {error.strerror}') from None


def _size(picture):
    return picture.rgb.shape[-1], picture.rgb.shape[-2]


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
