"""Folders as they are found: hidden files, links, pipes, formats that are only read, results of earlier runs."""

import os
import socket

import cv2
import numpy as np
import pytest

from rsr_basicsr.cli import main
from rsr_basicsr.inference.listing import find_images, list_images


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Working directory with a folder ``in`` of two images and much else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'in' / 'sub').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ('a.png', 'sub/b.jpg', '.hidden.png'):
        assert cv2.imwrite(f'in/{name}', rng.integers(0, 256, (16, 20, 3), dtype=np.uint8))
    for name in ('.DS_Store', '.a_out.png.0123456789ab.part', 'notes.txt'):
        (tmp_path / 'in' / name).write_bytes(b'x')
    os.symlink('nowhere.png', 'in/broken.png')
    os.symlink('loop.png', 'in/loop.png')
    os.symlink('..', 'in/sub/up')
    os.mkfifo('in/pipe.png')
    with socket.socket(socket.AF_UNIX) as held:
        held.bind('in/socket.png')
        yield tmp_path / 'in'


def test_images_are_listed_and_the_rest_is_named(folder):
    listing = list_images(['in'])
    assert listing.images == find_images(['in']) == ['in/a.png', 'in/sub/b.jpg']
    reasons = dict(listing.skipped)
    assert reasons == {
        'in/broken.png': 'broken link',
        'in/loop.png': 'broken link',
        'in/pipe.png': 'no regular file',
        'in/socket.png': 'no regular file',
        'in/notes.txt': 'no image',
    }
    assert all(f'{path} ({reason})' in listing.remark for path, reason in listing.skipped)


@pytest.mark.parametrize('command', [['upscale', '-n', 'defended-general-x4v3'], ['detect']])
def test_commands_name_what_they_skip(folder, command, capsys):
    assert main([command[0], 'in', *command[1:]]) == 0
    assert 'skipped in/broken.png (broken link)' in capsys.readouterr().err


@pytest.mark.parametrize(
    'output, results', [('in', ['in/a_out.png', 'in/sub/b_out.jpg']), ('in/out', ['in/out/a_out.png'])]
)
def test_results_inside_the_folder_are_not_upscaled_again(folder, output, results, capsys):
    for upscaled, skipped in ((2, 0), (0, 2)):
        assert main(['upscale', 'in', '-n', 'defended-general-x4v3', '-o', output]) == 0
        out = capsys.readouterr().out
        assert f'{upscaled} of 2 images upscaled' in out and (f'{skipped} were there already' in out) == bool(skipped)
        assert all(os.path.isfile(path) for path in results)


def test_formats_that_are_only_read_become_png(folder, capsys):
    image = cv2.imread('in/a.png')
    for name in ('photo.gif', 'photo.jfif'):
        (folder / name).write_bytes(cv2.imencode('.gif' if 'gif' in name else '.jpg', image)[1].tobytes())
    assert main(['upscale', 'in', '-n', 'defended-general-x4v3', '-o', 'out']) == 0
    assert {'photo_out.png', 'photo_out.jfif'} <= set(os.listdir('out'))


def test_one_image_too_large_for_its_format_does_not_stop_the_others(folder, capsys):
    assert cv2.imwrite('in/strip.webp', np.zeros((2, 4100, 3), np.uint8))
    assert main(['upscale', 'in', '-n', 'defended-general-x4v3', '-o', 'out']) == 1
    captured = capsys.readouterr()
    assert '2 of 3 images upscaled' in captured.out
    assert 'the output is 16400x8, and WEBP holds at most 16383 pixels per side; write PNG' in captured.err


def test_empty_result_is_not_there_already(folder, capsys):
    os.makedirs('out')
    (folder.parent / 'out' / 'a_out.png').touch()
    assert main(['upscale', 'in/a.png', '-n', 'defended-general-x4v3', '-o', 'out']) == 0
    assert cv2.imread('out/a_out.png').shape == (64, 80, 3)


@pytest.mark.parametrize('suffix', ['a/b', '..\\x'])
def test_suffix_is_no_folder(folder, suffix, capsys):
    assert main(['upscale', 'in', '-n', 'defended-general-x4v3', '--suffix', suffix]) == 2
    assert 'expected a part of a file name' in capsys.readouterr().err


@pytest.mark.parametrize('words', [['x' * 300], ['in/a.png', '-o', 'x' * 300], ['in/a.png', '--suffix', 'x' * 300]])
def test_names_that_no_file_can_have(folder, words, capsys):
    assert main(['upscale', *words, '-n', 'defended-general-x4v3']) in (1, 2)
    err = capsys.readouterr().err
    assert 'no such file' in err or 'File name too long' in err
