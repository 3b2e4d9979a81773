"""The quick start from end to end, with a training of ten iterations."""

import re
import subprocess
import sys

import pytest
import yaml

from rsr_basicsr import quickstart
from rsr_basicsr.quickstart import ADVERSARIAL, DEFENDED, FINE_TUNED, RELEASED

SHORTER = """
import sys
from rsr_basicsr import quickstart
from rsr_basicsr.data import sample_photos
quickstart.EPS, quickstart.ATTACK_STEPS = (8,), 2
for name in list(sample_photos.EVALUATION)[1:]:
    del sample_photos.EVALUATION[name]
sys.exit(quickstart.main())
"""


def test_the_whole_way(real_weights, tmp_path):
    # Two steps instead of ten and one image instead of five, which take most of its time.
    (tmp_path / 'shorter.py').write_text(SHORTER)
    run = subprocess.run(
        [sys.executable, 'shorter.py', '-o', str(tmp_path / 'out'), '--iterations', '10'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert [line[:5] for line in run.stdout.splitlines() if line.startswith('[')] == [f'[{i}/5]' for i in range(1, 6)]
    assert run.stdout.count('iteration 10, done after') == 3
    page = (tmp_path / 'out' / 'report.html').read_text(encoding='utf-8')
    table = {line.split('  ')[0]: line for line in run.stdout.splitlines()}
    assert all(name in table and name in page for name in (RELEASED, FINE_TUNED, ADVERSARIAL, DEFENDED))
    assert re.search(r'\d\d\.\d\d? .*×\d', run.stdout)  # stability with its gain
    assert re.search(r'(The change of training data gave [+-]\d|not comparable)', run.stdout)


def test_three_trainings_differ_in_the_defence_only():
    options = yaml.safe_load(quickstart.TRAINING_OPTIONS.read_text())
    trainings = quickstart.three_ways(options)
    plain, adversarial, defended = (trainings[name] for name in (FINE_TUNED, ADVERSARIAL, DEFENDED))
    assert defended == {**options, 'name': DEFENDED} and 'attack' not in plain
    assert plain['model_type'] == 'RealESRNetModel' and plain['network_g']['type'] == 'SRVGGNetCompact'
    assert adversarial['attack'] == {**options['attack'], 'masked': 0}
    assert adversarial['network_g']['defense']['gate'] == 'never'
    assert plain['datasets'] == adversarial['datasets'] == options['datasets']


def test_failure_of_the_training_is_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['quickstart', '-o', str(tmp_path), '--iterations', '1'])
    monkeypatch.setattr(quickstart, 'three_ways', lambda options: {DEFENDED: {'train': {'total_iter': 1}, 'name': 'x'}})
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


def test_progress_of_a_training_that_has_not_begun(tmp_path):
    assert quickstart._progress(tmp_path, 'adversarial') == 'starting'
    (tmp_path / 'train_adversarial.log').write_text('[train..][epoch:  0, iter:      40, lr:(1e-04,)]\n')
    assert quickstart._progress(tmp_path, 'adversarial') == 'iteration 40'
