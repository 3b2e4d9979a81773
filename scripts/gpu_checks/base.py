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


def small_training(num_gpu: int, attack: dict[str, Any], gan: bool = False) -> dict[str, Any]:
    """Options of the smallest defended model, as a model class takes them; with a discriminator if it is a GAN."""
    opt: dict[str, Any] = {
        'name': 'check',
        'is_train': True,
        'dist': False,
        'rank': 0,
        'world_size': 1,
        'scale': 4,
        'path': {},
        'num_gpu': num_gpu,
        'logger': {'print_freq': 10},
        'network_g': {'type': 'DefendedSRVGGNetCompact', **SMALL},
        'attack': {'type': 'PGD', 'eps': [1, 8], **attack},
        'train': {
            'ema_decay': 0.999,
            'optim_g': {'type': 'Adam', 'lr': 1e-4},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [100]},
            'pixel_opt': {'type': 'L1Loss'},
        },
    }
    if gan:
        add_discriminator(opt, SMALL['num_feat'])
    return opt


def add_discriminator(opt: dict[str, Any], width: int) -> None:
    """Make a training that of a GAN."""
    opt['network_d'] = {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': width}
    opt['train'] |= {
        'optim_d': {'type': 'Adam', 'lr': 1e-4},
        'gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.1},
    }
