"""Random streams are stored with a checkpoint and restored."""

import random

import numpy as np
import torch

from rsr_basicsr.ops.random_streams import random_state, set_random_state


def test_random_streams_are_restored(tmp_path):
    torch.save(random_state(), tmp_path / 'state')
    state = torch.load(tmp_path / 'state', weights_only=True)

    def draw():
        return random.random(), np.random.rand(), np.random.randn(), torch.rand(1).item()

    first = draw()
    set_random_state(state)
    assert draw() == first
