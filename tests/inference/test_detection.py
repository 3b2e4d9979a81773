"""``rsr detect`` on files of all kinds."""

import json
import subprocess
import sys

import cv2
import pytest

from rsr_basicsr.attacks import PGD
from rsr_basicsr.cli import main


def write_image(path, rgb):
    """Write by OpenCV, whose channel order is blue, green, red, alpha."""
    assert cv2.imwrite(str(path), rgb[..., [2, 1, 0, 3][: rgb.shape[2]]] if rgb.ndim == 3 else rgb)
    return path


@pytest.fixture(scope='module')
def files(photo, real_network, tmp_path_factory):
    """Folder with the photo, clean and under PGD on real weights, as PNG files."""
    folder = tmp_path_factory.mktemp('detect')
    attacked = PGD(eps=8, steps=5, quantize='nearest', seed=0)(real_network, photo)
    for name, image in (('clean', photo), ('attacked', attacked)):
        write_image(folder / f'{name}.png', (image[0] * 255).round().byte().permute(1, 2, 0).numpy())
    return folder


def test_exit_codes_and_json(files, capsys):
    assert main(['detect', str(files / 'clean.png')]) == 0
    assert 'clean.png' in capsys.readouterr().out
    assert main(['detect', '--json', str(files)]) == 3
    verdicts = {verdict['file'].rsplit('/')[-1]: verdict for verdict in json.loads(capsys.readouterr().out)}
    assert verdicts['attacked.png']['attacked'] and not verdicts['clean.png']['attacked']
    assert verdicts['clean.png']['width'] == verdicts['clean.png']['height'] == 64
    assert verdicts['attacked.png']['clean_probability'] < verdicts['clean.png']['clean_probability']


def test_closed_pipe_ends_quietly(files):
    process = subprocess.Popen(
        [sys.executable, '-m', 'rsr_basicsr.cli', 'detect', str(files)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()  # as head does, here before the first line
    assert process.stderr.read() == '' and process.wait() == 141


def test_threshold_decides(files, capsys):
    for threshold, code in (('0', 0), ('1', 3)):
        assert main(['detect', '--threshold', threshold, str(files)]) == code
    assert main(['detect', '--threshold', '1.5', str(files)]) == 2
    assert '--threshold 1.5: a probability is between 0 and 1' in capsys.readouterr().err


def test_unreadable_files_do_not_stop_the_others(files, tmp_path, capsys):
    (tmp_path / 'broken.png').write_bytes(b'\x89PNG broken')
    (tmp_path / 'empty').mkdir()
    assert (
        main(
            [
                'detect',
                *(str(tmp_path / name) for name in ('none.png', 'broken.png', 'empty')),
                str(files / 'clean.png'),
            ]
        )
        == 1
    )
    captured = capsys.readouterr()
    assert 'none.png: no such file' in captured.err and 'broken.png is not an image' in captured.err
    assert 'clean.png' in captured.out and 'Traceback' not in captured.err
    assert 'there is no image in' in captured.err
    assert main(['detect', str(tmp_path / 'broken.png')]) == 1 and capsys.readouterr().out == ''
    assert main(['detect', str(tmp_path / 'broken.png'), str(files / 'attacked.png')]) == 3
    (tmp_path / 'w.pth').write_bytes(b'nothing')
    assert main(['detect', '--weights', str(tmp_path / 'w.pth'), str(files)]) == 1
    assert 'w.pth is damaged' in capsys.readouterr().err


def test_device_of_the_detector(tmp_path, photo, capsys):
    cv2.imwrite(str(tmp_path / 'a.png'), (photo[0].permute(1, 2, 0).numpy() * 255).round())
    assert main(['detect', str(tmp_path / 'a.png'), '--device', 'cpu']) in (0, 3)
    assert main(['detect', str(tmp_path / 'a.png'), '--device', 'nowhere']) == 2
    assert 'device nowhere: ' in capsys.readouterr().err
