"""A full disk or a folder that cannot be written ends a command in one sentence, and the next run goes on."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import yaml

from rsr_basicsr.cli import main

LIMIT = 30_000  # bytes: a report, an output and a data set are larger
LIMITED = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT}, resource.RLIM_INFINITY))
from rsr_basicsr.cli import main
sys.exit(main(sys.argv[1:]))
"""
COMMANDS = {
    'upscale': ['upscale', 'photos', '-o', 'out'],
    'benchmark': ['benchmark', '-opt', 'benchmark.yml', '-o', 'out'],
    'adversarial-set': ['adversarial-set', '-opt', 'set.yml', '-o', 'out', '--workers', '0'],
    'stability': ['stability', 'defended-general-x4v3', 'photos', '-o', 'out', '--steps', '1'],
    'export': ['export', 'defended-general-x4v3', '--backbone', 'out.pth'],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Working directory with two photos and options files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'photos').mkdir()
    rng = np.random.default_rng(0)
    for name in 'ab':
        assert cv2.imwrite(f'photos/{name}.png', rng.integers(0, 256, (96, 96, 3), dtype=np.uint8))
    bicubic = {'type': 'Interpolation', 'mode': 'bicubic', 'scale': 4}
    files = {
        'benchmark.yml': {
            'name': 'full',
            'num_gpu': 0,
            'networks': {'bicubic': bicubic},
            'attacks': {'pgd': {'type': 'PGD', 'steps': 1}},
            'eps': [8],
            'datasets': {'photos': {'type': 'ReducedImageDataset', 'dataroot_gt': 'photos'}},
        },
        'set.yml': {'photos': 'photos', 'kinds': {'photo_as_it_is': 1}, 'count': 4, 'size': 64, 'seed': 0},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(yaml.safe_dump(content), encoding='utf-8')
    return tmp_path


@pytest.mark.parametrize('name', COMMANDS)
def test_full_disk(name, folder, capsys):
    words = COMMANDS[name]
    run = subprocess.run([sys.executable, '-c', LIMITED, *words], capture_output=True, text=True, timeout=300)
    last = run.stderr.strip().splitlines()[-1]
    assert run.returncode in (1, 2), run.stderr
    assert 'Traceback' not in run.stderr and last.startswith(f'rsr {name}: '), run.stderr
    assert 'File too large' in last or (name == 'adversarial-set' and 'make room' in last)  # LMDB's own words
    assert main(words) == 0  # there is room again


@pytest.mark.parametrize('name', COMMANDS)
def test_folder_that_cannot_be_written(name, folder, capsys):
    words = [word.replace('out', '/proc/nowhere/out') for word in COMMANDS[name]]
    assert main(words) in (1, 2)
    err = capsys.readouterr().err.strip().splitlines()
    assert any(line.startswith(f'rsr {name}: ') and '/proc/nowhere' in line for line in err), err
