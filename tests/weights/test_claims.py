"""Weight files of strangers: what they claim costs no more than their size, and only plain numbers are taken."""

import resource
import zipfile

import pytest
import torch

from rsr_basicsr.cli import main
from rsr_basicsr.inference.recognition import open_network
from rsr_basicsr.utils.errors import WeightsError
from rsr_basicsr.weights.state_dict import load_state

ROOM = 2**31  # bytes that a test may take beyond what it has: a file that is believed takes far more


@pytest.fixture
def bounded():
    """Bounds the memory of the process, so that a test fails instead of the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open('/proc/self/statm', encoding='ascii') as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def compact(**changes):
    """The tensors of a small SRVGGNetCompact x4, some of them changed."""
    state = {}
    for number, (out, inside) in enumerate(((8, 3), (8, 8), (48, 8))):
        state[f'body.{2 * number}.weight'] = torch.rand(out, inside, 3, 3)
        state[f'body.{2 * number}.bias'] = torch.rand(out)
        if number < 2:
            state[f'body.{2 * number + 1}.weight'] = torch.rand(8)
    return {**state, **changes}


UNUSABLE = {
    'sparse': (lambda: torch.eye(8).to_sparse(), 'a sparse tensor'),
    'compressed': (lambda: torch.eye(8).to_sparse_csr(), 'a sparse tensor'),
    'quantized': (lambda: torch.quantize_per_tensor(torch.rand(8), 0.1, 0, torch.qint8), 'quantized numbers'),
    'float8': (lambda: torch.rand(8).to(torch.float8_e4m3fn), 'float8_e4m3fn'),
    'complex': (lambda: torch.rand(8, dtype=torch.complex64), 'complex64'),
    'meta': (lambda: torch.empty(10**6, 10**6, device='meta'), 'a shape without numbers'),
    'expanded': (lambda: torch.rand(1).expand(10**7, 10**6), 'claims more numbers than it holds'),
}


@pytest.mark.parametrize('kind', UNUSABLE)
def test_tensors_that_are_not_plain_numbers(kind, bounded, tmp_path, capsys):
    make, reason = UNUSABLE[kind]
    torch.save({'params': compact(**{'body.0.bias': make()})}, tmp_path / 'net.pth')
    with pytest.raises(WeightsError, match=reason):
        load_state(tmp_path / 'net.pth')
    assert main(['upscale', 'a.png', '-n', str(tmp_path / 'net.pth')]) in (1, 2)


@pytest.mark.parametrize(
    'key', ['body.300000.rdb1.conv1.weight', 'body.999999999999999999999999.weight', f'body.{"9" * 5000}.bias']
)
def test_names_count_no_further_than_tensors(key, bounded, tmp_path):
    torch.save({'params': compact(**{key: torch.rand(1)})}, tmp_path / 'net.pth')
    with pytest.raises(WeightsError, match='tensors, but numbers one body'):
        open_network(str(tmp_path / 'net.pth'))


@pytest.mark.parametrize('wide', ['conv_first.weight', 'body.0.weight'])
def test_network_far_larger_than_its_tensors(wide, bounded, tmp_path):
    # A long thin tensor of a few megabytes, from which a width of hundreds of thousands follows.
    state = (
        compact()
        if wide.startswith('body')
        else {
            'conv_first.weight': torch.rand(64, 3, 3, 3),
            'conv_last.weight': torch.rand(3, 64, 3, 3),
            'body.0.rdb1.conv1.weight': torch.rand(32, 64, 3, 3),
        }
    )
    state[wide] = torch.rand(300_000, 3, 1, 1)
    torch.save({'params': state}, tmp_path / 'net.pth')
    with pytest.raises(WeightsError):
        open_network(str(tmp_path / 'net.pth'))


def test_archive_that_unpacks_to_far_more(bounded, tmp_path):
    torch.save({'params': {'a': torch.zeros(2**26)}}, tmp_path / 'whole.pth')
    with (
        zipfile.ZipFile(tmp_path / 'whole.pth') as source,
        zipfile.ZipFile(tmp_path / 'net.pth', 'w', zipfile.ZIP_DEFLATED) as target,
    ):
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry.filename))
    assert (tmp_path / 'net.pth').stat().st_size < 10**6
    with pytest.raises(WeightsError, match='would unpack to'):
        load_state(tmp_path / 'net.pth')


def test_tensors_that_share_numbers_are_taken(tmp_path):
    shared = torch.rand(8, 8)
    torch.save({'params': {'a': shared, 'b': shared.t(), 'c': torch.rand(1).expand(64)}}, tmp_path / 'net.pth')
    assert load_state(tmp_path / 'net.pth')['b'].shape == (8, 8)


def test_pipe_and_device_are_not_read(tmp_path):
    (tmp_path / 'zero.pth').symlink_to('/dev/zero')
    with pytest.raises(WeightsError, match='no regular file'):
        load_state(tmp_path / 'zero.pth')
