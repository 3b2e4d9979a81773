"""Whether picture files were attacked: files in, verdicts out."""

from __future__ import annotations

import os.path as osp
from pathlib import Path
from typing import Iterator, NamedTuple, Optional, Sequence, Union

import cv2
import numpy as np
import torch

from rsr_basicsr.archs.classifier import SampleClassifier
from rsr_basicsr.data.adversarial_pictures import find_photos
from rsr_basicsr.errors import PictureError


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


def read_picture(path: Union[str, Path]) -> torch.Tensor:
    """A picture file as RGB, (1, 3, H, W) in [0, 1], at its own bit depth.

    Grey pictures get three equal channels, an alpha channel is left out.

    Raises:
        PictureError: no such file, not a picture, or one of floating-point numbers beyond [0, 1].
    """
    if not osp.isfile(path):
        raise PictureError(f'{path}: no such file')
    try:
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:  # such as one of more pixels than OpenCV opens
        raise PictureError(f'{path} cannot be read: {error.err}') from None
    if picture is None:
        raise PictureError(f'{path} is not a picture that can be read; give a PNG, JPEG, WebP, BMP or TIFF file')
    if np.issubdtype(picture.dtype, np.integer):
        picture = picture.astype(np.float32) / np.iinfo(picture.dtype).max
    if not (np.isfinite(picture).all() and 0 <= picture.min() and picture.max() <= 1):
        raise PictureError(f'{path} has values that are not numbers in [0, 1]; save it with 8 or 16 bits a channel')
    picture = picture.reshape(*picture.shape[:2], -1)
    channels = picture.shape[2]
    # OpenCV's order; one or two channels are grey, with alpha as the second.
    rgb = picture[..., [0, 0, 0]] if channels < 3 else picture[..., 2::-1]
    return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1), dtype=np.float32))[None]


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
            picture = file if isinstance(file, PictureError) else read_picture(file)
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
