"""Sample photos of scikit-image, written as folders that BasicSR's data sets read.

scikit-image is a requirement of BasicSR, so no download is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from skimage import data

TRAINING: dict[str, Callable[[], np.ndarray]] = {
    'brick': data.brick,
    'camera': data.camera,
    'coins': data.coins,
    'grass': data.grass,
    'gravel': data.gravel,
    'hubble_deep_field': data.hubble_deep_field,
    'immunohistochemistry': data.immunohistochemistry,
    'motorcycle_left': lambda: data.stereo_motorcycle()[0],
    'motorcycle_right': lambda: data.stereo_motorcycle()[1],
    'retina': data.retina,
    'rocket': data.rocket,
}

#: Held-out crops: name -> photo, and the top left corner of the crop in pixels
EVALUATION: dict[str, tuple[Callable[[], np.ndarray], tuple[int, int]]] = {
    'astronaut_face': (data.astronaut, (0, 100)),
    'astronaut_suit': (data.astronaut, (256, 256)),
    'chelsea_eyes': (data.chelsea, (20, 80)),
    'coffee_cup': (data.coffee, (0, 0)),
    'coffee_spoon': (data.coffee, (144, 300)),
}


def write_training_photos(folder: Path) -> Path:
    """Write the training photos as PNG files, and ``meta_info.txt`` for RealESRGANDataset.

    Returns:
        Path of ``meta_info.txt``.
    """
    names = [_write(folder, name, photo()) for name, photo in TRAINING.items()]
    meta_info = folder / 'meta_info.txt'
    meta_info.write_text(''.join(f'{name}\n' for name in names), encoding='utf-8')
    return meta_info


def write_evaluation_pairs(gt_folder: Path, lq_folder: Path, gt_size: int = 256, scale: int = 4) -> list[str]:
    """Write the held-out crops and their antialiased bicubic reductions, rounded to 8 bits.

    Returns:
        The names; the files are ``NAME.png`` in both folders.
    """
    from basicsr.utils.matlab_functions import imresize

    for name, (photo, (top, left)) in EVALUATION.items():
        crop = photo()[top : top + gt_size, left : left + gt_size]
        reduced = imresize(crop.astype(np.float32) / 255, 1 / scale, antialiasing=True)
        _write(gt_folder, name, crop)
        _write(lq_folder, name, (reduced * 255).round().clip(0, 255).astype(np.uint8))
    return list(EVALUATION)


def _write(folder: Path, name: str, rgb: np.ndarray) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    if rgb.ndim == 2:
        rgb = cv2.cvtColor(rgb, cv2.COLOR_GRAY2RGB)
    file = f'{name}.png'
    if not cv2.imwrite(str(folder / file), cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGR)):
        raise OSError(f'cannot write {folder / file}')
    return file
