"""Whether image files were attacked: files in, verdicts out."""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from rsr_basicsr.archs.classifier import SampleClassifier
from rsr_basicsr.inference.image_io import read_image
from rsr_basicsr.inference.listing import find_images
from rsr_basicsr.utils.errors import ImageError


class Detection(NamedTuple):
    """What a detector says of one file.

    Args:
        file: its path.
        width, height: in pixels.
        clean_probability: P(clean).
        attacked: the decision.
    """

    file: str
    width: int
    height: int
    clean_probability: float
    attacked: bool


def detect(
    paths: Sequence[str | Path], classifier: SampleClassifier, threshold: float | None = None
) -> Iterator[Detection | ImageError]:
    """The verdict on each file, or why there is none; one after the other, so that memory holds one image.

    Args:
        paths: images, and folders of images.
        classifier: in evaluation mode.
        threshold: an image counts as attacked when P(clean) is below it; None for the classifier's own.
    """
    limit = float(classifier.threshold) if threshold is None else threshold
    for file in _files(paths):
        try:
            image = file if isinstance(file, ImageError) else read_image(file).rgb
        except ImageError as error:
            image = error
        if isinstance(image, ImageError):
            yield image
            continue
        with torch.no_grad():
            clean = classifier.clean_probability(image).item()
        # Not "below": what is not a number must not pass for clean.
        yield Detection(str(file), image.shape[3], image.shape[2], clean, not clean >= limit)


def _files(paths):
    """Files as they are, the images in folders, and an error in the place of a folder that has none."""
    for path in paths:
        if not osp.isdir(path):
            yield path
            continue
        try:
            yield from find_images([str(path)])
        except ImageError as error:
            yield error
