"""Commands that are disturbed, by ``scripts/try_faults.py``: a part of its cases, which all run by hand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / 'scripts' / 'try_faults.py'


@pytest.mark.skipif(sys.platform != 'linux', reason='needs Linux')
@pytest.mark.parametrize(
    'command, faults, every', [('upscale', ['kill', 'read-only', 'bit flip'], 1), ('train', ['kill', 'bit flip'], 13)]
)
def test_disturbed_commands_go_on(command, faults, every):
    words = ['--only', command, '--faults', *faults, '--every', str(every)]
    run = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    (row,) = re.findall(rf'^\| `{command}` \|(.*)\|$', run.stdout, re.MULTILINE)
    assert all(re.fullmatch(r'(\d+) of \1', cell.strip()) for cell in row.split('|')), row
