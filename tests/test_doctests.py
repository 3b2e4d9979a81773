"""Examples in docstrings run as they are written, and the entry points for users have one."""

import doctest
import importlib
import pkgutil

import pytest
from basicsr.utils.registry import ARCH_REGISTRY

import rsr_basicsr
from rsr_basicsr import attacks, defend, register_defended
from rsr_basicsr.archs import RandomFrequencyMask
from rsr_basicsr.inference.detector import detect
from rsr_basicsr.inference.upscaler import Upscaler
from rsr_basicsr.metrics.stability_metric import calculate_gain, calculate_stability, rms_gain
from rsr_basicsr.ops.frequency import dct2, idct2
from rsr_basicsr.stability import measure_stability
from rsr_basicsr.weights import load_state

ENTRY_POINTS = (
    attacks.PGD,
    attacks.build_attack,
    defend,
    register_defended,
    RandomFrequencyMask,
    Upscaler,
    detect,
    calculate_stability,
    calculate_gain,
    rms_gain,
    measure_stability,
    dct2,
    idct2,
    load_state,
)
PARSER = doctest.DocTestParser()


def examples_of_the_package():
    names = sorted(info.name for info in pkgutil.walk_packages(rsr_basicsr.__path__, 'rsr_basicsr.'))
    for name in names:
        module = importlib.import_module(name)
        yield from (test for test in doctest.DocTestFinder(exclude_empty=True).find(module, name) if test.examples)


@pytest.mark.parametrize('test', list(examples_of_the_package()), ids=lambda test: test.name)
def test_examples_of_docstrings(test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ARCH_REGISTRY, '_obj_map', dict(ARCH_REGISTRY._obj_map))  # an example may register a class
    printed = []
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=printed.append)
    assert result.attempted and not result.failed, ''.join(printed)


@pytest.mark.parametrize('entry', ENTRY_POINTS, ids=lambda entry: entry.__name__)
def test_entry_points_have_an_example(entry):
    examples = PARSER.get_examples(entry.__doc__)
    assert any(example.want for example in examples), 'no example that shows a result'
