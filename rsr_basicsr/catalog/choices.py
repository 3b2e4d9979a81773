"""Names and defaults that the options files, the functions and the command line share."""

from __future__ import annotations

from typing import Any

#: ``gate``: how a defended network decides on masking
GATES = ('classifier', 'soft', 'always', 'never')

#: ``defense: classifier: type``
CLASSIFIER_TYPES = ('ensemble', 'statistics', 'residual', 'paper', 'paper_rrdb')
DEFAULT_CLASSIFIER = 'ensemble'
#: ``defense: classifier: weights``, where it is no file
BUILTIN, UNTRAINED = 'builtin', 'untrained'

#: ``rsr defend --preset``
PRESET_NAMES = ('light', 'strong', 'consistency', 'masks', 'paper')
#: The best one of docs/benchmark.md for trainers with pixel losses, and for those with a discriminator
DEFAULT_PRESET, DEFAULT_PRESET_GAN = 'consistency', 'light'

PRECISIONS = ('fp32', 'fp16', 'bf16')
TILE, TILE_PAD = 512, 64  # defaults, in pixels of the input

#: File ending -> Pillow's name of the format and its settings for writing
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    'png': ('PNG', {}),
    'jpg': ('JPEG', {'quality': 95}),
    'jpeg': ('JPEG', {'quality': 95}),
    'jfif': ('JPEG', {'quality': 95}),
    'jpe': ('JPEG', {'quality': 95}),
    'webp': ('WEBP', {'quality': 95}),
    'bmp': ('BMP', {}),
    'tif': ('TIFF', {}),
    'tiff': ('TIFF', {}),
}

#: Defaults of ``rsr stability``: eps in 1/255, the side of a crop in pixels
DEFAULT_EPS, DEFAULT_STEPS, DEFAULT_CROP, DEFAULT_IMAGES = (2, 8), 20, 64, 8
