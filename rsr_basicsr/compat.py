"""Every mend of the host, BasicSR 1.4.2, in one place, and the versions that all of it is known to work with.

Each function below mends one thing, says why, checks first whether the mend is needed, and can run twice.
``before_import()`` runs before BasicSR is imported for the first time, ``after_import()`` afterwards.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import logging
import re
import sys
import types
import warnings
from collections.abc import Mapping

import torch
import yaml

_logger = logging.getLogger(__name__)

#: First and last version that was tried; README says the same. Python 3.14 may work, but was not tried.
KNOWN_VERSIONS = {'Python': ('3.10', '3.13'), 'basicsr': ('1.4.2', '1.4.2'), 'torch': ('2.6', '2.15')}


def before_import() -> None:
    """Make ``import basicsr`` possible.

    Raises:
        ModuleNotFoundError: if there is no BasicSR.
    """
    _require_basicsr()
    _replace_distutils()
    _alias_functional_tensor()


def after_import() -> None:
    """Make what BasicSR does safe, and possible on machines without a GPU."""
    _read_options_safely()
    _train_real_esrgan_on_cpu()
    _blur_any_memory_layout()
    _resume_what_is_whole()
    _load_any_state_dict()
    _distribute_on_cpu()


def warn_of_unknown_versions(versions: Mapping[str, str]) -> None:
    """Warn of versions that nobody has tried: what goes wrong later may come from there.

    Args:
        versions: of what is named in :data:`KNOWN_VERSIONS`.
    """
    for name, (first, last) in KNOWN_VERSIONS.items():
        # To as many places as the limits have: a patch release of a known version is known.
        found = _numbers(versions[name])[: len(_numbers(last))]
        if not _numbers(first) <= found <= _numbers(last):
            known = first if first == last else f'{first} to {last}'
            warnings.warn(
                f'{name} {versions[name]} was not tried with rsr_basicsr; known to work: {known}',
                RuntimeWarning,
                stacklevel=3,
            )


def _numbers(version):
    return [int(number) for number in re.findall(r'\d+', version.split('+')[0])]


def _require_basicsr() -> None:
    """pip does not see to BasicSR (setup.py says why), so there may be none."""
    spec = importlib.util.find_spec('basicsr')
    if spec is None or spec.origin is None:  # no origin: a folder of that name without a package in it
        raise ModuleNotFoundError(
            'rsr_basicsr is a plugin for BasicSR, which is not installed: install it, in a clone of RSR-BasicSR, with: '
            'python scripts/install_basicsr.py',
            name='basicsr',
        )


def _replace_distutils() -> None:
    """Python 3.12 removed distutils, which BasicSR 1.4.2 imports ``LooseVersion`` from.

    It compares torchvision's version by it, which packaging does too. setuptools brings a distutils of its own, which
    is used where it is in reach: it need not be installed, and SETUPTOOLS_USE_DISTUTILS=stdlib switches it off.
    PEP 632 names packaging as the successor.
    """
    name = 'distutils.version'
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        from packaging.version import Version

        replacement = types.ModuleType(name)
        replacement.LooseVersion = Version
        sys.modules[name] = replacement


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


@functools.cache
def real_esrgan_packages() -> tuple:
    """The packages that have Real-ESRGAN's model classes: BasicSR, and ``realesrgan`` behind it where it is installed.

    The latter registers them under the bare names, and is then what ``model_type: RealESRGANModel`` means.
    """
    if importlib.util.find_spec('realesrgan') is None:
        return ('basicsr',)
    try:
        importlib.import_module('realesrgan.models')
    except Exception as error:  # whatever an installation that does not fit the others makes of it
        _logger.warning("the package realesrgan cannot be imported (%s); BasicSR's classes serve instead", error)
        return ('basicsr',)
    return 'basicsr', 'realesrgan'


def _real_esrgan_modules():
    return [
        importlib.import_module(f'{package}.models.{name}_model')
        for package in real_esrgan_packages()
        for name in ('realesrgan', 'realesrnet')
    ]


def _train_real_esrgan_on_cpu():
    """``RealESRGANModel`` and ``RealESRNetModel`` call ``.cuda()`` for the JPEG simulator, the sharpener and the pool.

    Without a GPU, or with ``num_gpu: 0`` on a machine that has one, those calls must follow the model's device.
    """
    for module in _real_esrgan_modules():
        cls = getattr(module, 'RealESRGANModel', None) or module.RealESRNetModel
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
    """``filter2D`` calls ``view`` on images that the CPU's ``interpolate`` may return with channels last."""
    for module in _real_esrgan_modules():
        if not hasattr(module.filter2D, 'rsr_mended'):
            module.filter2D = _contiguous_first(module.filter2D)


def _contiguous_first(function):
    @functools.wraps(function)
    def mended(img, *args, **kwargs):
        return function(img.contiguous(), *args, **kwargs)

    mended.rsr_mended = True
    return mended


def _resume_what_is_whole():
    """``load_resume_state`` asks CUDA for its current device, takes the newest file whether it is whole or not, and
    reads it with all that pickle can do; the sampler begins the epoch of a resumed run anew.
    """
    from basicsr import train

    from rsr_basicsr import checkpoints

    train.load_resume_state = checkpoints.load_resume_state
    train.EnlargedSampler = checkpoints.ResumingSampler


def _load_any_state_dict():
    """``load_network`` ends in a KeyError where a file has no entry ``params``, and lists all keys of a file as missing
    that the network knows under other names.
    """
    from basicsr.models.base_model import BaseModel

    from rsr_basicsr.weights import loading

    BaseModel.load_network = loading.load_network


def _distribute_on_cpu():
    """``init_dist`` assumes NCCL and a GPU, and ``model_to_device`` a GPU; gloo does the same on CPUs."""
    from basicsr.models.base_model import BaseModel
    from basicsr.utils import options

    if not hasattr(options.init_dist, 'rsr_mended'):
        options.init_dist = _init_gloo_without_gpu(options.init_dist)
    if not hasattr(BaseModel.model_to_device, 'rsr_mended'):
        BaseModel.model_to_device = _wrap_on_cpu(BaseModel.model_to_device)


def _init_gloo_without_gpu(init_dist):
    @functools.wraps(init_dist)
    def mended(launcher, backend='nccl', **kwargs):
        if torch.cuda.is_available():
            # Both kinds of tensors: num_gpu may be 0 on a machine that has a GPU.
            return init_dist(launcher, backend='cpu:gloo,cuda:nccl' if backend == 'nccl' else backend, **kwargs)
        with _one_pretended_gpu():
            return init_dist(launcher, backend='gloo', **kwargs)

    mended.rsr_mended = True
    return mended


@contextlib.contextmanager
def _one_pretended_gpu():
    """Within the block, CUDA says that it has one device, and takes any choice of it."""
    originals = torch.cuda.device_count, torch.cuda.set_device
    torch.cuda.device_count, torch.cuda.set_device = lambda: 1, lambda device: None
    try:
        yield
    finally:
        torch.cuda.device_count, torch.cuda.set_device = originals


def _wrap_on_cpu(model_to_device):
    @functools.wraps(model_to_device)
    def mended(self, net):
        if not self.opt['dist'] or self.device.type != 'cpu':
            return model_to_device(self, net)
        unused = self.opt.get('find_unused_parameters', False)
        return torch.nn.parallel.DistributedDataParallel(net.to(self.device), find_unused_parameters=unused)

    mended.rsr_mended = True
    return mended
