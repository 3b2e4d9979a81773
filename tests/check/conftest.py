"""Fixtures of the tests of ``rsr check``."""

import shutil

import pytest
from training_files import GENERAL, in_order

from helpers import read, shrink


@pytest.fixture
def opt(photos):
    """A small training that is in order, with a validation."""
    return in_order(shrink(read(GENERAL), photos))


@pytest.fixture
def folder(pairs, tmp_path):
    """Pairs of one's own, to be broken."""
    for kind in ('gt', 'lq'):
        shutil.copytree(pairs / kind, tmp_path / 'pairs' / kind)
    return tmp_path / 'pairs'
