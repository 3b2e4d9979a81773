"""The command rsr weights: it prints paths, or one sentence."""

import pytest
from weights_files import NAME, files

from rsr_basicsr.catalog import weights as catalog
from rsr_basicsr.cli import main


def test_command_prints_only_the_paths(server, entry, tmp_path, capfd):
    entry(url=server.url)
    assert main(['weights', NAME, '-o', str(tmp_path)]) == 0
    out, _ = capfd.readouterr()
    assert out == f'{tmp_path / NAME}.pth\n'


def test_command_ends_in_one_sentence(entry, closed_url, tmp_path, capfd):
    entry(url=closed_url)
    assert main(['weights', NAME, '-o', str(tmp_path)]) == 1
    out, err = capfd.readouterr()
    assert out == ''
    assert err.splitlines()[-1].startswith(f'rsr weights: {NAME} cannot be fetched')
    assert closed_url in err and 'Traceback' not in err


@pytest.mark.parametrize(
    'argv, hint',
    [
        (['RealESRGAN_x4plus', 'realesr-general'], "did you mean 'realesr-general-x4v3'?"),
        ([], 'RealESRGAN_x4plus'),
    ],
)
def test_command_refuses_before_it_fetches(argv, hint, tmp_path, capfd):
    assert main(['weights', '-o', str(tmp_path), *argv]) == 2
    assert hint in capfd.readouterr().err
    assert files(tmp_path) == []


def test_command_lists(capfd):
    assert main(['weights', '--list']) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(catalog.KNOWN)
