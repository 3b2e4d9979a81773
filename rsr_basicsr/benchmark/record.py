"""What one measurement yields: the record that tables and reports are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np


@dataclass
class Result:
    """One network on one picture, clean or attacked.

    Attributes:
        network: label of the network, as shown to the reader.
        picture: name of the picture.
        eps: budget of the attack in 1/255, L-inf norm; 0 is the clean picture.
        psnr: dB, output against the high-resolution original.
        stability: dB, output against the network's own output for the clean picture; None for the clean picture.
        detected: decision of the classifier, None for a network without one.
        lq: the input, (h, w, 3) RGB uint8.
        sr: the output, (H, W, 3) RGB uint8.
    """

    network: str
    picture: str
    eps: float
    psnr: float
    stability: Optional[float]
    detected: Optional[bool]
    lq: np.ndarray
    sr: np.ndarray
