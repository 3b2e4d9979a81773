"""When torch and BasicSR are imported, and that everything is registered then."""

import subprocess
import sys
from pathlib import Path

import pytest

import rsr_basicsr
from rsr_basicsr.registration import LIGHT_ROOMS

PACKAGE = Path(rsr_basicsr.__file__).parent
LOADED = 'import sys; print(sorted({"torch", "basicsr"} & set(sys.modules)))'
REGISTERED = (
    'from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY'
    '\n'
    'assert "DefendedRRDBNet" in ARCH_REGISTRY and "DefendedSRModel" in MODEL_REGISTRY\n'
    'assert "ClassifierLoss" in LOSS_REGISTRY and "calculate_stability" in METRIC_REGISTRY\n'
    'assert "DegradedImageDataset" in DATASET_REGISTRY'
)


def python(code, *flags):
    run = subprocess.run([sys.executable, *flags, '-c', code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_light_rooms_import_neither_torch_nor_basicsr():
    files = [path for room in LIGHT_ROOMS for path in (PACKAGE / room).glob('*.py') if path.stem != '__main__']
    assert len(files) > 20
    names = ['.'.join(path.relative_to(PACKAGE.parent).with_suffix('').parts) for path in files]
    imports = '\n'.join(f'import {name.removesuffix(".__init__")}' for name in names)
    assert python(f'{imports}\n{LOADED}') == '[]\n'


@pytest.mark.parametrize(
    'words',
    [
        '--help',
        '--version',
        'options',
        'weights --list',
        'leaderboard {cards}',
        'upscale --help',
        'upscale --tle 3',
        'tran',
    ],
)
def test_commands_that_need_no_network_import_no_torch(words):
    entries = Path(__file__).parents[1] / 'docs' / 'leaderboard' / 'general_x4v3_baselines.jsonl'
    command = words.format(cards=entries).split()
    code = (
        f'from rsr_basicsr.cli import main\ntry:\n    code = main({command!r})\nexcept SystemExit as end:\n'
        f'    code = end.code\nassert code == {2 if words in ("upscale --tle 3", "tran") else 0}, code\n{LOADED}'
    )
    assert python(code).splitlines()[-1] == '[]'


@pytest.mark.parametrize(
    'first',
    [
        'import rsr_basicsr',
        'import rsr_basicsr, basicsr',
        'from rsr_basicsr.ops.registry import TypeRegistry',
        'from rsr_basicsr.archs.defended_arch import DefenseMixin',
        'from rsr_basicsr import *',
        'import rsr_basicsr; rsr_basicsr.attacks.PGD',
    ],
)
def test_everything_is_registered_after_any_first_import(first):
    python(f'{first}\n{REGISTERED}')


def test_modules_are_imported_once():
    found = python(
        'import importlib.util, rsr_basicsr\n'
        'assert importlib.util.find_spec("basicsr").origin.endswith("__init__.py")\n'
        'from rsr_basicsr.archs.defended_arch import DefenseMixin\n'
        'import basicsr, sys, rsr_basicsr.archs.defended_arch as again\n'
        'assert again.DefenseMixin is DefenseMixin\n'
        'assert issubclass(again.ARCH_REGISTRY.get("DefendedRRDBNet"), DefenseMixin)\n'
        'for name in ("basicsr", "rsr_basicsr.archs", "rsr_basicsr.archs.defended_arch"):\n'
        '    print(type(sys.modules[name].__spec__.loader).__name__)'
    )
    assert set(found.split()) == {'SourceFileLoader'}


def test_a_failing_import_fails_again_with_its_own_error():
    found = python(
        'import sys, rsr_basicsr\n'
        'sys.modules["torch"] = None\n'
        'for _ in range(2):\n'
        '    try:\n'
        '        import basicsr\n'
        '    except ModuleNotFoundError as error:\n'
        '        print(error.name)'
    )
    assert found.split() == ['torch', 'torch']


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="'rsr_basicsr' has no attribute 'nothing'"):
        _ = rsr_basicsr.nothing
    assert {'defend', 'attack_batch'} <= set(dir(rsr_basicsr))
