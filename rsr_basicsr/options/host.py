"""The check of BasicSR's own sections: required keys are there, with the right types."""

from __future__ import annotations

from typing import Any

from rsr_basicsr.options.host_blocks import (
    DATASET_OF_TYPE,
    STAGE,
    Backend,
    Dataset,
    DistParams,
    ListedRealESRGANDataset,
    Loader,
    Logger,
    Optimizer,
    PairedTraining,
    Scheduler,
    Train,
    Typed,
    Val,
    ValWhileTraining,
)
from rsr_basicsr.options.messages import Problems
from rsr_basicsr.options.parsing import OpenBlock, parse_each, parse_keys
from rsr_basicsr.options.types import (
    Keys,
    Text,
    shown,
)

#: What the name of a data set begins with
PHASES = {'train': ('train', 'val'), 'test': ('val', 'test')}


def check_sections(opt: Any, stage: str, problems: Problems | None = None) -> None:
    """Check types and required keys of the sections that every run has, and coerce their numbers in place.

    Args:
        opt: the options.
        stage: ``train`` or ``test``.
        problems: where it is noted what is wrong; None raises an OptionsError of it.
    """
    if problems is None:
        problems = Problems()
        check_sections(opt, stage, problems)
        problems.stop()
        return
    for name in [name for name in opt if not isinstance(name, str)]:
        problems.append(f'the key {shown(name)} must be a word')
        del opt[name]
    parse_each(opt, (STAGE[stage],), '', problems)
    for name in [name for name in opt if name.startswith('network_')]:
        parse_keys(opt, (name,), Keys, '', problems)
        if problems.there(name) and opt[name] is not None:
            parse_each(opt[name], (Typed,), name, problems)
    if problems.there('dist_params') and opt.get('dist_params') is not None:
        parse_each(opt['dist_params'], (DistParams,), 'dist_params', problems)
    if problems.there('path'):
        named = [
            name for name in opt['path'] if str(name).startswith(('pretrain_network', 'resume_state', 'param_key'))
        ]
        parse_keys(opt['path'], named, Text, 'path', problems)
    if problems.there('datasets'):
        _check_datasets(opt['datasets'], stage, problems)
    if stage == 'train':
        _check_training(opt, problems)
    if problems.there('val') and opt.get('val') is not None:
        val = opt['val']
        model: type[OpenBlock] = ValWhileTraining if stage == 'train' else Val
        parse_each(val, (model,), 'val', problems)
        if problems.there('val.metrics') and val.get('metrics'):
            parse_keys(val['metrics'], list(val['metrics']), Keys, 'val.metrics', problems, required=True)


def _check_datasets(datasets: dict[str, Any], stage: str, problems: Problems) -> None:
    if not datasets:
        problems.append('datasets: there is no data set')
        problems.spoil('datasets')
    for phase in datasets:
        where = f'datasets.{phase}'
        kind = str(phase).split('_')[0]
        if kind not in PHASES[stage] or (stage == 'train' and kind == 'train' != phase):
            known = ('train', 'val', 'val_2') if stage == 'train' else ('test_1', 'test_2')
            problems.append(
                f'{where}: BasicSR knows data sets by names such as {", ".join(known)}; got {shown(phase)}'
                + (', as a training has it' if kind == 'train' else '')
            )
            problems.spoil(where)
            continue
        parse_keys(datasets, (phase,), Keys, 'datasets', problems, required=True)
        if problems.there(where):
            check_dataset(datasets[phase], where, kind, problems)


def _check_training(opt: dict[str, Any], problems: Problems) -> None:
    if problems.there('train'):
        train = opt['train']
        parse_each(train, (Train,), 'train', problems)
        if problems.there('train.scheduler'):
            parse_each(train['scheduler'], (Scheduler,), 'train.scheduler', problems)
        for name in [name for name in train if name in ('optim_g', 'optim_d')]:
            parse_keys(train, (name,), Keys, 'train', problems)
            if problems.there(f'train.{name}') and train[name] is not None:
                parse_each(train[name], (Optimizer,), f'train.{name}', problems)
    if problems.there('logger'):
        parse_each(opt['logger'], (Logger,), 'logger', problems)


def check_dataset(dataset: dict[str, Any], where: str, phase: str, problems: Problems) -> None:
    """Check one block of ``datasets``, as :func:`check_sections` does for all of them."""
    kind = dataset.get('type') if isinstance(dataset.get('type'), str) else ''
    backend = dataset.get('io_backend')
    models: list[type[OpenBlock]] = [Dataset]
    if kind == 'RealESRGANDataset' and isinstance(backend, dict) and backend.get('type') == 'disk':
        models.append(ListedRealESRGANDataset)
    elif kind in DATASET_OF_TYPE:
        models.append(DATASET_OF_TYPE[kind])
    if phase == 'train':
        models.append(Loader)
        if kind in ('PairedImageDataset', 'RealESRGANPairedDataset'):
            models.append(PairedTraining)
    parse_each(dataset, models, where, problems)
    if backend is not None and problems.there(f'{where}.io_backend'):
        parse_each(backend, (Backend,), f'{where}.io_backend', problems)
        for name in backend if backend.get('type') == 'disk' else ():
            if name != 'type':
                problems.append(f'{where}.io_backend: a disk takes no {name!r}; remove it')
