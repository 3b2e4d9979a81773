"""BasicSR and other plugins: import orders, and the workarounds for BasicSR."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest
import torch
from basicsr.models.realesrnet_model import RealESRNetModel
from basicsr.utils.options import ordered_yaml
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY

REGISTERED = {
    ARCH_REGISTRY: [
        'RandomFrequencyMask',
        'FrequencyClassifier',
        'DefendedRRDBNet',
        'DefendedSRVGGNetCompact',
        'DefendedMSRResNet',
    ],
    MODEL_REGISTRY: [
        'DefendedSRModel',
        'DefendedRealESRNetModel',
        'DefendedRealESRGANModel',
        'DefendedSRGANModel',
        'DefendedESRGANModel',
        'DefendedSwinIRModel',
        'DefendedCDCModel',
    ],
    LOSS_REGISTRY: ['ClassifierLoss'],
    METRIC_REGISTRY: ['calculate_stability', 'calculate_stability_ssim', 'calculate_gain', 'calculate_lpips'],
}


def python(code):
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)


def test_import_registers_everything():
    for registry, names in REGISTERED.items():
        assert set(names) <= set(registry.keys())


@pytest.mark.parametrize(
    'first',
    [
        'import rsr_basicsr',
        'try:\n    import basicsr\nexcept ModuleNotFoundError:\n    pass',
        'import rsr_basicsr.attacks, rsr_basicsr.train, basicsr.archs',
        'import rsr_basicsr.compat as c; c.before_import(); import basicsr; c.after_import(); c.after_import()',
    ],
    ids=['plain', 'after basicsr', 'submodules', 'patched twice'],
)
def test_any_import_order(first):
    run = python(
        f'{first}\nimport rsr_basicsr, basicsr\nfrom basicsr.utils.registry import ARCH_REGISTRY\n'
        'print("DefendedRRDBNet" in ARCH_REGISTRY)'
    )
    assert run.returncode == 0 and run.stdout.split()[-1] == 'True', run.stderr


WITHOUT = """
import sys
from importlib.machinery import PathFinder


class Without:
    @staticmethod
    def find_spec(name, *rest):
        return None if name.split('.')[0] == {!r} else PathFinder.find_spec(name, *rest)


sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""


def test_distutils_is_not_needed(monkeypatch):
    monkeypatch.setenv('SETUPTOOLS_USE_DISTUTILS', 'stdlib')  # takes the copy of setuptools out of reach
    run = python(
        WITHOUT.format('distutils') + 'import rsr_basicsr\n'
        'from basicsr.archs.arch_util import LooseVersion as V\n'
        'print(V("0.10.0+cpu") >= V("0.9.0"), V("0.8.2") >= V("0.9.0"))'
    )
    assert run.returncode == 0 and run.stdout.split()[-2:] == ['True', 'False'], run.stderr


def test_import_without_basicsr_names_the_remedy():
    run = python(WITHOUT.format('basicsr') + 'import rsr_basicsr')
    assert run.returncode == 1
    assert re.match('ModuleNotFoundError: .*not installed.*install_basicsr.py$', run.stderr.splitlines()[-1])


@pytest.mark.skipif(importlib.util.find_spec('realesrgan') is None, reason='the realesrgan package is not installed')
@pytest.mark.parametrize('order', ['rsr_basicsr, realesrgan', 'rsr_basicsr.compat, realesrgan, rsr_basicsr'])
def test_together_with_the_realesrgan_package(order):
    run = python(
        f'import {order}\nfrom basicsr.utils.registry import MODEL_REGISTRY as M\n'
        'print("RealESRGANModel" in M, "DefendedRealESRGANModel" in M)'
    )
    assert run.returncode == 0 and run.stdout.split()[-2:] == ['True', 'True'], run.stderr


def test_defended_versions_of_the_realesrgan_packages_classes(tmp_path):
    # The real package is tested above if it is installed. This one has what matters: its own classes, not derived from
    # BasicSR's, under names without a suffix.
    folder = tmp_path / 'realesrgan' / 'models'
    folder.mkdir(parents=True)
    (tmp_path / 'realesrgan' / '__init__.py').write_text('from .models import *\n')
    for name, cls in (('realesrgan', 'RealESRGANModel'), ('realesrnet', 'RealESRNetModel')):
        (folder / f'{name}_model.py').write_text(
            'from basicsr.utils.img_process_util import filter2D\nfrom basicsr.utils.registry import MODEL_REGISTRY\n'
            f'from basicsr.models.{name}_model import {cls} as host\n'
            'from basicsr.models.sr_model import SRModel\nfrom basicsr.models.srgan_model import SRGANModel\n'
            f'@MODEL_REGISTRY.register()\nclass {cls}({"SRGANModel" if "GAN" in cls else "SRModel"}):\n'
            '    def __init__(self, opt):\n        super().__init__(opt)\n'
            '    _dequeue_and_enqueue, feed_data = host._dequeue_and_enqueue, host.feed_data\n'
        )
    (folder / '__init__.py').write_text('from . import realesrgan_model, realesrnet_model\n')
    code = (
        'import rsr_basicsr\nfrom basicsr.utils.registry import MODEL_REGISTRY as M\n'
        'for name in ("RealESRGANModel", "RealESRNetModel"):\n'
        '    print(*([c.__module__ for c in M.get(defended).__mro__ if c.__name__ == name]'
        ' for defended in (f"Defended{name}", f"Defended{name}_basicsr")), M.get(name).__init__.rsr_patched)'
    )
    run = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(tmp_path)}
    )
    lines = run.stdout.splitlines()[-2:]
    assert lines == [
        f"['realesrgan.models.{name}_model'] ['basicsr.models.{name}_model'] True"
        for name in ('realesrgan', 'realesrnet')
    ], run.stdout + run.stderr
    # If it cannot be imported, there is a warning, and BasicSR's classes are used.
    (folder / '__init__.py').write_text('import no_such_module_of_theirs\n')
    run = subprocess.run(
        [
            sys.executable,
            '-c',
            'import rsr_basicsr; mro = rsr_basicsr.models.DefendedRealESRGANModel.__mro__; '
            'print(*(cls.__module__ for cls in mro if cls.__name__ == "RealESRGANModel"))',
        ],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(tmp_path)},
    )
    assert run.stdout.split() == ['basicsr.models.realesrgan_model'] and 'no_such_module_of_theirs' in run.stderr


def test_options_are_read_without_running_code(tmp_path):
    import yaml

    text = f'!!python/object/apply:os.system ["touch {tmp_path}/ran"]'
    with pytest.raises(yaml.constructor.ConstructorError):
        yaml.load(text, Loader=ordered_yaml()[0])
    assert not (tmp_path / 'ran').exists()
    assert list(yaml.load('b: 1\na: !!float 1e-4', Loader=ordered_yaml()[0]).items()) == [('b', 1), ('a', 1e-4)]


def test_cuda_calls_are_restored_after_an_error():
    before = torch.Tensor.cuda, torch.nn.Module.cuda
    with pytest.raises(KeyError):
        RealESRNetModel({'num_gpu': 0})
    assert (torch.Tensor.cuda, torch.nn.Module.cuda) == before
