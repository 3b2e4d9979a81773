"""Training images that cannot be read: named, and skipped where the options say so, with and without loader workers."""

import shutil

import pytest
from basicsr.utils import logger as basicsr_logger

from helpers import paired_options, run_command, write
from rsr_basicsr.cli import main
from rsr_basicsr.data.sound_images import SoundImages
from rsr_basicsr.utils.errors import ImageError


@pytest.fixture
def damaged(pairs, tmp_path):
    """Copy of the pairs, in which one low-resolution image is cut short."""
    shutil.copytree(pairs, tmp_path / 'pairs')
    path = sorted((tmp_path / 'pairs' / 'lq').iterdir())[2]
    path.write_bytes(path.read_bytes()[:40])
    return tmp_path / 'pairs', path


def options_file(pairs, folder, workers, **dataset):
    opt = paired_options(pairs, iterations=4)
    opt['datasets']['train'].update(num_worker_per_gpu=workers, **dataset)
    opt.pop('attack')
    opt['model_type'], opt['network_g'] = (
        'SRModel',
        {'type': 'SRVGGNetCompact', 'num_feat': 8, 'num_conv': 2, 'upscale': 4},
    )
    return str(write(opt, folder / 'options.yml'))


@pytest.mark.parametrize('workers', [0, 1])
def test_training_ends_with_the_name_of_a_broken_image(workers, damaged, tmp_path):
    folder, broken = damaged
    done = run_command(tmp_path, 'rsr_basicsr.cli', 'train', '-opt', options_file(folder, tmp_path, workers))
    assert done.returncode == 1, done.stdout[-2000:]
    # OpenCV's workers may warn behind it.
    last = [line for line in done.stdout.splitlines() if line.startswith('rsr train: ')][-1]
    assert f'{broken} cannot be read as a training image' in last and 'broken_images: skip' in last
    assert 'Traceback' not in done.stdout


def test_training_goes_on_without_a_broken_image(damaged, tmp_path, monkeypatch):
    folder, broken = damaged
    basicsr_logger.initialized_logger.clear()
    monkeypatch.chdir(tmp_path)
    assert main(['train', '-opt', options_file(folder, tmp_path, 0, broken_images='skip')]) == 0
    (log,) = (tmp_path / 'experiments' / 'paired').glob('train_paired_*.log')
    named = [line for line in log.read_text().splitlines() if str(broken) in line]
    assert len(named) == 1 and 'the next one is taken' in named[0]


def test_value_is_checked(damaged, tmp_path, capsys):
    assert main(['check', options_file(damaged[0], tmp_path, 0, broken_images='ignore')]) == 2
    assert "broken_images: expected one of stop, skip, got 'ignore'" in capsys.readouterr().out


def test_check_decodes_all_images(pairs, tmp_path, capsys):
    # Whole by its end, broken in its middle: only decoding finds it.
    shutil.copytree(pairs, tmp_path / 'pairs')
    path = sorted((tmp_path / 'pairs' / 'gt').iterdir())[3]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    file = options_file(tmp_path / 'pairs', tmp_path, 0)
    found = [
        path.name in capsys.readouterr().out
        for words in (['--decode', '1'], ['--all-images'])
        if main(['check', file, *words]) + 1
    ]
    assert found == [False, True]


def test_item_after_the_last_one_is_the_first():
    class Odd(list):
        def __getitem__(self, index):
            if index % 2:
                raise ValueError('odd')
            return index

    taken = SoundImages(Odd(range(4)), 'skip')
    assert [taken[index] for index in range(4)] == [0, 2, 2, 0]
    with pytest.raises(ImageError, match='none of the 1 training images can be read'):
        SoundImages(type('None_', (Odd,), {'__getitem__': lambda self, index: 1 / 0})([1]), 'skip')[0]
