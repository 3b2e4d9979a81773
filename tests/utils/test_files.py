"""Files are written whole or not at all, leftovers are removed, and a folder has one writer."""

import os
import resource

import pytest

from rsr_basicsr.utils.errors import OptionsError
from rsr_basicsr.utils.files import read_regular, remove_leftovers, sole_writer, write_whole


@pytest.fixture
def small_disk():
    """No file may become larger than 1000 bytes, as on a disk that is full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_content(small_disk, tmp_path):
    write_whole(tmp_path / 'file', b'old')
    with pytest.raises(OSError, match='File too large'):
        write_whole(tmp_path / 'file', bytes(2000))
    assert os.listdir(tmp_path) == ['file'] and (tmp_path / 'file').read_bytes() == b'old'


def test_long_names_leave_room_for_what_is_appended(tmp_path):
    name = 'x' * 255
    write_whole(tmp_path / name, b'content')
    assert os.listdir(tmp_path) == [name]


def test_leftovers_are_removed_when_they_are_old(tmp_path):
    for name, age in (('.a.png.0123456789ab.part', 7200), ('.b.png.0123456789ab.part', 60), ('.other', 7200)):
        (tmp_path / name).write_bytes(b'')
        os.utime(tmp_path / name, (os.path.getmtime(tmp_path / name) - age,) * 2)
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ['.b.png.0123456789ab.part', '.other']
    remove_leftovers(tmp_path / 'none')


def test_a_folder_has_one_writer(tmp_path, monkeypatch):
    monkeypatch.setattr('rsr_basicsr.utils.files._LOCK_TIMEOUT', 0.1)
    again = sole_writer(tmp_path / 'run')
    with sole_writer(tmp_path / 'run'), pytest.raises(OptionsError, match='still goes on'), again:
        pass
    with sole_writer(tmp_path / 'run'):
        pass


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    for path, kind in ((tmp_path / 'pipe', 'no regular file'), (tmp_path, 'Is a directory')):
        with pytest.raises(OSError, match=kind):
            read_regular(path)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / 'none')
