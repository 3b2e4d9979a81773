"""What other systems do differently, as far as it can be had here: Windows' files, spawned workers, other locales."""

import fcntl
import os
import shutil
import subprocess
import sys
import zipapp

import cv2
import numpy as np
import pytest
import yaml
from basicsr.data.paired_image_dataset import PairedImageDataset

from helpers import paired_options, train
from rsr_basicsr.cli import main
from rsr_basicsr.data.clean_images import read_photo
from rsr_basicsr.inference.listing import find_images
from rsr_basicsr.options.parsing import Block, parse_block
from rsr_basicsr.options.types import PlainName
from rsr_basicsr.utils.errors import OptionsError

SPAWN = 'import multiprocessing\n\nmultiprocessing.set_start_method("spawn", force=True)\n'
MAIN = 'import sys\nfrom rsr_basicsr.cli import main\n\nif __name__ == "__main__":\n    sys.exit(main())\n'
PLAIN_C = {'LC_ALL': 'C', 'LANG': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}


@pytest.fixture
def as_on_windows(monkeypatch):
    """Folders cannot be opened, and only descriptors that may write can be flushed."""
    opened, fsync, flushed = os.open, os.fsync, []

    def open_file(path, flags, *args, **kwargs):
        if os.path.isdir(path):
            raise PermissionError(13, 'Permission denied', path)
        return opened(path, flags, *args, **kwargs)

    def fsync_file(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, 'Bad file descriptor')
        flushed.append(descriptor)
        return fsync(descriptor)

    monkeypatch.setattr(os, 'open', open_file)
    monkeypatch.setattr(os, 'fsync', fsync_file)
    monkeypatch.setattr(shutil, '_use_fd_functions', False)  # which open folders, and which Windows does not have
    return flushed


def test_checkpoints_on_windows(as_on_windows, pairs, photos, tmp_path, monkeypatch, caplog):
    folder = train(paired_options(pairs, photos=photos, iterations=2), tmp_path, monkeypatch)
    assert (folder / 'models' / 'net_g_2.pth').is_file() and (folder / 'training_states' / '2.state').is_file()
    assert len(as_on_windows) >= 2 and 'not saved' not in caplog.text and 'Errno' not in caplog.text


def options_file(pairs, photos, folder, workers=0):
    opt = paired_options(pairs, photos=photos, iterations=2)
    opt['datasets']['train']['num_worker_per_gpu'] = workers
    text = f'# 中文, Größe\n{yaml.safe_dump(opt, sort_keys=False)}'
    (folder / 'opt.yml').write_bytes(text.encode())
    return folder / 'opt.yml'


def run(folder, command, **more):
    environment = {**os.environ, **more}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode(errors='replace')[-3000:]
    return done.stdout.decode(errors='replace')


def test_spawned_workers_of_a_program_that_is_no_module(pairs, photos, tmp_path):
    # As rsr.exe on Windows, whose main module the spawned processes do not import.
    for name, file, content in (('app', '__main__.py', MAIN), ('spawn', 'sitecustomize.py', SPAWN)):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(content)
    zipapp.create_archive(tmp_path / 'app', tmp_path / 'rsr.pyz')
    path = options_file(pairs, photos, tmp_path, workers=1)
    root = os.path.dirname(os.path.dirname(__file__))
    run(tmp_path, ['rsr.pyz', 'train', '-opt', path.name], PYTHONPATH=f'{tmp_path / "spawn"}{os.pathsep}{root}')
    assert (tmp_path / 'experiments' / 'paired' / 'models' / 'net_g_latest.pth').is_file()


@pytest.mark.parametrize('command', ['check', 'train'])
def test_options_in_utf8_under_another_locale(command, pairs, photos, tmp_path):
    path = options_file(pairs, photos, tmp_path)
    flag = ['-opt'] if command == 'train' else []
    run(tmp_path, ['-m', 'rsr_basicsr.cli', command, *flag, path.name], **PLAIN_C)
    if command == 'train':
        copied = tmp_path / 'experiments' / 'paired' / 'opt.yml'
        assert '# 中文, Größe' in copied.read_text(encoding='utf-8')


def test_lists_of_images_with_a_byte_order_mark(pairs, tmp_path):
    name = sorted(os.listdir(pairs / 'gt'))[0]
    (tmp_path / 'list.txt').write_bytes(f'\ufeff{name} (64,64,3)\n'.encode())
    opt = {'dataroot_gt': str(pairs / 'gt'), 'dataroot_lq': str(pairs / 'lq'), 'io_backend': {'type': 'disk'}}
    dataset = PairedImageDataset({**opt, 'meta_info_file': str(tmp_path / 'list.txt'), 'phase': 'val', 'scale': 4})
    assert dataset[0]['gt'].shape == (3, 64, 64)


class Named(Block):
    """A block with a name that becomes a folder."""

    name: PlainName


@pytest.mark.parametrize('name', ['aux', 'NUL.yml', 'com1', 'a:b', 'what?', 'dot.', 'space ', '<x>'])
def test_names_that_windows_keeps_for_itself(name, monkeypatch):
    assert parse_block({'name': name}, Named, '')['name'] == name  # elsewhere they are names as any other
    monkeypatch.setattr(sys, 'platform', 'win32')
    with pytest.raises(OptionsError, match='which Windows does not allow; take another name'):
        parse_block({'name': name}, Named, '')
    assert parse_block({'name': f'_{name.strip(". ")}_'.translate({ord(c): '_' for c in ':?<>'})}, Named, '')


@pytest.mark.parametrize('name', ['x' * 300, 'ä' * 150, 'a\0b'])
def test_names_that_no_system_allows(name):
    with pytest.raises(OptionsError, match='since it becomes a folder'):
        parse_block({'name': name}, Named, '')


@pytest.fixture
def two_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('a.png', 'A.jpg'):
        assert cv2.imwrite(name, np.zeros((16, 16, 3), np.uint8))


def test_results_that_differ_in_case_alone(two_images, capsys):
    os.makedirs('out')
    os.symlink('a_out.png', 'out/A_out.png')  # as on a file system that takes both names for one
    assert main(['upscale', 'a.png', 'A.jpg', '-n', 'defended-general-x4v3', '-o', 'out', '--ext', 'png']) == 1
    assert 'overwrite that of another image' in capsys.readouterr().err


def test_result_that_another_program_has_open(two_images, monkeypatch, capsys):
    replace = os.replace

    def refuse(source, target):
        if str(target).endswith('a_out.png'):
            raise PermissionError(13, 'Permission denied', str(source), None, str(target))
        replace(source, target)

    monkeypatch.setattr(os, 'replace', refuse)
    assert main(['upscale', 'a.png', 'A.jpg', '-n', 'defended-general-x4v3', '-o', 'out']) == 1
    captured = capsys.readouterr()
    assert 'out/a_out.png cannot be written: Permission denied' in captured.err
    assert '1 of 2 images upscaled' in captured.out and os.listdir('out') == ['A_out.jpg']  # nothing half is left


@pytest.fixture
def odd_name(tmp_path, monkeypatch):
    """Working directory with a folder that holds one image, both with names that are not in UTF-8."""
    monkeypatch.chdir(tmp_path)
    folder = os.fsdecode(b'photos\xfe')
    os.mkdir(folder)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with open(os.path.join(folder, os.fsdecode(b'\xff.png')), 'wb') as file:
        file.write(cv2.imencode('.png', image)[1].tobytes())
    return folder


def test_names_that_are_not_in_utf8(odd_name, capsys):
    assert main(['upscale', odd_name, '-o', os.fsdecode(b'out\xfd'), '--report', 'report.json']) == 0
    assert os.listdir(b'out\xfd') == [b'\xff_out.png']
    assert main(['detect', odd_name]) == 0
    (path,) = find_images([odd_name])
    assert read_photo(path).shape == (64, 64, 3)  # for which OpenCV's imread ends the process


def test_benchmark_of_names_that_are_not_in_utf8(odd_name, capsys):
    network = {'type': 'Interpolation', 'mode': 'bicubic', 'scale': 4}
    options = {
        'name': 'odd',
        'num_gpu': 0,
        'networks': {'bicubic': network},
        'attacks': {'pgd': {'type': 'PGD', 'steps': 1}},
        'eps': [8],
        'datasets': {'photos': {'type': 'ReducedImageDataset', 'dataroot_gt': odd_name}},
    }
    with open('options.yml', 'w', encoding='ascii') as file:
        yaml.safe_dump(options, file)
    folder = os.fsdecode(b'run\xfd')
    assert main(['benchmark', '-opt', 'options.yml', '-o', folder]) == 0
    with open(os.path.join(folder, 'report.html'), encoding='utf-8') as file:
        assert '\\udcff' in file.read()
    assert main(['leaderboard', os.path.join(folder, 'cards.jsonl'), '-o', 'leaderboard.md']) == 0
