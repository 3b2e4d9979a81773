"""An image too large for the memory does not stop the others; a GPU that has failed does."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from rsr_basicsr.archs.frequency_classifier_arch import FrequencyClassifier
from rsr_basicsr.cli import main
from rsr_basicsr.inference.detector import Detection, detect
from rsr_basicsr.utils.errors import DeviceError, ImageError

# A network that fails on images of 48 pixels, as the variable says.
MODULE = """
import os, torch
from basicsr.utils.registry import ARCH_REGISTRY
from rsr_basicsr.archs import Interpolation

@ARCH_REGISTRY.register()
class Failing{number}(Interpolation):
    def __init__(self):
        super().__init__(scale=2)
        self.factor = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        if x.shape[-1] == 48:
            raise eval(os.environ['FAILURE'])
        return super().forward(x) * self.factor
"""
# Address space beyond what is in use: enough for the small image, too little for the large one.
LIMITED = """
import resource, sys
from pathlib import Path
import cv2, torch
from rsr_basicsr.cli import main
main(sys.argv[1:2] + ['small.png'] + sys.argv[2:])  # loads all that is needed
used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 500 * 2**20, resource.RLIM_INFINITY))
code = main(sys.argv[1:2] + ['large.png', 'small.png'] + sys.argv[2:])
sys.exit(code)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, request):
    """Working directory with three images, the second of 48 pixels, and a network that fails on it."""
    monkeypatch.chdir(tmp_path)
    name = f'failing_{abs(hash(request.node.nodeid))}'
    (tmp_path / f'{name}.py').write_text(MODULE.format(number=name))
    (tmp_path / 'net.yml').write_text(f'network_g: {{type: Failing{name}}}\n')
    torch.save({'params': {'factor': torch.ones(())}}, 'net.pth')
    (tmp_path / 'in').mkdir()
    for index, side in enumerate((32, 48, 40)):
        cv2.imwrite(f'in/{index}.png', np.random.default_rng(index).integers(0, 256, (side, side, 3), dtype=np.uint8))
    return name


def upscale(name):
    words = ['upscale', 'in', '-n', 'net.pth', '-opt', 'net.yml', '--import', name, '-o', 'out', '--report', 'r.json']
    return main(words), [one['error'] for one in json.loads(Path('r.json').read_text())['images']]


@pytest.mark.parametrize(
    'failure',
    [
        "torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 9.00 GiB')",
        "RuntimeError('cuFFT error: CUFFT_ALLOC_FAILED')",
        "RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)')",
        'MemoryError()',
    ],
)
def test_upscaling_goes_on_without_memory(failure, folder, monkeypatch, capsys):
    monkeypatch.setenv('FAILURE', failure)
    code, errors = upscale(folder)
    sentence = 'in/1.png: out of memory on 48x48 pixels; take a smaller tile than 512'
    assert code == 1 and errors == [None, sentence, None]
    assert f'rsr upscale: {sentence}\n' in capsys.readouterr().err


def test_upscaling_stops_at_a_lost_gpu(folder, monkeypatch, capsys):
    monkeypatch.setenv('FAILURE', r"RuntimeError('CUDA error: device-side assert triggered\nCompile with DSA')")
    code, errors = upscale(folder)
    last = capsys.readouterr().err.splitlines()[-1]
    assert code == 1 and errors == [None] and [path.name for path in Path('out').iterdir()] == ['0_out.png']
    assert last == (
        'rsr upscale: the GPU has failed (CUDA error: device-side assert triggered) and cannot be used by this process '
        'any more; run the same command again, what is finished is kept'
    )


class Failing(FrequencyClassifier):
    """A detector that fails on images of 48 pixels."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def clean_probability(self, image):
        if image.shape[-1] == 48:
            raise self.error
        return torch.ones(1)


def test_detection_goes_on_without_memory(folder):
    found = list(detect(['in'], Failing(RuntimeError('cuFFT error: CUFFT_ALLOC_FAILED')), 0.5, 'cpu'))
    assert [type(one) for one in found] == [Detection, ImageError, Detection]
    assert str(found[1]) == 'out of memory on in/1.png, 48x48 pixels; cut it into parts'
    assert found[1].__traceback__ is None and found[1].__context__ is None


def test_detection_stops_at_a_lost_gpu(folder):
    verdicts = detect(['in'], Failing(RuntimeError('CUDA error: unspecified launch failure')), 0.5, 'cpu')
    assert isinstance(next(verdicts), Detection)
    with pytest.raises(DeviceError, match='the GPU has failed'):
        next(verdicts)


@pytest.mark.skipif(sys.platform != 'linux', reason='bounds the address space')
@pytest.mark.parametrize('words', [['upscale', '-o', 'out', '--overwrite'], ['detect']], ids=lambda words: words[0])
def test_real_lack_of_memory(words, tmp_path):
    for name, side in (('large', 5000), ('small', 32)):
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.zeros((side, side, 3), np.uint8))
    run = subprocess.run(
        [sys.executable, '-c', LIMITED, *words], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    errors = [line for line in run.stderr.splitlines() if 'large.png' in line or 'Traceback' in line]
    assert len(errors) == 1 and errors[0].startswith(f'rsr {words[0]}: ') and 'out of memory' in errors[0], run.stderr
    assert run.stdout.count('small.png') == 2 and run.returncode == 1, run.stdout
