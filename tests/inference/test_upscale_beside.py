"""Images that are read and written while others are computed: the same results as in turn, and bounded memory."""

import dataclasses
import errno
import gc
import json
import signal
import subprocess
import sys
import threading
import time
import weakref

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs import build_network

from helpers import SMALL_NETWORKS
from rsr_basicsr.archs import Interpolation
from rsr_basicsr.inference import batch, beside, image_io
from rsr_basicsr.inference.batch import Naming, find_files, upscale_files
from rsr_basicsr.inference.image_io import read_image, write_image
from rsr_basicsr.inference.upscaler import Upscaler
from rsr_basicsr.utils.errors import ImageError
from rsr_basicsr.utils.files import write_whole


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Working directory with a folder ``in`` of eight images, one of them damaged."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'in').mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        assert cv2.imwrite(f'in/{number}.png', rng.integers(0, 256, (16, 20, 3), dtype=np.uint8))
    (tmp_path / 'in' / '3.png').write_bytes(b'no image')
    return tmp_path


@pytest.fixture
def slow_writes(monkeypatch):
    """The first results take longest to write, so that later ones are finished before."""
    started = iter(range(100))

    def slow(path, image):
        time.sleep(0.3 / (1 + next(started)))
        return write_image(path, image)

    monkeypatch.setattr(batch, 'write_image', slow)


def upscaled(names, folder='out', ahead=beside.AHEAD, upscaler=None, **naming):
    """The results for files by their names."""
    upscaler = upscaler or Upscaler(Interpolation(scale=2), device='cpu')
    naming = Naming(folder=batch.Path(folder), **naming)
    return list(upscale_files(find_files(names, naming).files, upscaler, naming, ahead))


def without_time(results, folder):
    plain = [dataclasses.asdict(dataclasses.replace(one, seconds=None)) for one in results]
    return json.loads(json.dumps(plain).replace(f'{folder}/', ''))


def test_reference_in_turn(files, slow_writes):
    options = {**SMALL_NETWORKS['SRVGGNetCompact'], 'type': 'DefendedSRVGGNetCompact', 'defense': {'gate': 'always'}}
    net = build_network(options)

    def run(folder, ahead):
        results = upscaled(['in'], folder, ahead, Upscaler(net, device='cpu', seed=3))
        content = {path.name: path.read_bytes() for path in (files / folder).iterdir()}
        return without_time(results, folder), content

    in_turn, at_once = run('turn', 0), run('beside', 4)
    assert at_once == in_turn and len(in_turn[1]) == 7
    assert [result['file'] for result in at_once[0]] == [f'in/{number}.png' for number in range(8)]
    assert [result['error'] is not None for result in at_once[0]] == [number == 3 for number in range(8)]


def test_error_of_writing_belongs_to_its_file(files, monkeypatch):
    def full(path, content):
        if path.name in ('0_out.png', '5_out.png'):
            time.sleep(0.1)
            raise OSError(errno.ENOSPC, 'No space left on device')
        write_whole(path, content)

    monkeypatch.setattr(image_io, 'write_whole', full)
    errors = [one.error for one in upscaled(['in'])]
    assert [error is not None for error in errors] == [True, False, False, True, False, True, False, False]
    assert errors[5] == 'in/5.png: out/5_out.png cannot be written: No space left on device'


@pytest.mark.parametrize('overwrite', [True, False])
def test_same_output_is_refused_while_being_written(overwrite, files, slow_writes):
    (files / 'other').mkdir()
    (files / 'in' / '0.png').rename(files / 'other' / '1.png')
    first, second = upscaled(['in/1.png', 'other/1.png'], overwrite=overwrite)
    assert first.error is None and 'would overwrite that of another image, out/1_out.png' in second.error
    expected = Upscaler(Interpolation(scale=2), device='cpu')(read_image('in/1.png'))[0]
    found = read_image('out/1_out.png').rgb
    assert torch.equal(found, (expected.rgb * 255).round() / 255)


def test_output_is_free_when_writing_it_failed(files, monkeypatch):
    def failing_once(path, image):
        monkeypatch.setattr(batch, 'write_image', write_image)
        time.sleep(0.2)
        raise ImageError(f'{path} cannot be written: No space left on device')

    (files / 'other').mkdir()
    (files / 'in' / '0.png').rename(files / 'other' / '1.png')
    monkeypatch.setattr(batch, 'write_image', failing_once)
    first, second = upscaled(['in/1.png', 'other/1.png'])
    assert 'No space left' in first.error and second.error is None


def test_names_that_differ_in_case_wait(files, slow_writes, monkeypatch):
    (files / 'in' / '1.png').rename(files / 'in' / 'Name.png')
    (files / 'in' / '2.png').rename(files / 'in' / 'name.png')
    seen = []
    check_free = batch._check_free
    monkeypatch.setattr(
        batch, '_check_free', lambda path, *more: seen.append(sorted(files.glob('out/*'))) or check_free(path, *more)
    )
    assert [one.error for one in upscaled(['in/Name.png', 'in/name.png'])] == [None, None]
    assert seen == [[], [files / 'out' / 'Name_out.png']]


def test_skipped_files_are_read_once(files, monkeypatch):
    upscaled(['in'])
    count = []
    monkeypatch.setattr(beside, 'read_image', lambda file: count.append(file) or read_image(file))
    results = upscaled(['in'])
    assert sum(one.skipped for one in results) == 7 and len(count) == len(set(count)) == 8


@pytest.mark.parametrize('ahead', [0, 1, 2])
def test_images_in_memory_are_bounded(ahead, files, monkeypatch):
    (files / 'in' / '3.png').unlink()
    inputs, outputs, most = [], [], [0, 0]
    lock = threading.Lock()

    def count(images, new=None):
        with lock:
            images += [] if new is None else [weakref.ref(new)]
            gc.collect()
            for index, known in enumerate((inputs, outputs)):
                most[index] = max(most[index], sum(one() is not None for one in known))
        return new

    monkeypatch.setattr(beside, 'read_image', lambda file: count(inputs, read_image(file)))
    monkeypatch.setattr(batch, 'write_image', lambda *words: (time.sleep(0.1), write_image(*words))[1])
    upscale = Upscaler.__call__

    def counted(self, image):
        result, verdict = upscale(self, image)
        return count(outputs, result), verdict

    monkeypatch.setattr(Upscaler, '__call__', counted)
    assert len(upscaled(['in'], ahead=ahead)) == 7
    assert most[0] <= 1 + bool(ahead) and most[1] <= 1 + ahead


def test_large_results_are_written_before_the_next(files, monkeypatch):
    monkeypatch.setattr(beside, 'PENDING_PIXELS', 32 * 40 * 2)  # of two results
    writing, most = set(), []

    def slow(path, image):
        writing.add(path)
        most.append(len(writing))
        time.sleep(0.05)
        writing.remove(path)
        return write_image(path, image)

    monkeypatch.setattr(batch, 'write_image', slow)
    assert len(upscaled(['in'], ahead=4)) == 8
    assert max(most) <= 3  # the two, and the one that is added


def test_interrupt_yields_what_is_written(files, slow_writes):
    class Interrupted(Interpolation):
        passes = 0

        def forward(self, x):
            self.passes += 1
            if self.passes == 6:  # 3.png is damaged
                raise KeyboardInterrupt
            return super().forward(x)

    naming, results = Naming(files / 'out'), []
    with pytest.raises(KeyboardInterrupt):
        results.extend(
            upscale_files(find_files(['in'], naming).files, Upscaler(Interrupted(scale=2), device='cpu'), naming)
        )
    assert [one.file for one in results] == [f'in/{number}.png' for number in range(6)]
    assert {path.name for path in (files / 'out').iterdir()} == {f'{number}_out.png' for number in (0, 1, 2, 4, 5)}


# A shell lets what it starts in the background ignore SIGINT, and with it all that these tests start.
INTERRUPTIBLE = (
    'import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n'
    'from rsr_basicsr.cli import main\nsys.exit(main(sys.argv[1:]))'
)


@pytest.mark.skipif(sys.platform == 'win32', reason='sends SIGINT')
def test_command_that_is_interrupted(files):
    (files / 'slow.py').write_text(
        'import time, torch\n'
        'from basicsr.utils.registry import ARCH_REGISTRY\n'
        'from rsr_basicsr.archs import Interpolation\n'
        '@ARCH_REGISTRY.register()\n'
        'class Slow(Interpolation):\n'
        '    def __init__(self):\n'
        '        super().__init__(scale=2)\n'
        '        self.factor = torch.nn.Parameter(torch.ones(()))\n'
        '    def forward(self, x):\n'
        '        time.sleep(0.3)\n'
        '        return super().forward(x) * self.factor\n'
    )
    torch.save({'params': {'factor': torch.ones(())}}, files / 'net.pth')
    (files / 'net.yml').write_text('network_g: {type: Slow}\n')
    words = ['upscale', 'in', '-n', 'net.pth', '-opt', 'net.yml', '--import', 'slow', '-o', 'out', '--report', 'r.json']
    with subprocess.Popen(
        [sys.executable, '-c', INTERRUPTIBLE, *words],
        stderr=subprocess.PIPE,
        text=True,
        stdout=subprocess.DEVNULL,
    ) as process:
        deadline = time.time() + 120
        while not (files / 'out' / '1_out.png').is_file() and process.poll() is None and time.time() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and error.strip().endswith('rsr upscale: interrupted'), error
    outputs = sorted((files / 'out').iterdir())
    assert 2 <= len(outputs) < 7 and all(cv2.imread(str(path)) is not None for path in outputs)
    report = json.loads((files / 'r.json').read_text())['images']
    assert sorted(one['output'] for one in report if one['output']) == [f'out/{path.name}' for path in outputs]
