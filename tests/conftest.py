"""What every test shares. The package comes first: it makes ``import basicsr`` possible on new torchvision."""

import rsr_basicsr  # noqa: F401  isort: skip

from pathlib import Path

import cv2
import pytest
import torch
from skimage import data

from rsr_basicsr.data import write_evaluation_pairs, write_training_photos
from rsr_basicsr.utils.errors import WeightsError
from rsr_basicsr.weights.official import WEIGHTS, fetch
from rsr_basicsr.weights.state_dict import load_network


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
    return load_network({**WEIGHTS['realesr-animevideov3'].network, 'weights': real_weights})


@pytest.fixture(scope='session')
def photo():
    """A photo reduced to 64x64, 8 bit, as (1, 3, 64, 64) in [0, 1]."""
    reduced = cv2.resize(data.astronaut()[:256, 100:356], (64, 64), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(reduced).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope='session')
def shared():
    """Folder of data and weights that are no part of the package; it need not be there."""
    return Path(__file__).parents[2] / 'shared'


@pytest.fixture(scope='session')
def photos(tmp_path_factory):
    """Folder of photos to train on, with pairs of the evaluation photos inside."""
    folder = tmp_path_factory.mktemp('photos')
    write_training_photos(folder)
    names = write_evaluation_pairs(folder / 'gt', folder / 'lq', gt_size=64)
    (folder / 'pairs.txt').write_text(''.join(f'{name}.png, {name}.png\n' for name in names))
    return folder


@pytest.fixture(scope='session')
def pairs(tmp_path_factory):
    """Folder of five pairs, ``gt`` 64x64 and ``lq`` 16x16."""
    folder = tmp_path_factory.mktemp('pairs')
    write_evaluation_pairs(folder / 'gt', folder / 'lq', gt_size=64)
    return folder


def pytest_addoption(parser):
    parser.addoption('--device', default='cpu', help='of the tests that make sense on a GPU: cpu, cuda, mps')


@pytest.fixture(scope='session')
def device(request):
    """The device of ``--device``, cpu by default."""
    name = request.config.getoption('--device')
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        pytest.skip(f'--device {name}: {str(error).splitlines()[0]}')
    return torch.device(name)
