"""RSR-BasicSR: attacks on real-world super-resolution networks and a defence against them, as a plugin for BasicSR.

Importing this package registers its architectures, models, data sets, losses and metrics in BasicSR's registries, as
soon as there are any: see :mod:`rsr_basicsr.registration`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rsr_basicsr.registration import install

if TYPE_CHECKING:
    from rsr_basicsr.archs import MaskPoint, defend, register_defended
    from rsr_basicsr.inference.detector import detect
    from rsr_basicsr.inference.image_io import read_image, write_image
    from rsr_basicsr.inference.recognition import open_network
    from rsr_basicsr.inference.upscaler import Upscaler
    from rsr_basicsr.models import attack_batch, defend_model
    from rsr_basicsr.stability import measure_stability

__version__ = '0.1.0'

#: Where the names of ``__all__`` are defined
_MODULE_OF = {
    'MaskPoint': 'archs',
    'Upscaler': 'inference.upscaler',
    'attack_batch': 'models',
    'defend': 'archs',
    'defend_model': 'models',
    'detect': 'inference.detector',
    'measure_stability': 'stability',
    'open_network': 'inference.recognition',
    'read_image': 'inference.image_io',
    'register_defended': 'archs',
    'write_image': 'inference.image_io',
}

__all__ = [
    'MaskPoint',
    'Upscaler',
    'attack_batch',
    'defend',
    'defend_model',
    'detect',
    'measure_stability',
    'open_network',
    'read_image',
    'register_defended',
    'write_image',
]

install()


def __getattr__(name: str) -> Any:
    """The names of ``__all__`` and the modules of the package, imported when they are asked for."""
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f'{__name__}.{_MODULE_OF[name]}'), name)
    if not name.startswith('_'):
        try:
            return importlib.import_module(f'{__name__}.{name}')
        except ModuleNotFoundError as error:
            if error.name != f'{__name__}.{name}':
                raise
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
