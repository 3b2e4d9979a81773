"""Reading options files: plain YAML values, which run no code, with what BasicSR's parser adds."""

from __future__ import annotations

import datetime
import os
import os.path as osp
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import yaml

from rsr_basicsr.options import host, host_blocks
from rsr_basicsr.options.networks import check_network
from rsr_basicsr.options.parsing import OpenBlock, parse_open
from rsr_basicsr.options.types import Count, Keys
from rsr_basicsr.utils.errors import OptionsError, in_one_line
from rsr_basicsr.utils.hints import did_you_mean


def read_options(path: str, stage: str) -> dict[str, Any]:
    """Read an options file and check that BasicSR can parse it.

    Raises:
        OptionsError: no such file, not YAML, a tag that would run code, or a section missing or of the wrong type.
    """
    opt = load_options(path)
    host.check_sections(opt, stage)
    return opt


class _WithNetwork(OpenBlock):
    """What :func:`read_network` reads."""

    network_g: Keys
    scale: Count | None = None


def read_network(path: str) -> torch.nn.Module:
    """Build ``network_g`` of an options file without its weights; the rest of the file is ignored.

    Raises:
        OptionsError: as :func:`read_options` does, or the network cannot be built.
    """
    return read_network_block(path)[0]


def read_network_block(path: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    """As :func:`read_network`, with the checked block ``network_g``."""
    opt = load_options(path)
    parse_open(opt, _WithNetwork, '')
    parse_open(opt['network_g'], host_blocks.Typed, 'network_g')
    return check_network(opt, 'network_g'), opt['network_g']


def load_options(path: str) -> dict[str, Any]:
    """Load an options file, plain values only.

    Raises:
        OptionsError: no such file, not YAML, or a tag that would run code.
    """
    content = _read(path)
    try:
        opt = yaml.load(content, Loader=yaml.SafeLoader)
    except yaml.constructor.ConstructorError as error:
        raise OptionsError(f'-opt {path}: {error.problem}; only plain YAML values are read') from None
    except yaml.YAMLError as error:
        where = in_one_line(error).replace(' in "<unicode string>",', ',')
        tab = "'\\t'" in where
        raise OptionsError(
            f'-opt {path} is not a YAML file: {where}{"; write spaces instead of tabs" if tab else ""}'
        ) from None
    except RecursionError:
        raise OptionsError(f'-opt {path} is not a YAML file: its blocks are nested too deeply') from None
    except Exception as error:  # Python refuses invalid dates and overlong numbers
        raise OptionsError(f'-opt {path} has a value that cannot be read: {in_one_line(error)}') from None
    if not isinstance(opt, dict):
        raise OptionsError(f'-opt {path} holds no options')
    return opt


def repeated_keys(path: str) -> list[str]:
    """A sentence for every repeated key of a block; YAML silently takes the last one.

    Args:
        path: an options file that :func:`load_options` has read.
    """
    found, blocks, seen = [], [yaml.compose(_read(path), Loader=yaml.SafeLoader)], set()
    while blocks:
        node = blocks.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            blocks += node.value
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                blocks.append(value)
                if isinstance(key, yaml.ScalarNode) and key.value != '<<':
                    line = key.start_mark.line + 1
                    if key.value in lines:
                        found.append(
                            f'{key.value} is in line {lines[key.value]} and again in line {line}, which counts; '
                            'remove one of them'
                        )
                    lines[key.value] = line
    return found


def _read(path: str) -> str:
    if not osp.isfile(path):
        raise OptionsError(f'-opt {path}: no such file')
    try:
        with open(path, encoding='utf-8') as file:
            return file.read()
    except OSError as error:
        raise OptionsError(f'-opt {path} cannot be read: {error.strerror}') from None
    except UnicodeDecodeError as error:
        raise OptionsError(f'-opt {path} is not a YAML file: it is not text ({in_one_line(error)})') from None


def as_parsed(opt: dict[str, Any], stage: str, root: str) -> None:
    """Add to options, in place, what BasicSR's ``parse_options`` adds; the options may be broken.

    ``parse_options`` itself needs a command line, starts distributed processes and sets seeds.

    Args:
        opt: what the file holds.
        stage: ``train`` or ``test``.
        root: folder of experiments and results.
    """
    opt.update(is_train=stage == 'train', dist=False, rank=0, world_size=1, auto_resume=False)
    take_one_gpu(opt)
    datasets = opt.get('datasets')
    for phase, dataset in list(datasets.items()) if isinstance(datasets, dict) else ():
        if isinstance(dataset, dict):
            dataset['phase'] = str(phase).split('_')[0]
            if 'scale' in opt:
                dataset['scale'] = opt['scale']
    path = opt.get('path')
    if not isinstance(path, dict):
        return
    for key, value in list(path.items()):
        if isinstance(value, str) and isinstance(key, str) and ('resume_state' in key or 'pretrain_network' in key):
            path[key] = osp.expanduser(value)
    folder = osp.join(root, 'experiments' if stage == 'train' else 'results', str(opt.get('name')))
    if stage == 'train':
        path.update(
            experiments_root=folder,
            models=osp.join(folder, 'models'),
            log=folder,
            training_states=osp.join(folder, 'training_states'),
        )
    else:
        path.update(results_root=folder, log=folder)
    path['visualization'] = os.path.join(folder, 'visualization')


def take_one_gpu(opt: dict[str, Any]) -> str | None:
    """Let ``num_gpu: auto`` of a single process mean one GPU, in place; BasicSR would take all, by DataParallel.

    Returns:
        What to tell the user; None if no GPU is left out.
    """
    if opt.get('num_gpu') != 'auto':
        return None
    count = torch.cuda.device_count()
    opt['num_gpu'] = min(count, 1)
    if count < 2:
        return None
    stage = 'train' if 'train' in opt else 'test'
    return (
        f'num_gpu: auto takes one of {count} GPUs; for all: torchrun --nproc_per_node={count} -m rsr_basicsr.{stage} '
        '-opt FILE --launcher pytorch'
    )


def override(options: dict[str, Any], changes: Sequence[str], new_sections: bool = True) -> None:
    """Set values of an options file, in place.

    Args:
        options: what the file holds.
        changes: ``section:key=value``, the value in YAML.
        new_sections: make blocks that are not there; beside others by name, such as ``attacks``, when a change sets
            its ``type``. BasicSR does not, and takes ``none`` for no value.

    Raises:
        OptionsError: a change that is not of this form, leads into something that is not a block, or is not YAML.
    """
    for change in changes:
        path, sign, text = change.partition('=')
        if not sign or not all(path.split(':')):
            raise OptionsError(f'--force_yml {change}: write section:key=value')
        *sections, key = path.split(':')
        place: Any = options
        for section in sections:
            there = [name for name, value in place.items() if isinstance(value, dict)]
            if place.get(section) is None and new_sections and (key == 'type' or not _named(place)):
                place[section] = {}
            place = place.get(section)
            if place is None:
                raise OptionsError(
                    f'--force_yml {change}: the options file has no block {section}'
                    f'; {did_you_mean(section, there) if there else "write it there"}'
                )
            if not isinstance(place, dict):
                raise OptionsError(f'--force_yml {change}: {section} is not a block of keys')
        place[key] = None if not new_sections and text.strip().lower() == 'none' else _value(change, text)


def _named(place: Mapping[str, Any]) -> bool:
    """Whether a block holds named blocks, such as ``attacks``; a new one begins with its type."""
    return bool(place) and all(isinstance(value, (dict, type(None))) for value in place.values())


def _value(change: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except Exception as error:  # Python refuses invalid dates, beside what YAML refuses
        raise OptionsError(f'--force_yml {change}: {in_one_line(error)}') from None
    return text if isinstance(value, datetime.date) else value  # no option is a date, but a name can look like one
