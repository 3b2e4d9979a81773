"""Take networks through every command, and write the table of docs/compatibility.md.

    python scripts/try_networks.py -o docs/compatibility.md

Each network, small and with random weights, is converted by ``rsr defend``, trained for two iterations, validated under
attack, upscales, is exported and benchmarked; a cell says what happened. Networks that BasicSR does not have are
spandrel's. With --only, the networks named are tried, and the table has only those.
"""

from __future__ import annotations

import rsr_basicsr  # noqa: F401  # isort: skip  (it makes ``import basicsr`` possible on new torchvision)

import argparse
import contextlib
import importlib
import importlib.metadata
import io
import json
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch
import yaml
from basicsr.utils.registry import ARCH_REGISTRY

from rsr_basicsr.cli import main as rsr
from rsr_basicsr.data import write_evaluation_pairs

SCALE = 4
MODULE = 'registered'  # for --import: the lines that a user writes
WEIGHTS = 'pretrained.pth'
YES = 'yes'
#: What other systems do differently, and the test that does the same here
EMULATED = {
    'Windows: folders and files open for reading cannot be flushed': 'test_checkpoints_on_windows',
    'Windows, macOS: loader workers are spawned, also by `rsr.exe`': (
        'test_spawned_workers_of_a_program_that_is_no_module'
    ),
    'a locale without UTF-8': 'test_options_in_utf8_under_another_locale',
    'Windows: lists with a byte order mark': 'test_lists_of_images_with_a_byte_order_mark',
    'Windows: names of devices, and characters that no file name has': 'test_names_that_windows_keeps_for_itself',
    'Windows, macOS: names that differ in case alone': 'test_results_that_differ_in_case_alone',
    'Windows: a file that another program has open cannot be replaced': 'test_result_that_another_program_has_open',
}
NOT_RUN = (
    'Nothing was run on Windows or macOS themselves. The whole suite runs on Linux with Python 3.10 to 3.13. The two\n'
    'scripts of the quick start need bash: on Windows that of WSL, or install by `pip`, as README says.'
)


class Network(NamedTuple):
    """A network to try.

    Args:
        arguments: of its constructor; small.
        home: the module it is imported from; empty for what this package registers.
        points: mask points, as in the lines that register it: name to arguments of MaskPoint.
        model_type: the model class that trains it.
        loss: type of its pixel loss.
    """

    arguments: dict[str, Any]
    home: str = ''
    points: dict[str, str] = {}
    model_type: str = 'SRModel'
    loss: str = 'L1Loss'


BASICSR = {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'upscale': SCALE}
TRUNK, UPSAMPLER = "MaskPoint('conv_after_body')", "MaskPoint('upsample')"
NETWORKS = {
    'RRDBNet': Network({'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1, 'num_grow_ch': 4}),
    'SRVGGNetCompact': Network({**BASICSR, 'num_conv': 2}),
    'MSRResNet': Network({**BASICSR, 'num_block': 1}),
    'EDSR': Network({**BASICSR, 'num_block': 1}),
    'RCAN': Network({**BASICSR, 'num_group': 1, 'num_block': 1, 'squeeze_factor': 4}),
    'SwinIR': Network(
        {
            'upscale': SCALE,
            'img_size': 16,
            'window_size': 8,
            'img_range': 1.0,
            'depths': [1],
            'embed_dim': 12,
            'num_heads': [2],
            'upsampler': 'pixelshuffle',
        },
        model_type='SwinIRModel',
    ),
    'CDC': Network(
        {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 4, 'num_hourglass': 2, 'scale': SCALE},
        model_type='CDCModel',
        loss='ComponentLoss',
    ),
    'HAT': Network(
        {
            'upscale': SCALE,
            'img_size': 16,
            'window_size': 8,
            'overlap_ratio': 0.5,
            'compress_ratio': 4,
            'squeeze_factor': 4,
            'depths': [1],
            'embed_dim': 12,
            'num_heads': [2],
            'upsampler': 'pixelshuffle',
        },
        'spandrel.architectures.HAT',
        {'trunk': TRUNK, 'upsampler': UPSAMPLER},
    ),
    'DAT': Network(
        {
            'upscale': SCALE,
            'img_size': 16,
            'split_size': [4, 8],
            'depth': [2],
            'embed_dim': 32,
            'num_heads': [2],
        },
        'spandrel.architectures.DAT',
        {'trunk': TRUNK, 'upsampler': UPSAMPLER},
    ),
    'OmniSR': Network(
        {'num_feat': 16, 'block_num': 1, 'res_num': 1, 'up_scale': SCALE},
        'spandrel.architectures.OmniSR',
        {'trunk': "MaskPoint('output')", 'upsampler': "MaskPoint('up')"},
    ),
    'SPAN': Network(
        {'num_in_ch': 3, 'num_out_ch': 3, 'feature_channels': 8, 'upscale': SCALE, 'norm': False},
        'spandrel.architectures.SPAN',
        {'trunk': "MaskPoint('conv_2')", 'upsampler': "MaskPoint('upsampler')"},
    ),
    'RealPLKSR': Network(
        {'dim': 16, 'n_blocks': 2, 'upscaling_factor': SCALE},
        'spandrel.architectures.PLKSR',
        {'trunk': "MaskPoint('feats.-1')"},
    ),
}


def main() -> int:
    """Try the networks, print or write the page, and return the exit code: 1 if a cell is no."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('-o', '--output', type=Path, help='the page to write; without it, it is printed')
    parser.add_argument('--only', nargs='+', choices=list(NETWORKS), default=list(NETWORKS), metavar='NAME')
    parser.add_argument('--jobs', type=int, default=2, help='networks at a time')
    parser.add_argument('--no-systems', action='store_true', help='networks only')
    args = parser.parse_args()
    # A process for each: the module with its registration has one name.
    with multiprocessing.get_context('spawn').Pool(args.jobs, maxtasksperchild=1) as pool:
        cells = dict(zip(args.only, pool.map(try_network, args.only, chunksize=1)))
    page = networks_page(cells) + ('' if args.no_systems else systems_page())
    if args.output is None:
        print(page)
    else:
        args.output.write_text(page, encoding='utf-8')
    failed = [
        f'{name}, {command}: {cell}' for name, row in cells.items() for command, cell in row.items() if cell != YES
    ]
    print('\n'.join(failed) or 'every cell is yes', file=sys.stderr)
    return 1 if failed else 0


def try_network(name: str) -> dict[str, str]:
    """Take a network through the commands in a temporary folder; the cells of its row by command."""
    warnings.simplefilter('ignore')  # parts of spandrel use torch.jit, which is deprecated
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        sys.path.insert(0, folder)
        Path(f'{MODULE}.py').write_text(registrations([name]), encoding='utf-8')
        write_evaluation_pairs(Path('hr'), Path('lq'), gt_size=64)
        _write_weights(name)
        Path('plain.yml').write_text(yaml.safe_dump(options(name), sort_keys=False), encoding='utf-8')
        row = {command: _cell(step, name) for command, step in STEPS.items()}
        os.chdir('/')
    return row


def registrations(names: Sequence[str]) -> str:
    """The module that makes networks of spandrel known; empty without one."""
    names = [name for name in names if NETWORKS[name].home]
    if not names:
        return ''
    imports = [f'from {NETWORKS[name].home} import {name}' for name in names]
    lines = ['from basicsr.utils.registry import ARCH_REGISTRY', *imports]
    lines += ['from rsr_basicsr import MaskPoint, register_defended', '']
    for name in names:
        points = ', '.join(f'{point!r}: {arguments}' for point, arguments in NETWORKS[name].points.items())
        lines += [f'ARCH_REGISTRY.register({name})', f'register_defended({{{points}}})({name})']
    return '\n'.join(lines) + '\n'


def _write_weights(name: str) -> None:
    """Write weights under which the output depends on the input, as the initial values of some networks do not."""
    if NETWORKS[name].home:
        net = getattr(importlib.import_module(NETWORKS[name].home), name)(**NETWORKS[name].arguments)
    else:
        net = ARCH_REGISTRY.get(name)(**NETWORKS[name].arguments)
    torch.manual_seed(0)
    for parameter in net.parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_uniform_(parameter, a=1)
    torch.save({'params': net.state_dict()}, WEIGHTS)


def options(name: str) -> dict[str, Any]:
    """Options of a plain training of two iterations, with a validation at the end."""
    images = {
        'name': 'pairs',
        'type': 'PairedImageDataset',
        'dataroot_gt': 'hr',
        'dataroot_lq': 'lq',
        'io_backend': {'type': 'disk'},
    }
    loading = {'num_worker_per_gpu': 0, 'batch_size_per_gpu': 4, 'use_hflip': False, 'use_rot': False}
    return {
        'name': 'plain',
        'model_type': NETWORKS[name].model_type,
        'scale': SCALE,
        'num_gpu': 0,
        'manual_seed': 0,
        'datasets': {'train': {**images, 'gt_size': 64, 'dataset_enlarge_ratio': 10, **loading}, 'val': images},
        'network_g': {'type': name, **NETWORKS[name].arguments},
        'path': {'pretrain_network_g': WEIGHTS, 'strict_load_g': True, 'resume_state': None},
        'train': {
            'optim_g': {'type': 'Adam', 'lr': 1e-4},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [2], 'gamma': 0.5},
            'total_iter': 2,
            'warmup_iter': -1,
            'pixel_opt': {'type': NETWORKS[name].loss},
        },
        'val': {'val_freq': 2, 'save_img': False, 'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 4}}},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 2, 'use_tb_logger': False},
    }


def _cell(step: Callable[[str], None], name: str) -> str:
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            step(name)
    except Exception:  # a cell says what happened, whatever it was
        return f'no: {traceback.format_exc(limit=0).strip().splitlines()[-1]}\n{said.getvalue()[-2000:]}'
    return YES


def _rsr(*arguments: str) -> None:
    code = rsr([*arguments, '--import', MODULE])
    if code:
        raise RuntimeError(f'rsr {arguments[0]} ended with {code}')


def _defend(name: str) -> None:
    _rsr('defend', 'plain.yml', '-o', 'defended.yml', '--preset', 'masks')


def _train(name: str) -> None:
    _rsr('train', '-opt', 'defended.yml')
    if not _checkpoint().is_file():
        raise RuntimeError('no checkpoint was written')


def _validated(name: str) -> None:
    log = next(Path('experiments').glob('*/*.log')).read_text(encoding='utf-8')
    found = re.search(r'Validation pairs_attacked.*?stability: *([\d.]+)', log, re.DOTALL)
    if found is None or not 0 < float(found[1]) < 100:
        raise RuntimeError('the log has no attacked validation')


def _upscale(name: str) -> None:
    _rsr('upscale', 'lq', '-n', str(_checkpoint()), '-o', 'upscaled', '--suffix', '')
    for path in Path('lq').iterdir():
        small, large = cv2.imread(str(path)), cv2.imread(str(Path('upscaled') / path.name))
        if small is None or large is None or large.shape[0] != SCALE * small.shape[0]:
            raise RuntimeError(f'{path.name} was not upscaled')


def _export(name: str) -> None:
    _rsr('export', str(_checkpoint()), '--backbone', 'plain.pth', '--safetensors', 'net.safetensors')


def _onnx(name: str) -> None:
    _rsr('export', str(_checkpoint()), '--onnx', 'net.onnx', '--size', '16', '16', '--seed', '0')


def _benchmark(name: str) -> None:
    defended = yaml.safe_load(Path('defended.yml').read_text(encoding='utf-8'))['network_g']
    block = {
        'name': 'tried',
        'scale': SCALE,
        'num_gpu': 0,
        'networks': {
            'plain': {'type': name, **NETWORKS[name].arguments, 'weights': 'plain.pth', 'defenses': ['none']},
            'defended': {**defended, 'weights': str(_checkpoint()), 'defenses': ['none']},
        },
        'attacks': {'pgd': {'type': 'PGD', 'steps': 2}},
        'eps': [8],
        'datasets': {'pairs': {'type': 'PairedImageDataset', 'dataroot_gt': 'hr', 'dataroot_lq': 'lq'}},
        'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 4}},
    }
    Path('benchmark.yml').write_text(yaml.safe_dump(block, sort_keys=False), encoding='utf-8')
    _rsr('benchmark', '-opt', 'benchmark.yml', '-o', 'benchmarked')
    found = json.loads(Path('benchmarked', 'results.json').read_text(encoding='utf-8'))
    if not found or not Path('benchmarked', 'report.html').is_file():
        raise RuntimeError('the benchmark has no results')


def _checkpoint() -> Path:
    return next(Path('experiments').glob('*/models/net_g_latest.pth'), Path('net_g_latest.pth'))


#: What a network is taken through, in this order: later steps use the files of earlier ones
STEPS: dict[str, Callable[[str], None]] = {
    'defend': _defend,
    'train': _train,
    'validate under attack': _validated,
    'upscale': _upscale,
    'export': _export,
    'ONNX': _onnx,
    'benchmark': _benchmark,
}


def networks_page(cells: dict[str, dict[str, str]]) -> str:
    """The first half of the page: how it was made, a row for each network, and the lines that register them."""
    rows = [[f'`{name}`', _home(name), *(cell.split('\n')[0] for cell in row.values())] for name, row in cells.items()]
    registered = registrations(list(cells))
    page = [
        '# Compatibility',
        '',
        'Written by `python scripts/try_networks.py -o docs/compatibility.md`, which runs every cell:',
        f'{platform.system()}, Python {platform.python_version()}, ' + ', '.join(_versions()) + ', CPU.',
        '',
        '## Networks',
        '',
        'Each network is small, upscales by 4, and has random weights. `rsr defend --preset masks` converts its',
        'options file, with masks at the image and in the network, and the built-in detector. It is trained for two',
        'iterations, validated under attack, and upscales images; its plain weights are exported, the whole is written',
        'as safetensors and as an ONNX file, which onnxruntime runs; a benchmark attacks it beside the undefended one.',
        '',
        *_table(['network', 'from', *STEPS], rows),
        '',
    ]
    if registered:
        page += [
            'Networks of spandrel are defended by lines of your own, in a module that you name with `--import`:',
            '',
            '```python',
            registered.rstrip(),
            '```',
            '',
        ]
    return '\n'.join(page)


def systems_page() -> str:
    """The second half of the page: what was run on this system, and what is emulated by tests."""
    rows = []
    for system, name in EMULATED.items():
        test = f'tests/test_portability.py::{name}'
        rows.append([system, f'emulated by `{test}`', _passed(test)])
    here = [platform.system(), f'run: the table above, Python {platform.python_version()}', YES]
    page = ['', '## Systems', '', *_table(['system', 'tried how', 'works'], [here, *rows]), '']
    return '\n'.join([*page, NOT_RUN, ''])


def _home(name: str) -> str:
    return 'spandrel' if NETWORKS[name].home else 'BasicSR'


def _versions() -> list[str]:
    found = []
    for package in ('torch', 'basicsr', 'spandrel', 'onnxruntime'):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # a fork of BasicSR has another name
            found.append(f'{package} {importlib.metadata.version(package)}')
    return found


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f'| {" | ".join(row)} |' for row in (head, ['---'] * len(head), *rows)]


def _passed(test: str) -> str:
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', test]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    return YES if done.returncode == 0 else f'no: {done.stdout.strip().splitlines()[-1]}'


if __name__ == '__main__':
    sys.exit(main())
