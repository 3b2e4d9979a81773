"""Fixtures of the tests of options."""

import pytest
from training_files import TRAIN

from helpers import read, shrink


@pytest.fixture
def opt(photos):
    """Small options, as BasicSR's parser delivers them."""
    opt = shrink(read(TRAIN), photos)
    opt.update(is_train=True, dist=False)
    return opt
