"""The quick start from end to end, with a training of ten iterations."""

import re
import subprocess
import sys

import pytest

from rsr_basicsr import quickstart
from rsr_basicsr.quickstart import DEFENDED, UNDEFENDED

SHORTER = """
import sys
from rsr_basicsr import quickstart
from rsr_basicsr.data import sample_photos
quickstart.EPS = (8,)
for name in list(sample_photos.EVALUATION)[2:]:
    del sample_photos.EVALUATION[name]
sys.exit(quickstart.main())
"""


def test_the_whole_way(real_weights, tmp_path):
    # One attack instead of three and two images instead of five, which take most of its time.
    (tmp_path / 'shorter.py').write_text(SHORTER)
    run = subprocess.run(
        [sys.executable, 'shorter.py', '-o', str(tmp_path / 'out'), '--iterations', '10'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert [line[:5] for line in run.stdout.splitlines() if line.startswith('[')] == [f'[{i}/5]' for i in range(1, 6)]
    assert 'iteration 10 of 10' in run.stdout
    page = (tmp_path / 'out' / 'report.html').read_text(encoding='utf-8')
    rows = [line for line in run.stdout.splitlines() if re.match(r'(un)?defended +\d', line)]
    assert len(rows) == 2
    numbers = re.findall(r'\d\d\.\d\d\b', ' '.join(rows))  # PSNR, clean and attacked
    assert len(numbers) == 4 and all(number in page for number in numbers)
    assert UNDEFENDED in page and DEFENDED in page


def test_failure_of_the_training_is_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['quickstart', '-o', str(tmp_path), '--iterations', '1'])
    monkeypatch.setattr(quickstart, 'TRAINING_OPTIONS', tmp_path / 'options.yml')
    (tmp_path / 'options.yml').write_text('train: {total_iter: 1}\nname: x\n')
    assert quickstart.main() == 1
    error = capsys.readouterr().err
    assert 'the training ended with exit code 2' in error and "the key 'model_type' is missing" in error


@pytest.mark.parametrize(
    'arguments, message', [(['-o', __file__], 'cannot be made'), (['--iterations', '0'], 'at least one is needed')]
)
def test_wrong_arguments(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['quickstart', *arguments])
    assert quickstart.main() == 2
    assert message in capsys.readouterr().err
