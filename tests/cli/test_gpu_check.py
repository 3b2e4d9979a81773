"""The checks for a GPU, which run small on a CPU."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / 'scripts' / 'gpu_check.py'


def run(*words):
    return subprocess.run([sys.executable, str(SCRIPT), '--device', 'cpu', *words], capture_output=True, text=True)


def test_checks_run_on_a_cpu():
    checks = ['sync', 'numbers', 'graph', 'upscale', 'estimate', 'validation', 'benchmark', 'train', 'finetune']
    found = run('--only', *checks)
    assert found.returncode == 0 and found.stdout.count('as expected: ') == len(checks), found.stdout + found.stderr


def test_a_check_beyond_the_time_is_named():
    found = run('--only', 'numbers', '--minutes', '0')
    assert found.returncode == 0 and 'numbers: not run, the time is over. As on the CPU' in found.stdout
