"""The command line itself: wrong arguments end in one sentence."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

import rsr_basicsr
from rsr_basicsr.cli import main
from rsr_basicsr.utils.progress import progress_bar


@pytest.mark.parametrize(
    'words, message',
    [
        ('trian', "rsr: .*'trian'.*did you mean 'train'"),
        ('nothing-alike-at-all', "rsr: .*'nothing-alike-at-all'.*known are weights, options, "),
        ('', 'rsr: .*COMMAND'),
        ('train', 'rsr train: .*-opt'),
        ('train -op x.yml', r'rsr train: .* -op; did you mean -opt\?'),
        ('train -opt x.yml --auto', r'rsr train: .* --auto; did you mean --auto_resume\?'),
        ('train -opt x.yml --force-yaml a=1', r'rsr train: .* --force-yaml; did you mean --force_yml\?'),
        ('test -opt x.yml more', 'rsr test: more: unexpected argument'),
        ('upscale a.png -n x.pth -ext png', r'rsr upscale: .* -ext; did you mean --ext\?'),
        ('upscale a.png -n x.pth --overwrit', r'rsr upscale: .* --overwrit; did you mean --overwrite\?'),
        ('upscale a.png -n x.pth --gate allways', "rsr upscale: .*--gate: 'allways'.*did you mean 'always'"),
        ('upscale a.png -n x.pth --tile=wide', "rsr upscale: .*--tile: .*'wide'"),
        ('upscale -i a.png -dn much', "rsr upscale: .*-dn.*'much'"),
        ('upscale -i a.png --face_enhance', 'rsr upscale: --face_enhance is not offered: .*GFPGAN'),
        ('export x.pth --zzzz', r'rsr export: unknown option --zzzz \('),
    ],
)
def test_wrong_arguments_end_in_one_sentence(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(words.split())
    printed = capsys.readouterr()
    assert end.value.code == 2 and printed.out == ''
    assert re.match(message, printed.err) and printed.err.count('\n') == 1 and '--help' in printed.err


def test_an_option_and_its_value_may_be_one_word(capsys):
    assert main(['upscale', 'nowhere.png', '-nx.pth', '-s2', '--tile=32']) == 2
    assert 'nowhere.png: no such file' in capsys.readouterr().err


def test_the_version_names_the_host_too():
    printed = subprocess.run(
        [sys.executable, '-m', 'rsr_basicsr.cli', '--version'], check=True, capture_output=True, text=True
    ).stdout
    assert rsr_basicsr.__version__ in printed and 'BasicSR 1.' in printed and 'torch 2.' in printed


@pytest.mark.parametrize(
    'words, completed',
    [('up', 'upscale'), ('upscale --ga', '--gate'), ('upscale --gate al', 'always'), ('upscale sub', 'subfolder')],
)
def test_completion_in_bash(words, completed, tmp_path):
    (tmp_path / 'subfolder').mkdir()
    script = tmp_path / 'completion.bash'
    script.write_text(
        subprocess.run(
            [sys.executable, '-m', 'rsr_basicsr.cli', '--print-completion', 'bash'],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )
    given = words.split()
    offered = subprocess.run(
        [
            'bash',
            '-c',
            f'source {script}; COMP_WORDS=(rsr {words}); COMP_CWORD={len(given)}; _shtab_rsr; echo "${{COMPREPLY[@]}}"',
        ],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    ).stdout
    assert completed in offered.split()


def test_completion_without_shtab(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'shtab', None)
    with pytest.raises(SystemExit):
        main(['--print-completion', 'zsh'])
    assert 'pip install shtab' in capsys.readouterr().err


def test_progress_in_a_file_is_lines_now_and_then(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr('tqdm.std.time', lambda: now[0])
    with progress_bar(total=120, unit='image') as bar:
        for _ in range(120):
            now[0] += 1  # two minutes in all
            bar.update()
    printed = capsys.readouterr().err.splitlines()
    assert 3 <= len(printed) <= 7 and all(len(line) < 100 and '\r' not in line for line in printed)
    assert '0/120' in printed[0] and '120/120' in printed[-1]


def test_progress_where_someone_watches_is_one_line():
    program = (
        'from rsr_basicsr.utils.progress import progress_bar\nlist(progress_bar(iterable=range(3), mininterval=0))'
    )
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('4H', 24, 80, 0, 0))
    with subprocess.Popen([sys.executable, '-c', program], stderr=terminal) as process:
        os.close(terminal)
        printed = b''
        with contextlib.suppress(OSError):  # raised when the other end is closed
            while True:
                printed += os.read(screen, 1000)
    os.close(screen)
    assert process.returncode == 0 and b'3/3' in printed and printed.count(b'\r') > printed.count(b'\n')
