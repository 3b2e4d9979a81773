"""RSR-BasicSR: attacks on real-world super-resolution networks and a defence against them, as a plugin for BasicSR.

Importing this package registers its architectures, models, data sets, losses and metrics in BasicSR's registries.
"""

import platform

import torch

from rsr_basicsr import compat

compat.before_import()

import basicsr  # noqa: E402

compat.after_import()
compat.warn_of_unknown_versions(
    {'Python': platform.python_version(), 'basicsr': basicsr.__version__, 'torch': torch.__version__}
)

from rsr_basicsr import archs, attacks, data, losses, metrics, models  # noqa: E402, F401
from rsr_basicsr.archs import MaskPoint, defend, register_defended  # noqa: E402
from rsr_basicsr.models import attack_batch, defend_model  # noqa: E402

__version__ = '0.1.0'

__all__ = ['MaskPoint', 'attack_batch', 'defend', 'defend_model', 'register_defended']
