"""What the checks of :mod:`gpu_check` share: where they run, commands, and inputs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from PIL import Image

DEFENDED = 'defended-general-x4v3'
#: The smallest network, where a CPU runs the checks
SMALL = {'num_feat': 8, 'num_conv': 2}


class Failed(Exception):
    """A check has found something else than it expected; the message says what."""


class Here(NamedTuple):
    """Where the checks run, and what they train with.

    Args:
        device: a GPU or the CPU.
        work: the working directory.
        until: when they must have ended, as of ``time.monotonic``.
        photos: folder of photos to train on; None takes the sample photos.
        weights: of RealESRGAN_x4plus, to begin with; None begins at random.
    """

    device: torch.device
    work: Path
    until: float
    photos: Path | None = None
    weights: Path | None = None

    @property
    def on_gpu(self) -> bool:
        return self.device.type == 'cuda'

    def left(self) -> float:
        """Seconds left."""
        return self.until - time.monotonic()

    def path_of_weights(self) -> dict[str, str]:
        """The block ``path`` of options that begin with the weights."""
        if self.weights is None:
            return {}
        return {'pretrain_network_g': str(self.weights), 'param_key_g': 'params_ema'}

    def written(self, name: str, options: dict[str, Any]) -> Path:
        """An options file of that name in the working directory."""
        path = self.work / name
        path.write_text(yaml.safe_dump(options), encoding='utf-8')
        return path

    def rsr(self, *words: str) -> str:
        """The output of a command of the package, which must end well."""
        return self.run([sys.executable, '-m', 'rsr_basicsr.cli', *words])

    def run(self, command: list[str]) -> str:
        """The output of a command that must end well, in the time that is left."""
        name = ' '.join(command[1:5])
        try:
            run = subprocess.run(command, cwd=self.work, capture_output=True, text=True, timeout=max(self.left(), 1))
        except subprocess.TimeoutExpired:
            raise Failed(f'{name} did not end in the time that was left') from None
        if run.returncode:
            raise Failed(f'{name} ended with {run.returncode}: {(run.stdout + run.stderr)[-600:]}')
        return run.stdout + run.stderr


def pixels(width: int, height: int | None = None) -> np.ndarray:
    """A photo of that size, (height, width, 3), uint8; square without a height."""
    from skimage import data

    size = width, width if height is None else height
    return np.asarray(Image.fromarray(data.astronaut()).resize(size, Image.Resampling.BICUBIC))


def photo(width: int, height: int | None = None) -> torch.Tensor:
    """The same as a tensor, (1, 3, height, width) in [0, 1]."""
    return torch.from_numpy(pixels(width, height).copy()).permute(2, 0, 1)[None].float() / 255


def start_counting(here: Here) -> None:
    """Begin to measure the peak of the GPU's memory."""
    if here.on_gpu:
        torch.cuda.reset_peak_memory_stats(here.device)


def peak(here: Here) -> str:
    """The peak since then, for a sentence."""
    return f', peak {torch.cuda.max_memory_allocated(here.device) / 2**30:.1f} GiB' if here.on_gpu else ''
