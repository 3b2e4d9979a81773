"""Put trained classifiers into the package: python scripts/ship_detector.py NET_G.pth [NET_G.pth ...]

Takes the moving average (EMA) in each file from rsr train, converts it to half precision and prints the file size. The
classifier type is inferred from the keys.
"""

from __future__ import annotations

import sys

import torch

import rsr_basicsr  # noqa: F401
from rsr_basicsr.archs.defense import CLASSIFIERS
from rsr_basicsr.weights.state_dict import load_state


def ship(path: str) -> None:
    """Write the state dict of one file to the built-in path of its class."""
    state = {key: value.half() if value.numel() > 1 else value for key, value in load_state(path).items()}
    for cls in CLASSIFIERS.values():
        if set(cls().state_dict()) == set(state):
            target = cls.builtin_weights()
            target.parent.mkdir(exist_ok=True)
            torch.save(state, target)
            print(f'{path} -> {target}, {target.stat().st_size:,} bytes')
            return
    raise SystemExit(f'{path} holds none of the known classifiers ({", ".join(CLASSIFIERS)})')


if __name__ == '__main__':
    for name in sys.argv[1:] or [sys.exit(__doc__)]:
        ship(name)
