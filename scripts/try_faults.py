"""Disturb every command that writes files, then run it again: nothing may be lost, torn or taken for whole.

    python scripts/try_faults.py [--only upscale train] [--faults kill disk]

- kill: SIGKILL before the first, second, ... opening, renaming, making or removing of a file or folder in the working
  directory; then, temporary files being two hours old, the command runs again.
- disk: the working directory is a file system that is full after so many bytes (needs the right to mount one); then it
  grows, and the command runs again.
- read-only: the output folder is one that cannot be written.
- bit flip: one bit of every file that a run wrote is flipped, one file at a time, and the command runs again.

A case fails if the disturbed command ends in a traceback or exit code 0, or if the second run fails, writes other files
than an undisturbed one, or leaves temporary files. A flipped bit may be noticed in a sentence, be repaired, or be in a
file that the command does not read; a training must not resume from a state with one. Prints the table of
docs/reliability.md; exit code 1 if a case fails. Linux only.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from PIL import Image

import rsr_basicsr  # noqa: F401
from rsr_basicsr.cli import main as rsr
from rsr_basicsr.data import write_evaluation_pairs

NETWORK = {'type': 'SRVGGNetCompact', 'num_feat': 8, 'num_conv': 2}
SIZES = 16, 64, 256  # KiB of a full disk
_CHANGES = ('os.rename', 'os.mkdir', 'os.remove', 'os.rmdir', 'os.link', 'os.symlink', 'os.truncate')
LONGEST = 300  # seconds of a command
NOWHERE = '/proc/nowhere'
KILLED = -signal.SIGKILL


class Command(NamedTuple):
    """A command, and what it must have written when it has ended.

    Args:
        words: of the command line; ``out`` names its output.
        again: of the second run, if that differs.
        compared: whether the second run must write the same files; else only these must exist.
        wanted: files that must exist in the end.
    """

    words: list[str]
    again: list[str] | None = None
    compared: bool = True
    wanted: tuple[str, ...] = ()


COMMANDS = {
    'options': Command(['options', '-o', 'out']),
    'defend': Command(['defend', 'plain.yml', '-o', 'out.yml', '--overwrite']),
    'upscale': Command(['upscale', 'photos', '-n', 'net.pth', '-o', 'out']),
    'stability': Command(
        ['stability', 'net.pth', 'photos', '-o', 'out', '--steps', '1', '--num-images', '1', '--overwrite']
    ),
    'export': Command(
        ['export', 'net.pth', '--backbone', 'out.pth'], ['export', 'net.pth', '--backbone', 'out.pth', '--overwrite']
    ),
    'benchmark': Command(['benchmark', '-opt', 'benchmark.yml', '-o', 'out']),
    'adversarial-set': Command(['adversarial-set', '-opt', 'set.yml', '-o', 'out', '--workers', '0']),
    'train': Command(
        ['train', '-opt', 'train.yml'],
        ['train', '-opt', 'train.yml', '--auto_resume'],
        compared=False,
        wanted=('experiments/tried/models/net_g_latest.pth', 'experiments/tried/training_states/4.state'),
    ),
}


class Outcome(NamedTuple):
    """How a command ended: its exit code, negative for a signal, and what it printed."""

    code: int
    text: str

    @property
    def is_a_sentence(self) -> bool:
        """Whether it failed as a user may see it."""
        return self.code > 0 and bool(self.text.strip()) and 'Traceback (most recent call last)' not in self.text


def main() -> int:
    """Run all faults on all commands, and print one row per command."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--only', nargs='+', choices=COMMANDS, default=list(COMMANDS), help='commands (default: all)')
    parser.add_argument('--faults', nargs='+', choices=FAULTS, default=list(FAULTS), help='faults (default: all)')
    parser.add_argument('--every', type=int, default=1, metavar='N', help='kill at every N-th write only (default: 1)')
    args = parser.parse_args()
    torch.set_num_threads(1)  # before a process forks, none of its threads may work
    failures: list[str] = []
    print(f'| command | {" | ".join(args.faults)} |\n|---|{"---|" * len(args.faults)}')
    for name in args.only:
        cells = []
        for fault in args.faults:
            found = list(FAULTS[fault](COMMANDS[name], args.every))
            wrong = [sentence for sentence in found if sentence]
            failures += [f'{name}, {fault}: {sentence}' for sentence in wrong]
            cells.append(f'{len(found) - len(wrong)} of {len(found)}' if found else '–')
        print(f'| `{name}` | {" | ".join(cells)} |', flush=True)
    print('\n'.join(failures))
    return 1 if failures else 0


# --- Faults: each yields an empty text per case, or what went wrong ---------------------------------------------------


def kills(command: Command, every: int) -> Iterator[str]:
    """One case per write, until the command ends before it is killed."""
    with folder() as undisturbed:
        ended(undisturbed, command.words)
        expected = written(undisturbed)
    number = 1
    while True:
        with folder() as work:
            first = run(work, command.words, lambda number=number: kill_at(number))  # type: ignore[misc]
            if first.code == 0:
                return
            if first.code != KILLED:
                yield f'write {number}: exit code {first.code}, {last_line(first.text)}'
            else:
                age(work)
                yield finished(command, work, expected, f'killed at write {number}')
        number += every


def full_disks(command: Command, _: int) -> Iterator[str]:
    """One case per size of the disk, as far as the command does not fit on it."""
    with folder() as undisturbed:
        ended(undisturbed, command.words)
        expected = written(undisturbed)
    for size in SIZES:
        with folder() as work, small_disk(work, size) as grow:
            first = run(work, command.words)
            if first.code == 0:
                continue
            if not first.is_a_sentence:
                yield f'{size} KiB free: exit code {first.code}, {last_line(first.text)}'
                continue
            grow()
            yield finished(command, work, expected, f'{size} KiB free')


def read_only(command: Command, _: int) -> Iterator[str]:
    """One case: the output is below a folder in which nothing can be made."""
    words = [word.replace('out', f'{NOWHERE}/out') if word.startswith('out') else word for word in command.words]
    if words == command.words:  # a training writes into the working directory
        return
    with folder() as work:
        found = run(work, words)
        if not (found.is_a_sentence and NOWHERE in found.text):
            yield f'exit code {found.code}, {last_line(found.text)}'
        else:
            yield ''


def bit_flips(command: Command, _: int) -> Iterator[str]:
    """One case per written file."""
    rng = random.Random(0)
    with folder() as whole:
        ended(whole, command.words)
        files = [path for path in sorted(written(whole)) if (whole / path).stat().st_size and not is_a_log(path)]
        for path in files:
            with tempfile.TemporaryDirectory() as copied:
                work = Path(shutil.copytree(whole, Path(copied) / 'work', symlinks=True))
                content = bytearray((work / path).read_bytes())
                place = rng.randrange(8 * len(content))
                content[place // 8] ^= 1 << place % 8
                (work / path).write_bytes(bytes(content))
                found = run(work, command.again or command.words)
                taken = path.endswith('.state') and f'training state of {path}' in found.text
                if found.code != 0 and not found.is_a_sentence:
                    yield f'{path}: exit code {found.code}, {last_line(found.text)}'
                elif taken:
                    yield f'{path}: resumed from a damaged state'
                else:
                    yield ''


FAULTS: dict[str, Callable[[Command, int], Iterator[str]]] = {
    'kill': kills,
    'disk': full_disks,
    'read-only': read_only,
    'bit flip': bit_flips,
}


# --- Working directories, and what is in them -------------------------------------------------------------------------


def fill(work: Path) -> None:
    """Write what the commands read: photos, pairs, weights, options files."""
    rng = np.random.default_rng(0)
    (work / 'photos').mkdir()
    for name in 'ab':
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(work / 'photos' / f'{name}.png')
    write_evaluation_pairs(work / 'gt', work / 'lq', gt_size=64)
    from basicsr.archs import build_network

    torch.manual_seed(0)
    torch.save({'params': build_network(dict(NETWORK)).state_dict()}, work / 'net.pth')
    pairs = {
        'name': 'pairs',
        'type': 'PairedImageDataset',
        'dataroot_gt': 'gt',
        'dataroot_lq': 'lq',
        'io_backend': {'type': 'disk'},
    }
    train = {'gt_size': 32, 'use_hflip': True, 'use_rot': True, 'num_worker_per_gpu': 0, 'batch_size_per_gpu': 1}
    plain = {
        'name': 'tried',
        'model_type': 'SRModel',
        'scale': 4,
        'num_gpu': 0,
        'manual_seed': 0,
        'datasets': {'train': {**pairs, **train}, 'val': pairs},
        'network_g': dict(NETWORK),
        'path': {},
        'train': {
            'total_iter': 4,
            'optim_g': {'type': 'Adam', 'lr': 1e-4},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [100]},
            'pixel_opt': {'type': 'L1Loss'},
        },
        'val': {'val_freq': 4, 'save_img': True, 'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 4}}},
        'logger': {'print_freq': 2, 'save_checkpoint_freq': 2, 'use_tb_logger': False},
    }
    files = {
        'plain.yml': plain,
        'train.yml': {
            **plain,
            'model_type': 'DefendedSRModel',
            'network_g': {**NETWORK, 'type': 'DefendedSRVGGNetCompact', 'defense': {'gate': 'never'}},
            'attack': {'type': 'PGD', 'eps': 8, 'steps': 1},
        },
        'benchmark.yml': {
            'name': 'tried',
            'num_gpu': 0,
            'gallery': 1,
            'networks': {'bicubic': {'type': 'Interpolation', 'mode': 'bicubic', 'scale': 4}},
            'attacks': {'pgd': {'type': 'PGD', 'steps': 1}},
            'eps': [8],
            'datasets': {'photos': {'type': 'ReducedImageDataset', 'dataroot_gt': 'photos'}},
        },
        'set.yml': {'photos': 'gt', 'kinds': {'photo_as_it_is': 1}, 'count': 3, 'size': 48, 'seed': 0},
    }
    for name, content in files.items():
        (work / name).write_text(yaml.safe_dump(content), encoding='utf-8')


@contextmanager
def folder() -> Iterator[Path]:
    """A filled working directory, for the block."""
    with tempfile.TemporaryDirectory() as made:
        work = Path(made) / 'work'
        work.mkdir()
        fill(work)
        yield work


@contextmanager
def small_disk(work: Path, size: int) -> Iterator[Callable[[], None]]:
    """Put a working directory on a file system with so many KiB left; gives a function that makes room.

    Raises:
        SystemExit: this process may not mount one.
    """
    contents = work.with_name('contents')
    work.rename(contents)
    work.mkdir()
    taken = sum(-(-path.stat().st_size // 4096) * 4 for path in contents.rglob('*') if path.is_file())
    mount = ['mount', '-t', 'tmpfs', '-o', f'size={taken + size + 16}k', 'tmpfs', str(work)]
    if subprocess.run(mount, capture_output=True).returncode:
        raise SystemExit('--faults disk: mounting a small file system needs root; name other faults')
    try:
        shutil.copytree(contents, work, dirs_exist_ok=True)
        yield lambda: subprocess.run(['mount', '-o', 'remount,size=1g', str(work)], check=True) and None
    finally:
        subprocess.run(['umount', '-l', str(work)], check=True)


def written(work: Path) -> set[str]:
    """The files in a working directory that :func:`fill` has not written."""
    given = ('photos/', 'gt/', 'lq/', 'net.pth', 'plain.yml', 'train.yml', 'benchmark.yml', 'set.yml')
    found = {str(path.relative_to(work)) for path in work.rglob('*') if path.is_file()}
    return {path for path in found if not path.startswith(given)}


def age(work: Path) -> None:
    """Let temporary files look two hours old: younger ones might be those of a process that is writing."""
    for path in work.rglob('.*'):
        if path.is_file():
            os.utime(path, (path.stat().st_atime - 7200, path.stat().st_mtime - 7200))


def is_a_log(path: str) -> bool:
    """Whether a file is written for people only."""
    return path.endswith(('.log', '.lock')) or '/tb_logger/' in path


def finished(command: Command, work: Path, expected: set[str], case: str) -> str:
    """Run a disturbed command again; what is wrong with its end, or an empty text."""
    again = command.again or command.words
    outcome = run(work, again)
    if outcome.code:
        return f'{case}: the second run ended with exit code {outcome.code}: {last_line(outcome.text)}'
    # BasicSR puts the folder of a run without a checkpoint aside as it is.
    found = {path for path in written(work) if not path.endswith('.lock') and '_archived_' not in path}
    temporary = {path for path in found if path.endswith('.part') or '/.' in f'/{path}'}
    if temporary:
        return f'{case}: temporary files are left: {", ".join(sorted(temporary))}'
    missing = [path for path in command.wanted if path not in found]
    if missing:
        return f'{case}: {", ".join(missing)} is missing'
    if command.compared and (different := found ^ {path for path in expected if not path.endswith('.lock')}):
        return f'{case}: only one of both runs wrote {", ".join(sorted(different))}'
    return ''


# --- Running a command in a fork: the imports take longer than most commands ------------------------------------------


def run(work: Path, words: Sequence[str], before: Callable[[], None] | None = None) -> Outcome:
    """Run a command in a child process with its own output; ``before`` runs in the child."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            _child(work, words, before, output.fileno())
        signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
        signal.alarm(LONGEST)
        _, status = os.waitpid(child, 0)
        signal.alarm(0)
        output.seek(0)
        return Outcome(os.waitstatus_to_exitcode(status), output.read().decode(errors='replace'))


def _child(work: Path, words: Sequence[str], before: Callable[[], None] | None, output: int) -> None:
    code: Any = 1
    try:
        for stream in (1, 2):
            os.dup2(output, stream)
        os.chdir(work)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, 'w', closefd=False), write_through=True)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, 'w', closefd=False), write_through=True)
        if before is not None:
            before()
        code = rsr(list(words))
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 1)


def ended(work: Path, words: Sequence[str]) -> None:
    """Run a command that must succeed."""
    outcome = run(work, words)
    if outcome.code:
        raise SystemExit(f'rsr {" ".join(words)} fails undisturbed: {outcome.text}')


def kill_at(number: int) -> None:
    """From now on, kill this process before its ``number``-th change of a file below the working directory."""
    work, left = os.getcwd(), [number]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        changes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if event == 'open' else event in _CHANGES
        if not changes or not isinstance(arguments[0], (str, bytes, os.PathLike)):
            return
        if os.path.abspath(os.fsdecode(arguments[0])).startswith(work):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def last_line(text: str) -> str:
    """The last line of an output."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), '(nothing was printed)')


if __name__ == '__main__':
    sys.exit(main())
