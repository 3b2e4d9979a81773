"""All workarounds for BasicSR 1.4.2, and the versions that the package is known to work with.

Each function below works around one problem. Its docstring gives the reason and the upstream reference: the file of
BasicSR, and the issue where there is one. Each checks whether it is needed and can run twice. ``before_import()`` runs
before BasicSR is imported for the first time, ``after_import()`` afterwards.
"""

from __future__ import annotations

import contextlib
import copyreg
import errno
import functools
import importlib
import importlib.util
import logging
import platform
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import torch
import yaml

from rsr_basicsr import launching
from rsr_basicsr.utils.files import write_whole

_logger = logging.getLogger(__name__)

#: First and last version tested, as in README. Python 3.14 may work, but was not tested.
KNOWN_VERSIONS = {'Python': ('3.10', '3.13'), 'basicsr': ('1.4.2', '1.4.2'), 'torch': ('2.6', '2.15')}


def before_import() -> None:
    """Make ``import basicsr`` possible."""
    _replace_distutils()
    _alias_functional_tensor()


def after_import() -> None:
    """Make BasicSR safe, and able to train without a GPU."""
    _read_options_safely()
    _read_text_as_utf8()
    _train_real_esrgan_on_cpu()
    _blur_any_memory_layout()
    _resume_what_is_whole()
    _keep_workers()
    _load_any_state_dict()
    _start_processes()
    _write_images_whole()


def versions() -> dict[str, str]:
    """What is installed of :data:`KNOWN_VERSIONS`."""
    import basicsr

    return {'Python': platform.python_version(), 'basicsr': basicsr.__version__, 'torch': torch.__version__}


def warn_of_unknown_versions(versions: Mapping[str, str]) -> None:
    """Warn of untested versions, a possible cause of later errors.

    Args:
        versions: installed version per name in :data:`KNOWN_VERSIONS`.
    """
    for name, (first, last) in KNOWN_VERSIONS.items():
        # Compared to as many places as the limits have: a patch release of a known version is known.
        found = _numbers(versions[name])[: len(_numbers(last))]
        if not _numbers(first) <= found <= _numbers(last):
            known = first if first == last else f'{first} to {last}'
            warnings.warn(
                f'{name} {versions[name]} was not tested with rsr_basicsr; known to work: {known}',
                RuntimeWarning,
                stacklevel=3,
            )


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r'\d+', version.split('+')[0])]


def _replace_distutils() -> None:
    """Python 3.12 removed distutils; BasicSR imports ``LooseVersion`` from it to compare torchvision's version.

    The distutils of setuptools is used if importable; setuptools may be missing, or its distutils be switched off by
    SETUPTOOLS_USE_DISTUTILS=stdlib. Otherwise ``packaging``, the successor named by PEP 632, replaces it.

    Upstream: ``basicsr/archs/arch_util.py``; PEP 632.
    """
    name = 'distutils.version'
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        from packaging.version import Version

        replacement = ModuleType(name)
        vars(replacement)['LooseVersion'] = Version
        sys.modules[name] = replacement


def _alias_functional_tensor() -> None:
    """torchvision 0.17 removed ``transforms.functional_tensor``; BasicSR imports one function from it.

    Upstream: ``basicsr/data/degradations.py``; XPixelGroup/BasicSR issue 649. The pull requests that fix it (624, 650,
    677) are in no release.
    """
    name = 'torchvision.transforms.functional_tensor'
    try:
        __import__(name)
    except ModuleNotFoundError:
        from torchvision.transforms.functional import rgb_to_grayscale

        alias = ModuleType(name)
        vars(alias)['rgb_to_grayscale'] = rgb_to_grayscale
        sys.modules[name] = alias


def _read_options_safely() -> None:
    """BasicSR reads options with PyYAML's full loader, which runs code from tags such as ``!!python/object/apply``.

    Options files are shared between users, so they are read with the safe loader. Dictionaries keep the file's order.

    Upstream: ``ordered_yaml`` in ``basicsr/utils/options.py``.
    """
    from basicsr.utils import options

    options.ordered_yaml = lambda: (yaml.SafeLoader, yaml.SafeDumper)


def _read_text_as_utf8() -> None:
    """BasicSR opens options files and lists of images in the encoding of the locale, which is rarely UTF-8 on Windows.

    A byte order mark, which some editors write, is no part of the first name.

    Upstream: ``basicsr/utils/options.py``, ``basicsr/data/``.
    """
    from basicsr import data
    from basicsr.utils import options

    for module in (options, *(found for found in vars(data).values() if isinstance(found, ModuleType))):
        if module is options or module.__name__.startswith('basicsr.data.'):
            vars(module)['open'] = _open_as_utf8


def _open_as_utf8(file: Any, mode: str = 'r', *args: Any, **kwargs: Any) -> Any:
    if 'b' not in mode and not args:
        kwargs.setdefault('encoding', 'utf-8' if '+' in mode or 'w' in mode or 'a' in mode else 'utf-8-sig')
    return open(file, mode, *args, **kwargs)


def pickle_by_plugin(classes: Iterable[type]) -> None:
    """Let pickled objects of BasicSR's classes import this package first.

    A loader worker that is spawned unpickles its data set, and for that imports BasicSR, which needs
    :func:`before_import`. Where the main module is imported there, it does so by itself; ``rsr.exe`` is none.

    Args:
        classes: of data sets.
    """
    for cls in classes:
        copyreg.pickle(cls, _reduced)


def _reduced(instance: Any) -> tuple[Any, ...]:
    function, arguments, *state = instance.__reduce_ex__(2)
    return _rebuilt, (function, arguments), *state


def _rebuilt(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)


@functools.cache
def real_esrgan_packages() -> tuple[str, ...]:
    """The packages that have Real-ESRGAN's model classes: BasicSR, then ``realesrgan`` if it can be imported.

    If ``realesrgan`` is there, ``model_type: RealESRGANModel`` means its class, which it registers without a suffix.
    """
    if importlib.util.find_spec('realesrgan') is None:
        return ('basicsr',)
    try:
        importlib.import_module('realesrgan.models')
    except Exception as error:  # an incompatible installation can raise anything
        _logger.warning("the package realesrgan cannot be imported (%s); BasicSR's classes serve instead", error)
        return ('basicsr',)
    return 'basicsr', 'realesrgan'


def _real_esrgan_modules() -> list[ModuleType]:
    return [
        importlib.import_module(f'{package}.models.{name}_model')
        for package in real_esrgan_packages()
        for name in ('realesrgan', 'realesrnet')
    ]


def _train_real_esrgan_on_cpu() -> None:
    """Real-ESRGAN's models call ``.cuda()`` for the JPEG simulator, the sharpener and the training pair pool.

    With ``num_gpu: 0`` those must stay on the CPU, the model's device.

    Upstream: ``basicsr/models/realesrgan_model.py``, ``realesrnet_model.py``; xinntao/Real-ESRGAN issue 91.
    """
    for module in _real_esrgan_modules():
        cls = getattr(module, 'RealESRGANModel', None) or module.RealESRNetModel
        for method in ('__init__', '_dequeue_and_enqueue'):
            original = getattr(cls, method)
            if not hasattr(original, 'rsr_patched'):
                setattr(cls, method, _stay_on_cpu(original))


def _stay_on_cpu(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def patched(self: Any, *args: Any, **kwargs: Any) -> Any:
        # __init__ gets the options as its argument; the pool method runs after __init__ has stored them.
        opt = args[0] if args else self.opt
        with _cuda_means_cpu() if opt['num_gpu'] == 0 else contextlib.nullcontext():
            return method(self, *args, **kwargs)

    return _marked(patched)


def _marked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function as patched, so that it is patched once."""
    vars(function)['rsr_patched'] = True
    return function


@contextlib.contextmanager
def _cuda_means_cpu() -> Iterator[None]:
    """Within the block, ``.cuda()`` of tensors and modules returns the object itself."""
    owners: tuple[Any, ...] = (torch.Tensor, torch.nn.Module)
    originals = [owner.cuda for owner in owners]
    try:
        for owner in owners:
            owner.cuda = lambda self, *args, **kwargs: self
        yield
    finally:
        for owner, original in zip(owners, originals):
            owner.cuda = original


def _blur_any_memory_layout() -> None:
    """``filter2D`` calls ``view``, which fails for the channels-last images that ``interpolate`` may return on the CPU.

    Upstream: ``filter2D`` in ``basicsr/utils/img_process_util.py``.
    """
    for module in _real_esrgan_modules():
        if not hasattr(module.filter2D, 'rsr_patched'):
            vars(module)['filter2D'] = _contiguous_first(module.filter2D)


def _contiguous_first(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(function)
    def patched(img: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return function(img.contiguous(), *args, **kwargs)

    return _marked(patched)


def _resume_what_is_whole() -> None:
    """``load_resume_state`` needs CUDA, takes the newest file even if it is damaged, and unpickles arbitrary code.

    Besides, the sampler of a resumed run starts its epoch anew. :mod:`rsr_basicsr.checkpoints` replaces both.

    Upstream: ``load_resume_state`` in ``basicsr/train.py``, ``EnlargedSampler`` in ``basicsr/data/data_sampler.py``.
    """
    from basicsr import train

    from rsr_basicsr import checkpoints

    train.load_resume_state = checkpoints.load_resume_state
    train.EnlargedSampler = checkpoints.ResumingSampler


def _keep_workers() -> None:
    """Workers are started twice at the start, refused if kept where there is none, and seeded alike in each epoch.

    :mod:`rsr_basicsr.workers` replaces what does so.

    Upstream: ``build_dataloader`` and ``worker_init_fn`` in ``basicsr/data/__init__.py``, ``CPUPrefetcher`` and
    ``CUDAPrefetcher`` in ``basicsr/data/prefetch_dataloader.py``.
    """
    from basicsr import test, train

    from rsr_basicsr import workers

    for module in (train, test):
        if not hasattr(module.build_dataloader, 'rsr_patched'):
            module.build_dataloader = _marked(workers.keeping_workers(module.build_dataloader))
    train.CPUPrefetcher, train.CUDAPrefetcher = workers.LateCPUPrefetcher, workers.LateCUDAPrefetcher


def _load_any_state_dict() -> None:
    """``load_network`` fails with a KeyError for a file without the entry ``params``, and knows no published names.

    :mod:`rsr_basicsr.weights.loading` replaces it.

    Upstream: ``BaseModel.load_network`` in ``basicsr/models/base_model.py``; XPixelGroup/BasicSR issue 253.
    """
    from basicsr.models.base_model import BaseModel

    from rsr_basicsr.weights import loading

    BaseModel.load_network = loading.load_any_weights


def _write_images_whole() -> None:
    """``imwrite`` names neither file nor reason when it fails, may leave half a file, and crashes on names in no UTF-8.

    Upstream: ``imwrite`` in ``basicsr/utils/img_util.py``.
    """
    from basicsr.utils import img_util

    original = img_util.imwrite
    if hasattr(original, 'rsr_patched'):
        return
    patched = _marked(_write_image_whole)
    for name, module in list(sys.modules.items()):
        if name.startswith('basicsr.') and getattr(module, 'imwrite', None) is original:
            vars(module)['imwrite'] = patched


def _write_image_whole(img: Any, file_path: str, params: Any = None, auto_mkdir: bool = True) -> None:
    path = Path(file_path)
    if auto_mkdir:
        path.parent.mkdir(parents=True, exist_ok=True)
    whole, content = cv2.imencode(path.suffix or '.png', img, params or [])
    if not whole:
        raise OSError(errno.EINVAL, 'the image cannot be encoded', str(path))
    write_whole(path, content.tobytes())


def _start_processes() -> None:
    """``init_dist`` takes the rank modulo the number of visible GPUs as the device, and assumes NCCL and a GPU.

    That is the GPU of another process where machines have different numbers of GPUs; the launcher tells the right one.
    :mod:`rsr_basicsr.launching` replaces it. Besides, ``model_to_device`` assumes a GPU.

    Upstream: ``basicsr/utils/dist_util.py``, ``BaseModel.model_to_device`` in ``basicsr/models/base_model.py``.
    """
    from basicsr.models.base_model import BaseModel
    from basicsr.utils import options

    options.init_dist = launching.init_dist
    if not hasattr(BaseModel.model_to_device, 'rsr_patched'):
        BaseModel.model_to_device = _wrap_on_cpu(BaseModel.model_to_device)


def _wrap_on_cpu(model_to_device: Callable[..., torch.nn.Module]) -> Callable[..., torch.nn.Module]:
    @functools.wraps(model_to_device)
    def patched(self: Any, net: torch.nn.Module) -> torch.nn.Module:
        if not self.opt['dist'] or self.device.type != 'cpu':
            return model_to_device(self, net)
        unused = self.opt.get('find_unused_parameters', False)
        return torch.nn.parallel.DistributedDataParallel(net.to(self.device), find_unused_parameters=unused)

    return _marked(patched)
