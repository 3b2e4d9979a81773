"""Every mend of the host, BasicSR 1.4.2, in one place.

Each function below mends one thing, says why, checks first whether the mend is needed, and can run twice.
``before_import()`` runs before BasicSR is imported for the first time, ``after_import()`` afterwards.
"""

from __future__ import annotations

import contextlib
import functools
import os.path as osp
import sys
import types
from typing import Optional

import torch
import yaml


def before_import() -> None:
    """Make ``import basicsr`` possible."""
    _alias_functional_tensor()


def after_import() -> None:
    """Make what BasicSR does safe, and possible on machines without a GPU."""
    _read_options_safely()
    _train_real_esrgan_on_cpu()
    _blur_any_memory_layout()
    _resume_on_cpu()


def _alias_functional_tensor():
    """torchvision 0.17 removed ``transforms.functional_tensor``, which BasicSR 1.4.2 imports one function from.

    See XPixelGroup/BasicSR issue 649; the pull requests that mend it (624, 650, 677) are in no release.
    """
    name = 'torchvision.transforms.functional_tensor'
    try:
        __import__(name)
    except ModuleNotFoundError:
        from torchvision.transforms.functional import rgb_to_grayscale
        alias = types.ModuleType(name)
        alias.rgb_to_grayscale = rgb_to_grayscale
        sys.modules[name] = alias


def _read_options_safely():
    """BasicSR reads options with PyYAML's full loader, which runs code from tags such as ``!!python/object/apply``.

    Options files travel between people, so they are read with the safe loader; Python dictionaries
    keep the order of the file.
    """
    from basicsr.utils import options
    options.ordered_yaml = lambda: (yaml.SafeLoader, yaml.SafeDumper)


def _train_real_esrgan_on_cpu():
    """``RealESRGANModel`` and ``RealESRNetModel`` call ``.cuda()`` for the JPEG simulator, the sharpener and the pool.

    Without a GPU, or with ``num_gpu: 0`` on a machine that has one, those calls must follow the model's device.
    """
    from basicsr.models.realesrgan_model import RealESRGANModel
    from basicsr.models.realesrnet_model import RealESRNetModel
    for cls in (RealESRGANModel, RealESRNetModel):
        for method in ('__init__', '_dequeue_and_enqueue'):
            original = getattr(cls, method)
            if not hasattr(original, 'rsr_mended'):
                setattr(cls, method, _stay_on_cpu(original))


def _stay_on_cpu(method):
    @functools.wraps(method)
    def mended(self, *args, **kwargs):
        # __init__ is called with the options, the pool only after __init__ has kept them.
        opt = args[0] if args else self.opt
        with _cuda_means_cpu() if opt['num_gpu'] == 0 else contextlib.nullcontext():
            return method(self, *args, **kwargs)

    mended.rsr_mended = True
    return mended


@contextlib.contextmanager
def _cuda_means_cpu():
    """Within the block, ``.cuda()`` of tensors and modules returns the object itself."""
    owners = (torch.Tensor, torch.nn.Module)
    originals = [owner.cuda for owner in owners]
    try:
        for owner in owners:
            owner.cuda = lambda self, *args, **kwargs: self
        yield
    finally:
        for owner, original in zip(owners, originals):
            owner.cuda = original


def _blur_any_memory_layout():
    """``filter2D`` calls ``view`` on pictures that the CPU's ``interpolate`` may return with channels last."""
    from basicsr.models import realesrgan_model, realesrnet_model
    for module in (realesrgan_model, realesrnet_model):
        if not hasattr(module.filter2D, 'rsr_mended'):
            module.filter2D = _contiguous_first(module.filter2D)


def _contiguous_first(function):
    @functools.wraps(function)
    def mended(img, *args, **kwargs):
        return function(img.contiguous(), *args, **kwargs)

    mended.rsr_mended = True
    return mended


def _resume_on_cpu():
    """``load_resume_state`` asks CUDA for its current device, so that resuming fails without a GPU."""
    from basicsr import train
    if not torch.cuda.is_available():
        train.load_resume_state = _load_resume_state_on_cpu


def _load_resume_state_on_cpu(opt):
    from basicsr.utils import check_resume
    path = opt['path'].get('resume_state')
    if opt['auto_resume']:
        path = opt['path']['resume_state'] = newest_state(opt['path']['training_states'])
    if not path:
        return None
    state = torch.load(path, map_location='cpu', weights_only=True)
    check_resume(opt, state['iter'])
    return state


def newest_state(folder: str) -> Optional[str]:
    """Path of the training state with the highest iteration, as ``--auto_resume`` takes it; None without one."""
    from basicsr.utils import scandir
    states = scandir(folder, suffix='.state') if osp.isdir(folder) else []
    newest = max((int(osp.splitext(name)[0]) for name in states), default=None)
    return None if newest is None else osp.join(folder, f'{newest}.state')
