"""A wheel holds all that the commands need, and runs without the repository; BasicSR is built on any Python."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
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
    subprocess.run(
        [
            sys.executable,
            '-m',
            'pip',
            'wheel',
            '-q',
            '--no-deps',
            '--no-build-isolation',
            '--use-pep517',
            '-w',
            str(folder),
            str(source),
        ],
        check=True,
    )
    return next(folder.glob('*.whl'))


def test_a_wheel_holds_options_weights_and_templates_and_no_tests(wheel):
    there = set(zipfile.ZipFile(wheel).namelist())
    for folder in ('rsr_basicsr', 'options'):
        for path in (ROOT / folder).rglob('*'):
            if path.suffix in ('.py', '.yml', '.pth', '.md', '.html', '.css', '.js'):
                name = path.relative_to(ROOT).as_posix()
                assert re.sub('^options/', 'rsr_basicsr/option_files/', name) in there, name
    assert {name.split('/')[0] for name in there} == {'rsr_basicsr', wheel.name.split('-py3')[0] + '.dist-info'}


def test_pip_leaves_the_choice_of_basicsr_to_the_user(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
        metadata = email.message_from_bytes(archive.read(name))
    required = {re.match('[A-Za-z0-9-]+', line).group().lower() for line in metadata.get_all('Requires-Dist')}
    assert 'torch' in required and not any('basicsr' in name for name in required)


def test_what_is_installed_runs_without_the_repository(wheel, tmp_path):
    subprocess.run(
        [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', str(tmp_path / 'there'), str(wheel)],
        check=True,
    )
    code = """
import rsr_basicsr, skimage.io, skimage.data
from rsr_basicsr.cli import main
print(rsr_basicsr.__file__)
skimage.io.imsave('photo.png', skimage.data.astronaut()[:64, :64])
assert main(['options', '-o', 'options']) == 0
assert main(['masks', '-opt', 'options/finetune/finetune_defended_general_x4v3.yml']) == 0
assert main(['detect', 'photo.png']) in (0, 3)
assert main(['upscale', 'photo.png', '-n', 'defended-general-x4v3', '-o', 'out']) == 0
from rsr_basicsr import quickstart
assert quickstart.TRAINING_OPTIONS.is_file()
"""
    run = subprocess.run(
        [sys.executable, '-c', code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={'PYTHONPATH': str(tmp_path / 'there'), 'PATH': ''},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(str(tmp_path / 'there'))
    assert 'DefendedSRVGGNetCompact' in run.stdout and 'P(clean)' in run.stdout


def test_options_are_listed_and_copied_but_never_over_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(['options']) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == len(list((ROOT / 'options').rglob('*.yml')))
    assert any(
        re.match(r'finetune/finetune_defended_general_x4v3.yml +realesr-general-x4v3 fine-tuned', line)
        for line in listed
    )
    assert main(['options', '-o', 'mine']) == 0
    copied = tmp_path / 'mine' / 'test' / 'test_frequency_classifier.yml'
    original = (ROOT / 'options' / 'test' / 'test_frequency_classifier.yml').read_bytes()
    assert copied.read_bytes() == original
    copied.write_text('name: edited')
    assert main(['options', '-o', 'mine']) == 2
    assert 'test_frequency_classifier.yml has been edited; name another folder' in capsys.readouterr().err
    assert copied.read_text() == 'name: edited'
    assert main(['options', '-o', 'mine', '--overwrite']) == 0 and copied.read_bytes() == original
    (tmp_path / 'file').write_text('')
    assert main(['options', '-o', 'file']) == 2 and 'file cannot be written' in capsys.readouterr().err


VERSIONS = {'Python': '3.11.7', 'basicsr': '1.4.2', 'torch': '2.15.0+cu132'}


@pytest.mark.parametrize(
    'name, version, told',
    [
        (None, None, False),
        ('torch', '2.6.1', False),
        ('torch', '2.5.1', True),
        ('torch', '2.16.0a0+git', True),
        ('torch', '3.0', True),
        ('basicsr', '1.4.3', True),
        ('Python', '3.14.0', True),
        ('Python', '3.13.0', False),
        ('Python', '3.10.0', False),
        ('Python', '3.9.18', True),
    ],
)
def test_versions_that_nobody_tried_are_told_of(name, version, told):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        warn_of_unknown_versions({**VERSIONS, **({name: version} if name else {})})
    assert [str(warning.message).startswith(f'{name} {version} was not tested') for warning in caught] == [True] * told


def test_known_versions_are_those_of_setup_and_readme():
    texts = {
        name: (ROOT / name).read_text(encoding='utf-8')
        for name in ('setup.py', 'README.md', 'scripts/install_basicsr.py', 'scripts/_environment.sh')
    }
    assert f"'torch>={KNOWN_VERSIONS['torch'][0]}'" in texts['setup.py']
    assert f"'basicsr>={KNOWN_VERSIONS['basicsr'][0]}'" in texts['scripts/install_basicsr.py']
    for name in ('torch', 'basicsr'):
        assert f"{name.upper()}_MIN='{KNOWN_VERSIONS[name][0]}'" in texts['scripts/_environment.sh']
    first, last = KNOWN_VERSIONS['Python']
    classifiers = re.findall(r"Python :: (3\.\d+)'", texts['setup.py'])
    assert f"'>={first}'" in texts['setup.py'] and classifiers[0] == first and last in classifiers
    assert f'    {" | ".join(classifiers)}) ;;' in texts['scripts/_environment.sh']
    assert f"PYTHON_RANGE='{first} to {classifiers[-1]}'" in texts['scripts/_environment.sh']
    for known in (f'Python {first} to {last}', f'Python {first} to {classifiers[-1]}'):
        assert known in texts['README.md']
    assert f'torch {" to ".join(KNOWN_VERSIONS["torch"])}' in texts['README.md']


#: With the lines that BasicSR 1.4.2 and its kin have; the summary says whether they were corrected.
SETUP = """
from setuptools import setup

version_file = 'kin/version.py'


def get_version():
    with open(version_file, 'r') as f:
        exec(compile(f.read(), version_file, 'exec'))
    return locals()['__version__']


corrected = "locals()['" not in open('setup.py').read().split('corrected')[0]
setup(name='kin', version=get_version(), packages=['kin'], description='corrected' if corrected else 'as it was')
"""


def test_setup_of_basicsr_is_corrected_only_where_pip_unpacks_it(tmp_path):
    source, index, there = (tmp_path / name for name in ('kin-1.2', 'index', 'there'))
    (source / 'kin').mkdir(parents=True)
    index.mkdir()
    (source / 'setup.py').write_text(SETUP)
    (source / 'kin' / '__init__.py').write_text('')
    (source / 'kin' / 'version.py').write_text("__version__ = '1.2'\n")
    (source / 'PKG-INFO').write_text('Metadata-Version: 1.0\nName: kin\nVersion: 1.2\n')
    with tarfile.open(index / 'kin-1.2.tar.gz', 'w:gz') as archive:
        archive.add(source, 'kin-1.2')
    # Run in a clone of it, which must stay as it is, below another sitecustomize, which must run.
    (tmp_path / 'theirs').mkdir()
    (tmp_path / 'theirs' / 'sitecustomize.py').write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write('ran ')\n")
    run = subprocess.run(
        [
            sys.executable,
            ROOT / 'scripts' / 'install_basicsr.py',
            '--no-index',
            '--no-deps',
            '-q',
            '--no-cache-dir',
            '--find-links',
            index,
            '--target',
            there,
            'kin',
        ],
        cwd=source,
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(tmp_path / 'theirs')},
    )
    assert run.returncode == 0, run.stderr
    metadata = email.message_from_bytes((there / 'kin-1.2.dist-info' / 'METADATA').read_bytes())
    assert metadata['Version'] == '1.2' and metadata['Summary'] == 'corrected'
    assert (source / 'setup.py').read_text() == SETUP
    assert (tmp_path / 'ran').read_text().split().count('ran') >= 3  # the script, pip, the build


@pytest.mark.parametrize(
    'files, found',
    [
        ({'basicsr-1.4.2.dist-info/METADATA': 'Version: 1.4.2'}, ('basicsr', '1.4.2')),
        ({'basicsr_fixed-1.4.2.dist-info/METADATA': 'Version: 1.4.2'}, ('basicsr-fixed', '1.4.2')),
        (
            {
                'basicsr/__init__.py': '',
                'fork-1.7.dist-info/METADATA': 'Name: fork\nVersion: 1.7',
                'fork-1.7.dist-info/top_level.txt': 'basicsr',
            },
            ('fork', '1.7'),
        ),
        ({'basicsr/__init__.py': '', 'basicsr/version.py': "__version__ = '1.4.3'"}, ('CLONE', '1.4.3')),
        ({'basicsr/data/left.txt': ''}, None),
        ({}, None),
    ],
    ids=['basicsr', 'basicsr-fixed', 'fork', 'clone', 'folder', 'nothing'],
)
def test_whatever_import_finds_counts_as_basicsr(files, found, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert basicsr_in(tmp_path) == str(found).replace('CLONE', str(tmp_path.resolve() / 'basicsr'))
    if found and found[0] == 'CLONE':
        # In site-packages it is the rest of an interrupted installation: whole ones have metadata.
        assert basicsr_in(tmp_path, 'install_basicsr.sysconfig.get_path = lambda kind: sys.path[0]') == 'None'


def basicsr_in(folder, before=''):
    """What counts as BasicSR for a Python that has nothing but its own library and ``folder``."""
    code = (
        f'import sys\nsys.path[:0] = [{str(folder)!r}, {str(ROOT / "scripts")!r}]\nimport install_basicsr\n'
        f'{before}\nprint(install_basicsr.installed())'
    )
    return subprocess.run(
        [sys.executable, '-I', '-S', '-c', code], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_installer_says_what_is_there_and_what_it_lacks(tmp_path):
    script = ROOT / 'scripts' / 'install_basicsr.py'
    run = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert run.returncode == 0 and re.match(r'BasicSR is there already: \S+ 1\.', run.stdout), run.stderr
    run = subprocess.run([sys.executable, '-I', '-S', script], capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.count('\n') == 1 and 'pip install setuptools wheel' in run.stderr
