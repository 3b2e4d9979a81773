"""Fixtures for tests of training: a model with a batch in it."""

import pytest
import torch

from helpers import paired_options
from rsr_basicsr.models import DefendedSRModel


@pytest.fixture
def model(pairs, photos):
    """A DefendedSRModel with a batch of four in it."""
    opt = paired_options(pairs, photos=photos)
    opt.update(is_train=True, dist=False, rank=0, world_size=1)
    opt['path'].update(models='', training_states='')
    model = DefendedSRModel(opt)
    model.feed_data({'lq': torch.rand(4, 3, 16, 16).mul(255).round() / 255, 'gt': torch.rand(4, 3, 64, 64)})
    return model
