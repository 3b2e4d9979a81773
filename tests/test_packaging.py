"""A wheel holds all that the commands need, and runs without the repository."""

import re
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest

from rsr_basicsr.cli import main
from rsr_basicsr.compat import KNOWN_VERSIONS, warn_of_unknown_versions

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns('__pycache__')
SOURCE = ('rsr_basicsr', 'options', 'tests', 'setup.py', 'README.md', 'LICENSE', 'MANIFEST.in', 'pyproject.toml')


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Built as pip builds it, from a copy: a build leaves files behind."""
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    source.mkdir()
    for name in SOURCE:
        path = ROOT / name
        shutil.copytree(path, source / name, ignore=LEFT_OUT) if path.is_dir() else shutil.copy(path, source)
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '--use-pep517',
                    '-w', str(folder), str(source)], check=True)
    return next(folder.glob('*.whl'))


def test_a_wheel_holds_options_weights_and_templates_and_no_tests(wheel):
    there = set(zipfile.ZipFile(wheel).namelist())
    for folder in ('rsr_basicsr', 'options'):
        for path in (ROOT / folder).rglob('*'):
            if path.suffix in ('.py', '.yml', '.pth', '.html', '.css', '.js'):
                name = path.relative_to(ROOT).as_posix()
                assert re.sub('^options/', 'rsr_basicsr/option_files/', name) in there, name
    assert {name.split('/')[0] for name in there} == {'rsr_basicsr', wheel.name.split('-py3')[0] + '.dist-info'}


def test_what_is_installed_runs_without_the_repository(wheel, tmp_path):
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', str(tmp_path / 'there'),
                    str(wheel)], check=True)
    code = """
import rsr_basicsr, skimage.io, skimage.data
from rsr_basicsr.cli import main
print(rsr_basicsr.__file__)
skimage.io.imsave('photo.png', skimage.data.astronaut()[:64, :64])
assert main(['options', '-o', 'options']) == 0
assert main(['masks', '-opt', 'options/finetune/finetune_defended_general_x4v3.yml']) == 0
assert main(['detect', 'photo.png']) in (0, 3)
from rsr_basicsr import quickstart
assert quickstart.OPTIONS.is_file()
"""
    run = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True,
                         env={'PYTHONPATH': str(tmp_path / 'there'), 'PATH': ''})
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(str(tmp_path / 'there'))
    assert 'DefendedSRVGGNetCompact' in run.stdout and 'P(clean)' in run.stdout


def test_options_are_listed_and_copied_but_never_over_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(['options']) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == len(list((ROOT / 'options').rglob('*.yml')))
    assert any(re.match(r'finetune/finetune_defended_general_x4v3.yml +realesr-general-x4v3 fine-tuned', line)
               for line in listed)
    assert main(['options', '-o', 'mine']) == 0
    copied = tmp_path / 'mine' / 'test' / 'test_frequency_classifier.yml'
    original = (ROOT / 'options' / 'test' / 'test_frequency_classifier.yml').read_bytes()
    assert copied.read_bytes() == original
    copied.write_text('name: edited')
    assert main(['options', '-o', 'mine']) == 2
    assert 'test_frequency_classifier.yml would lose what was edited' in capsys.readouterr().err
    assert copied.read_text() == 'name: edited'
    assert main(['options', '-o', 'mine', '--overwrite']) == 0 and copied.read_bytes() == original
    (tmp_path / 'file').write_text('')
    assert main(['options', '-o', 'file']) == 2 and 'file cannot be written' in capsys.readouterr().err


VERSIONS = {'Python': '3.11.7', 'basicsr': '1.4.2', 'torch': '2.15.0+cu132'}


@pytest.mark.parametrize('name, version, told', [
    (None, None, False), ('torch', '2.6.1', False), ('torch', '2.5.1', True), ('torch', '2.16.0a0+git', True),
    ('torch', '3.0', True), ('basicsr', '1.4.3', True), ('Python', '3.13.0', True), ('Python', '3.9.0', False)])
def test_versions_that_nobody_tried_are_told_of(name, version, told):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        warn_of_unknown_versions({**VERSIONS, **({name: version} if name else {})})
    assert [str(warning.message).startswith(f'{name} {version} was not tried') for warning in caught] == [True] * told


def test_known_versions_are_those_of_setup_and_readme():
    setup, readme = ((ROOT / name).read_text(encoding='utf-8') for name in ('setup.py', 'README.md'))
    for name in ('basicsr', 'torch'):
        assert f"'{name}>={KNOWN_VERSIONS[name][0]}'" in setup
    first, last = KNOWN_VERSIONS['Python']
    assert f"'>={first},<3.{int(last.split('.')[1]) + 1}'" in setup
    assert f'Python {first} to {last}' in readme and f'torch {" to ".join(KNOWN_VERSIONS["torch"])}' in readme
