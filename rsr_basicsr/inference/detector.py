"""Image files in, a detector's verdict on each out."""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from rsr_basicsr.archs.classifier import SampleClassifier
from rsr_basicsr.archs.defense import build_classifier
from rsr_basicsr.catalog.choices import BUILTIN
from rsr_basicsr.inference.image_io import read_image
from rsr_basicsr.inference.listing import find_images
from rsr_basicsr.inference.upscaler import device_of
from rsr_basicsr.utils.device_errors import within_memory
from rsr_basicsr.utils.errors import ImageError


class Detection(NamedTuple):
    """Verdict of a detector on one file.

    Args:
        file: path.
        width, height: in pixels.
        clean_probability: P(clean).
        attacked: whether P(clean) is below the threshold.
    """

    file: str
    width: int
    height: int
    clean_probability: float
    attacked: bool


def detect(
    paths: Sequence[str | Path],
    classifier: SampleClassifier | None = None,
    threshold: float | None = None,
    device: str = 'auto',
) -> Iterator[Detection | ImageError]:
    """Yield the verdict on each file, or the error that prevents one. Memory holds one image at a time.

    Args:
        paths: images and folders of images.
        classifier: in evaluation mode; None takes the built-in one.
        threshold: an image counts as attacked when P(clean) is below it; None for the classifier's own.
        device: where the classifier runs; ``auto`` is a GPU if there is one.

    Raises:
        OptionsError: there is no such device; when the first verdict is asked for.
        DeviceError: the GPU has failed.

    Examples:
        >>> import cv2
        >>> from skimage import data
        >>> _ = cv2.imwrite('astronaut.png', data.astronaut()[:256, 100:356, ::-1])
        >>> [(found.file, found.attacked) for found in detect(['astronaut.png'])]
        [('astronaut.png', False)]
    """
    if classifier is None:
        classifier = build_classifier({'weights': BUILTIN}).eval()
    place = device_of(device)
    classifier = classifier.to(place)
    limit = float(classifier.threshold) if threshold is None else threshold
    for file in _files(paths):
        if isinstance(file, ImageError):
            yield file
            continue
        try:
            image = read_image(file).rgb
            size = f'{image.shape[3]}x{image.shape[2]}'
            with torch.no_grad(), within_memory(f'{file}, {size} pixels', 'cut it into parts'):
                clean = classifier.clean_probability(image.to(place)).item()
        except ImageError as error:
            yield ImageError(str(error))  # without the traceback, which holds the image
            continue
        # Not "clean < limit": NaN must not pass as clean.
        yield Detection(str(file), image.shape[3], image.shape[2], clean, not clean >= limit)


def _files(paths: Sequence[str | Path]) -> Iterator[str | Path | ImageError]:
    """Files as given, the images of folders, and an error for a folder without images."""
    for path in paths:
        if not osp.isdir(path):
            yield path
            continue
        try:
            yield from find_images([str(path)])
        except ImageError as error:
            yield error
