"""docs/compatibility.md: two networks that BasicSR does not have go through every command; the page has all of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from basicsr.utils.registry import ARCH_REGISTRY

import rsr_basicsr  # noqa: F401

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / 'scripts' / 'try_networks.py'
PAGE = ROOT / 'docs' / 'compatibility.md'


def rows(page: str) -> dict[str, list[str]]:
    """The cells of each network's row, by its name."""
    lines = [line.strip('| ').split(' | ') for line in page.splitlines() if line.startswith('| `')]
    return {name.strip('`'): cells for name, _, *cells in lines}


@pytest.mark.parametrize('name', ['HAT', 'SPAN'])  # windows and tokens; convolutions that fold in evaluation
def test_network_of_spandrel_through_every_command(name, tmp_path):
    pytest.importorskip('spandrel')
    page = tmp_path / 'page.md'
    command = [sys.executable, str(SCRIPT), '--only', name, '--no-systems', '--jobs', '1', '-o', str(page)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert rows(page.read_text(encoding='utf-8')) == {name: ['yes'] * 7}


def test_page_has_every_defended_network_of_basicsr():
    found = rows(PAGE.read_text(encoding='utf-8'))
    names = {name for name, cls in ARCH_REGISTRY if f'Defended{name}' in ARCH_REGISTRY}
    assert names and {name for name in names if of_basicsr_or_ours(name)} <= found.keys()
    assert all(cells == ['yes'] * 7 for cells in found.values())


def of_basicsr_or_ours(name: str) -> bool:
    """Whether a network is not one that another test has registered."""
    return ARCH_REGISTRY.get(name).__module__.split('.')[0] in ('basicsr', 'rsr_basicsr')
