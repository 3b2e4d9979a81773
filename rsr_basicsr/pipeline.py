"""BasicSR's train and test pipelines, with the options checked before they build anything."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from basicsr.utils import options as basicsr_options
from basicsr.utils.registry import DATASET_REGISTRY
from torch import distributed as dist

from rsr_basicsr.check import check_options
from rsr_basicsr.compat import pickle_by_plugin
from rsr_basicsr.data.sound_images import naming_broken_images
from rsr_basicsr.launching import init_dist
from rsr_basicsr.models.missed_validation import MissedValidation
from rsr_basicsr.options.host import check_sections
from rsr_basicsr.options.host_blocks import DistParams
from rsr_basicsr.options.loading import override, read_options, take_one_gpu
from rsr_basicsr.options.parsing import typed
from rsr_basicsr.utils.errors import OptionsError, in_one_line
from rsr_basicsr.utils.files import sole_writer


def run_pipeline(stage: str, args: argparse.Namespace) -> None:
    """Run ``basicsr.train.train_pipeline`` or ``basicsr.test.test_pipeline`` in the working directory.

    Experiments and results go there, and ``--auto_resume`` searches there. BasicSR's default, the parent of
    the package, would be site-packages.

    Args:
        stage: ``train`` or ``test``.
        args: the command line as :mod:`rsr_basicsr.cli.train` declares it.

    Raises:
        OptionsError: before anything is built or written.
    """
    _check_launcher(args.launcher, stage)
    import_plugins(args.imports)
    pickle_by_plugin(cls for _, cls in DATASET_REGISTRY)
    options = read_options(args.opt, stage)  # refused before anything starts
    override(options, args.force_yml, new_sections=False)
    check_sections(options, stage)
    note = take_one_gpu(options) if args.launcher == 'none' else None
    module = importlib.import_module(f'basicsr.{stage}')
    with (
        contextlib.ExitStack() as held,
        _replaced(sys, 'argv', [f'rsr {stage}', *_basicsr_flags(args)]),
        _replaced(basicsr_options, 'ordered_yaml', _overriding(basicsr_options.ordered_yaml, args)),
        _replaced(basicsr_options, 'init_dist', _as_options_say(options)),
        _replaced(module, 'parse_options', _checked(module.parse_options, args, held)),
        _replaced(module, 'make_exp_dirs', _waited_for(module.make_exp_dirs)),
        _replaced(module, 'get_root_logger', _logging_in_utf8(module.get_root_logger, note)),
        _replaced(module, 'build_dataset', naming_broken_images(module.build_dataset)),
    ):
        if stage == 'train':
            missed = MissedValidation()
            for name, wrap in (
                ('init_tb_loggers', missed.tb_loggers),
                ('create_train_val_dataloader', missed.dataloaders),
                ('build_model', missed.model),
            ):
                held.enter_context(_replaced(module, name, wrap(getattr(module, name))))
        try:
            getattr(module, f'{stage}_pipeline')(os.getcwd())
            if is_launched():
                # A launcher ends all processes when one fails on exit; the first one may still be saving.
                dist.barrier()
        except BaseException:
            # NCCL would wait for the other processes, which wait for this one.
            if is_launched() and dist.get_backend() != 'nccl':
                dist.destroy_process_group()
            raise
        if is_launched():
            dist.destroy_process_group()


def _as_options_say(options: dict[str, Any]) -> Callable[..., None]:
    """``init_dist`` with ``num_gpu`` and ``dist_params`` of the options; BasicSR passes the latter for slurm alone."""

    def init(launcher: str, **_: Any) -> None:
        init_dist(launcher, num_gpu=options['num_gpu'], **typed(DistParams, options.get('dist_params') or {}).plain())

    return init


def is_launched() -> bool:
    """Whether a process group was made."""
    return dist.is_available() and dist.is_initialized()


def _check_launcher(launcher: str, stage: str) -> None:
    """Refuse processes without a common group, which would write into the same folder."""
    variable = {'pytorch': 'RANK', 'slurm': 'SLURM_PROCID'}.get(launcher)
    if variable is not None and variable not in os.environ:
        start = (
            f'torchrun --nproc_per_node=N -m rsr_basicsr.{stage} -opt FILE --launcher pytorch'
            if launcher == 'pytorch'
            else f'srun python -m rsr_basicsr.{stage} -opt FILE --launcher slurm'
        )
        raise OptionsError(f'--launcher {launcher}: {variable} is not set; start with: {start}')
    if launcher == 'none' and os.environ.get('WORLD_SIZE', '1') != '1':
        raise OptionsError(
            f'WORLD_SIZE is {os.environ["WORLD_SIZE"]}, but the processes would not know of each other; '
            'add --launcher pytorch'
        )


def import_plugins(names: list[str]) -> None:
    """Import modules that register architectures, losses or metrics, from the working directory too.

    Raises:
        OptionsError: there is no such module, or it raises an error.
    """
    sys.path.insert(0, os.getcwd())
    for name in names:
        if not all(part.isidentifier() for part in name.split('.')):
            raise OptionsError(f'--import {name!r}: expected the name of a module, such as my_archs for my_archs.py')
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise OptionsError(
                f'--import {name}: {error}; it must be in the working directory or in the environment'
            ) from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a module can raise anything, and end the process by sys.exit
            raise OptionsError(
                f'--import {name}: {_where(error)}{type(error).__name__}: {in_one_line(error)}; mend the module'
            ) from error


def _where(error: BaseException) -> str:
    """File and line of an error in a module that was imported: the last line of it that is not of a library."""
    if isinstance(error, SyntaxError) and error.filename:
        return f'{error.filename}, line {error.lineno}: '
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)[1:] if not frame.filename.startswith('<')]
    libraries = sysconfig.get_path('stdlib'), sysconfig.get_path('purelib')
    frames = [frame for frame in frames if not frame.filename.startswith(libraries)] or frames
    return f'{frames[-1].filename}, line {frames[-1].lineno}: ' if frames else ''


def _basicsr_flags(args: argparse.Namespace) -> list[str]:
    """The command line for BasicSR's own parser, without ``--force_yml``: see :func:`_overriding`."""
    flags = ['--launcher', args.launcher]
    flags += [f'--{name}' for name in ('auto_resume', 'debug') if getattr(args, name)]
    return ['-opt', args.opt, *flags]


def _overriding(ordered_yaml: Callable[[], tuple[Any, Any]], args: argparse.Namespace) -> Callable[[], tuple[Any, Any]]:
    """Let BasicSR read the options file with the values of ``--force_yml`` in it, and with one GPU for one process.

    BasicSR runs them as code, and only after it has set the seed, so that ``manual_seed=1`` changes nothing.
    """

    def overridden() -> tuple[Any, Any]:
        loader, dumper = ordered_yaml()

        def get_single_data(self: Any) -> Any:
            options = loader.get_single_data(self)
            override(options, args.force_yml, new_sections=False)
            if args.launcher == 'none':
                take_one_gpu(options)
            return options

        return type('OverridingLoader', (loader,), {'get_single_data': get_single_data}), dumper

    return overridden


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute within the block."""
    previous = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, previous)


def _waited_for(make_exp_dirs: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """Let all processes wait until the first one has renamed an existing folder."""

    def make_and_wait(opt: dict[str, Any]) -> None:
        make_exp_dirs(opt)
        if opt['dist']:
            dist.barrier()

    return make_and_wait


def _logging_in_utf8(get_root_logger: Callable[..., logging.Logger], note: str | None) -> Callable[..., logging.Logger]:
    """Let BasicSR's log file take every character of the options in any locale; it begins with the note."""
    notes = [note] if note else []

    def get_in_utf8(*args: Any, **kwargs: Any) -> logging.Logger:
        logger = get_root_logger(*args, **kwargs)
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler) and isinstance(handler.stream, io.TextIOWrapper):
                handler.stream.reconfigure(encoding='utf-8')
        while notes:
            logger.info(notes.pop())
        return logger

    return get_in_utf8


def _checked(
    parse_options: Callable[..., tuple[dict[str, Any], argparse.Namespace]],
    args: argparse.Namespace,
    held: contextlib.ExitStack,
) -> Callable[..., tuple[dict[str, Any], argparse.Namespace]]:
    def parse_and_check(root_path: str, is_train: bool = True) -> tuple[dict[str, Any], argparse.Namespace]:
        opt, basicsr_args = parse_options(root_path, is_train=is_train)
        if args.force_yml:
            sys.argv += ['--force_yml', *args.force_yml]  # BasicSR notes the command beside the options
        check_options(opt)
        _claim_folder(opt, held)
        return opt, basicsr_args

    return parse_and_check


def _claim_folder(opt: dict[str, Any], held: contextlib.ExitStack) -> None:
    """Lock the folder of this run: BasicSR renames an existing one, even if another run writes into it."""
    refusal: list[str | None] = [None]
    kind = 'experiments' if opt['is_train'] else 'results'
    if opt['rank'] == 0:
        try:
            held.enter_context(sole_writer(Path(opt['path'][f'{kind}_root'])))
        except OptionsError as error:
            refusal = [str(error)]
    if opt['dist']:
        dist.broadcast_object_list(refusal)
    if refusal[0] is not None:
        raise OptionsError(f'name: {refusal[0]}')
