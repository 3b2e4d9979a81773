"""Whether picture files were attacked: files in, verdicts out."""

from __future__ import annotations

import os.path as osp
from pathlib import Path
from typing import Iterator, NamedTuple, Optional, Sequence, Union

import torch

from rsr_basicsr.archs.classifier import SampleClassifier
from rsr_basicsr.inference.image_io import read_picture
from rsr_basicsr.inference.listing import find_photos
from rsr_basicsr.utils.errors import PictureError


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


def detect(paths: Sequence[Union[str, Path]], classifier: SampleClassifier,
           threshold: Optional[float] = None) -> Iterator[Union[Detection, PictureError]]:
    """The verdict on each file, or why there is none; one after the other, so that memory holds one picture.

    Args:
        paths: pictures, and folders of pictures.
        classifier: in evaluation mode.
        threshold: a picture counts as attacked when P(clean) is below it; None for the classifier's own.
    """
    limit = float(classifier.threshold) if threshold is None else threshold
    for file in _files(paths):
        try:
            picture = file if isinstance(file, PictureError) else read_picture(file).rgb
        except PictureError as error:
            picture = error
        if isinstance(picture, PictureError):
            yield picture
            continue
        with torch.no_grad():
            clean = classifier.clean_probability(picture).item()
        # Not "below": what is not a number must not pass for clean.
        yield Detection(str(file), picture.shape[3], picture.shape[2], clean, not clean >= limit)


def _files(paths):
    """Files as they are, the pictures in folders, and an error in the place of a folder that has none."""
    for path in paths:
        if not osp.isdir(path):
            yield path
            continue
        try:
            yield from find_photos([str(path)])
        except PictureError as error:
            yield error
