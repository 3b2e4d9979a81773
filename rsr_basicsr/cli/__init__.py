"""The command line ``rsr``: one module per command, with ``add_arguments(parser)`` and ``run(args) -> exit code``."""

from __future__ import annotations

import argparse
import atexit
import io
import logging
import os
import sys
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import rsr_basicsr
from rsr_basicsr.cli import (
    adversarial_set,
    benchmark,
    check,
    defend,
    detect,
    export,
    leaderboard,
    masks,
    options,
    stability,
    test,
    train,
    upscale,
    weights,
)
from rsr_basicsr.cli.completion import PrintCompletion
from rsr_basicsr.cli.parser import Parser
from rsr_basicsr.registration import basicsr_version
from rsr_basicsr.utils.device_errors import out_of_memory, sentence_of_machine
from rsr_basicsr.utils.errors import DeviceError, RSRError

_COMMANDS: dict[str, ModuleType] = {
    'weights': weights,
    'options': options,
    'defend': defend,
    'check': check,
    'masks': masks,
    'train': train,
    'test': test,
    'upscale': upscale,
    'detect': detect,
    'stability': stability,
    'export': export,
    'benchmark': benchmark,
    'leaderboard': leaderboard,
    'adversarial-set': adversarial_set,
}
#: What to do if a whole command, not one of its images, runs out of memory; command -> remedy
_LESS_MEMORY = {
    'train': (
        'take a smaller batch_size_per_gpu or gt_size, or, in the attack, a smaller share, memory (GiB) or '
        'precision: bf16'
    ),
    'adversarial-set': 'take fewer --workers; the same command continues',
}
_LESS_MEMORY_ANYWHERE = 'end other programs, or take smaller images or a smaller network'
_FIRST_PRINTS = 10  # seconds in which the first process of a machine tells what all of them have met
_INTERRUPTED = 130
_BROKEN_PIPE = 141  # as of a program that SIGPIPE ends


class _Version(argparse.Action):
    """``--version``, of this package, BasicSR and torch, without importing the last two."""

    def __init__(self, option_strings: Sequence[str], dest: str, **arguments: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **arguments)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f'RSR-BasicSR {rsr_basicsr.__version__}, BasicSR {basicsr_version()}, torch {version("torch")}')
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; bad input ends in one sentence on stderr and a non-zero exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')  # a locale without a character of a name must not end a run
    parser = Parser(prog='rsr', description='Super-resolution that is robust to adversarial attacks.')
    parser.add_argument('--version', action=_Version, help="show this package's version, BasicSR's and torch's")
    parser.add_argument(
        '--print-completion',
        choices=['bash', 'zsh', 'tcsh'],
        action=PrintCompletion,
        help='print a script that completes commands and options in a shell, and exit',
    )
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name, module in _COMMANDS.items():
        summary = (module.__doc__ or '').strip().splitlines()[0]
        module.add_arguments(commands.add_parser(name, help=summary, description=summary))
    words = sys.argv[1:] if argv is None else argv
    if any('\0' in word for word in words):
        parser.error('an argument holds a NUL, which no file name and no value can')
    args, left = parser.parse_known_args(words)
    if left:
        commands.choices[args.command].refuse(left)
    if getattr(args, 'launcher', 'none') == 'none':
        return _run(args)
    ending: list[int] = []
    atexit.register(_end_now, ending)
    ending.append(_run(args))
    return ending[0]


def _run(args: argparse.Namespace) -> int:
    """Run the command, and turn errors that a user can cause into a sentence."""
    try:
        code: int = _COMMANDS[args.command].run(args)
        sys.stdout.flush()  # so that a closed pipe is handled below
        return code
    except DeviceError as error:  # of this process alone
        print(f'rsr {args.command}: {error}{_resuming(args)}', file=sys.stderr)
        return error.exit_code
    except RSRError as error:
        # Once per machine: the other processes of a launcher have read the same options.
        launched = getattr(args, 'launcher', 'none') != 'none'
        if launched and os.environ.get('LOCAL_RANK', os.environ.get('SLURM_LOCALID', '0')) != '0':
            # A launcher ends all processes when one ends, and this one may be ahead of the one that prints.
            time.sleep(_FIRST_PRINTS)
            return error.exit_code
        print(f'rsr {args.command}: {_sentence(error)}', file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f'rsr {args.command}: interrupted{_resuming(args)}', file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        if not _stdout_is_closed():
            raise
        return _BROKEN_PIPE
    except Exception as error:
        sentence = _of_system(error) or sentence_of_machine(
            error, _LESS_MEMORY.get(args.command, _LESS_MEMORY_ANYWHERE)
        )
        if sentence is None:
            raise
        print(f'rsr {args.command}: {sentence}{_resuming(args)}', file=sys.stderr)
        return RSRError.exit_code


def _resuming(args: argparse.Namespace) -> str:
    return '; continue with --auto_resume' if args.command == 'train' else ''


def _of_system(error: Exception) -> str | None:
    """The sentence for a full disk, a folder that may not be written, a name that no file can have; else None."""
    if not isinstance(error, OSError) or not error.strerror or out_of_memory(error):
        return None
    return f'{error.filename}: {error.strerror}' if error.filename else error.strerror


def _end_now(ending: list[int]) -> None:
    """Exit hook: end a process of a launcher without shutting the interpreter down.

    Threads of gloo outlive their process group. One that still has a tensor to release asks for the interpreter's lock,
    and where that is shutting down, the process is aborted (PyTorch, issue 190489). Hooks registered later have run.

    Args:
        ending: the exit code; empty behind an error that was not foreseen, whose code is the interpreter's.
    """
    if ending:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ending[0])


def _sentence(error: RSRError) -> str:
    """The message of an error; torch puts the traceback of a loader's worker around it."""
    text = str(error)
    if 'Original Traceback' not in text:
        return text
    return text.rstrip().rpartition(f'{type(error).__name__}: ')[2]


def _stdout_is_closed() -> bool:
    """Whether the reader of standard output has closed the pipe; if so, discards what is left in the buffer."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
