"""What every test shares. The package comes first: it makes ``import basicsr`` possible on new torchvision."""

import rsr_basicsr  # noqa: F401  isort: skip

import pytest
import torch
from basicsr.archs import build_network

from rsr_basicsr.errors import WeightsError
from rsr_basicsr.weights import WEIGHTS, fetch, load_state


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def real_weights():
    """Path of real Real-ESRGAN weights, realesr-animevideov3."""
    try:
        return fetch('realesr-animevideov3')
    except WeightsError as error:
        pytest.skip(f'real weights cannot be fetched here: {error}')


@pytest.fixture(scope='session')
def real_network(real_weights):
    """realesr-animevideov3 as released, x4, evaluation mode."""
    net = build_network(WEIGHTS['realesr-animevideov3'].network)
    net.load_state_dict(load_state(real_weights))
    return net.eval()
