"""Installs BasicSR into the environment of the Python that runs this, on any Python from 3.10 on.

    python scripts/install_basicsr.py                     # BasicSR, unless there is one already
    python scripts/install_basicsr.py --no-deps gfpgan    # what the arguments of `pip install` name instead

BasicSR 1.4.2, the last release, comes as source only, and its setup.py reads ``locals()['__version__']`` after an
``exec``. From Python 3.13 on ``exec`` in a function leaves ``locals()`` alone (PEP 667), and the build ends in
``KeyError: '__version__'``. XPixelGroup/BasicSR pull requests 736 and 766 correct it, but are in no release. The
packages realesrgan, gfpgan, facexlib and basicsr-fixed have the same lines.

So pip downloads, builds and installs as ever, with the index, the proxies and the cache that its user has set, and
those lines are corrected in between: build backends run in the folder of the unpacked source (PEP 517), where a
``sitecustomize`` on PYTHONPATH sees setup.py before they do. It changes those lines only, and only in folders that
this very run of pip has unpacked.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path

REQUIREMENT = 'basicsr>=1.4.2'  # rsr_basicsr/compat.py patches this version
BROKEN = """\
        exec(compile(f.read(), version_file, 'exec'))
    return locals()['__version__']
"""
CORRECT = """\
        namespace = {}
        exec(compile(f.read(), version_file, 'exec'), namespace)
    return namespace['__version__']
"""
HOOK = """\
import sys
sys.path.append({scripts!r})
import install_basicsr
sys.path.remove({scripts!r})
install_basicsr.correct_setup({unpacked!r})
install_basicsr.run_other_sitecustomize({folder!r})
"""


def installed() -> tuple[str, str] | None:
    """What ``import basicsr`` would find, without importing it.

    Returns:
        Name and version of the package: ``basicsr``, ``basicsr-fixed``, another fork of it, or a clone on the path.
        None where there is none, or only what an interrupted installation has left.
    """
    for name in ('basicsr', 'basicsr-fixed'):
        found = _version(name)
        if found:
            return name, found
    spec = importlib.util.find_spec('basicsr')
    if spec is None or spec.origin is None:  # no origin: a folder without __init__.py
        return None
    for name in metadata.packages_distributions().get('basicsr', ()):
        return name, _version(name) or 'unknown'
    module = Path(spec.origin).resolve()
    if any(Path(sysconfig.get_path(kind)).resolve() in module.parents for kind in ('purelib', 'platlib')):
        return None  # pip writes the metadata last: without it the files need not be complete
    version = module.with_name('version.py')  # which the installation of a clone writes
    match = re.search(r"^__version__ = '([^']+)'", version.read_text() if version.is_file() else '', re.MULTILINE)
    return (str(module.parent), match.group(1)) if match else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except (metadata.PackageNotFoundError, KeyError):  # KeyError: metadata that is there in part
        return None


def correct_setup(unpacked: str) -> None:
    """Correct setup.py of the working directory, if that is below ``unpacked`` and has the lines in question."""
    setup = Path.cwd().resolve() / 'setup.py'
    if Path(unpacked).resolve() in setup.parents and setup.is_file():
        source = setup.read_text(encoding='utf-8')
        if BROKEN in source:
            setup.write_text(source.replace(BROKEN, CORRECT), encoding='utf-8')


def run_other_sitecustomize(folder: str) -> None:
    """Run the ``sitecustomize`` that the one in ``folder`` hides: some Pythons come with one that sets their paths."""
    spec = importlib.machinery.PathFinder.find_spec('sitecustomize', [path for path in sys.path if path != folder])
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def pip_install(arguments: list[str]) -> int:
    """Run ``pip install`` without build isolation; each setup.py that it unpacks is corrected before it runs.

    Without isolation since BasicSR names torch as a build requirement: pip would download it a second time.

    Returns:
        pip's exit code.
    """
    with tempfile.TemporaryDirectory(prefix='install-basicsr-') as scratch:
        hook, unpacked = os.path.join(scratch, 'hook'), os.path.join(scratch, 'unpacked')
        os.mkdir(hook)
        os.mkdir(unpacked)
        code = HOOK.format(scripts=str(Path(__file__).resolve().parent), unpacked=unpacked, folder=hook)
        Path(hook, 'sitecustomize.py').write_text(code, encoding='utf-8')
        paths = [hook, *filter(None, [os.environ.get('PYTHONPATH')])]
        environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(paths), 'TMPDIR': unpacked}
        command = [sys.executable, '-m', 'pip', 'install', '--use-pep517', '--no-build-isolation', *arguments]
        # pip keeps the files that are open, such as the lock of the set-up, which must last as long as pip does.
        return subprocess.run(command, env=environment, close_fds=False).returncode


def main(arguments: list[str]) -> int:
    if {'-h', '--help'} & set(arguments):
        print(__doc__)
        return 0
    there = installed()
    if not arguments and there is not None and not _is_older(there[1]):
        print(f'BasicSR is there already: {" ".join(there)}')
        return 0
    if importlib.util.find_spec('setuptools') is None:
        print(
            f'BasicSR is built by setuptools, which this environment lacks: install it with: "{sys.executable}" '
            '-m pip install setuptools wheel',
            file=sys.stderr,
        )
        return 2
    # Ended by a signal, pip must end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return pip_install(arguments or [REQUIREMENT])


def _is_older(version: str) -> bool:
    needed = REQUIREMENT.split('>=')[1]
    return [int(n) for n in re.findall(r'\d+', version)][:3] < [int(n) for n in needed.split('.')]


if __name__ == '__main__':
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # pip has said so itself
        sys.exit(130)
