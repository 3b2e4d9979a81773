"""Fixtures for all tests. rsr_basicsr is imported first, so that basicsr imports on new torchvision."""

import rsr_basicsr  # noqa: F401  isort: skip

import logging
from pathlib import Path

import cv2
import pytest
import torch
from skimage import data
from torch import nn

from rsr_basicsr.catalog.weights import WEIGHTS
from rsr_basicsr.data import write_evaluation_pairs, write_training_photos
from rsr_basicsr.utils.errors import WeightsError
from rsr_basicsr.weights.official import fetch
from rsr_basicsr.weights.state_dict import load_network


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _open_streams() -> None:
    # BasicSR's log keeps the stream of the test that opened it. pytest has closed that since, and each line would be
    # an error of its own.
    log = logging.getLogger('basicsr')
    for handler in [handler for handler in log.handlers if getattr(getattr(handler, 'stream', None), 'closed', False)]:
        log.removeHandler(handler)


@pytest.fixture(scope='session')
def real_weights() -> Path:
    """Path of the official weights realesr-animevideov3."""
    try:
        return fetch('realesr-animevideov3')
    except WeightsError as error:
        pytest.skip(f'real weights cannot be fetched here: {error}')


@pytest.fixture(scope='session')
def real_network(real_weights: Path) -> nn.Module:
    """realesr-animevideov3 as released, x4, in evaluation mode."""
    return load_network({**WEIGHTS['realesr-animevideov3'].network, 'weights': real_weights})


@pytest.fixture(scope='session')
def photo() -> torch.Tensor:
    """A photo reduced to 64x64, rounded to 8 bits; (1, 3, 64, 64) in [0, 1]."""
    reduced = cv2.resize(data.astronaut()[:256, 100:356], (64, 64), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(reduced).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope='session')
def shared() -> Path:
    """Folder of data and weights outside the package; it may be missing."""
    return Path(__file__).parents[2] / 'shared'


@pytest.fixture(scope='session')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of training photos, with pairs of the evaluation photos in ``gt`` and ``lq``."""
    folder = tmp_path_factory.mktemp('photos')
    write_training_photos(folder)
    names = write_evaluation_pairs(folder / 'gt', folder / 'lq', gt_size=64)
    (folder / 'pairs.txt').write_text(''.join(f'{name}.png, {name}.png\n' for name in names))
    return folder


@pytest.fixture(scope='session')
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of five pairs, 64x64 in ``gt`` and 16x16 in ``lq``."""
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
