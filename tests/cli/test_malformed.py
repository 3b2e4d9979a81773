"""Broken and hostile files, given to every command by ``scripts/try_malformed.py``."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / 'scripts' / 'try_malformed.py'


def test_broken_files_end_in_a_sentence_and_leave_nothing():
    run = subprocess.run([sys.executable, str(SCRIPT), '--count', '140', '--seed', '3'], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    assert '140 of 140 broken files' in run.stdout
