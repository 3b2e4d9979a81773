"""Ten minutes on a GPU: does everything run there, does it compute what a CPU computes, and how fast is it.

    python scripts/gpu_check.py [--device cuda] [--minutes 10] [--only sync train ...] [--keep FOLDER]

Each check prints what is expected and what was found, and goes on after a failure; the exit code is the number of
failed checks. On a CPU (``--device cpu``) the same checks run on small inputs, without those that only a GPU has.
Checks that do not fit into the time are named.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import rsr_basicsr  # noqa: F401  isort: skip  (it makes ``import basicsr`` possible on new torchvision)

import numpy as np
import torch
import yaml
from basicsr.archs import build_network
from basicsr.utils.registry import MODEL_REGISTRY
from PIL import Image

from rsr_basicsr.archs.defense import build_classifier
from rsr_basicsr.archs.frequency_mask_arch import repeatable_mask
from rsr_basicsr.attacks import IFGSM
from rsr_basicsr.data import write_evaluation_pairs, write_training_photos
from rsr_basicsr.inference.recognition import open_network
from rsr_basicsr.metrics.stability_metric import calculate_stability
from rsr_basicsr.ops.frequency import dct2

ROOT = Path(__file__).resolve().parents[1]
DEFENDED = 'defended-general-x4v3'
SMALL = {'num_feat': 8, 'num_conv': 2}
MODES = ('mixed', 'paired', 'alternating')
WAIT = 60  # seconds until a training is killed on a CPU; a GPU is faster


class Failed(Exception):
    """A check has found something else than it expected; the message says what."""


class Here(NamedTuple):
    """Where the checks run: device, working directory, and the moment by which they must have ended."""

    device: torch.device
    work: Path
    until: float

    @property
    def on_gpu(self) -> bool:
        return self.device.type == 'cuda'

    def left(self) -> float:
        """Seconds left."""
        return self.until - time.monotonic()


# --- Checks: a docstring that says what is expected, and the text of what was found -----------------------------------


def check_sync(here: Here) -> str:
    """No step of a training waits for the device, in any mode of the attack."""
    for mode in MODES:
        model = _model(here, mode)
        for iteration in (1, 2):  # the first one may set up libraries
            _put_batch(model, here, 2, 16)
            with _no_waiting(here.on_gpu and iteration == 2):
                model.optimize_parameters(iteration)
        log = model.get_current_log()
        if not all(np.isfinite(value) for value in log.values()):
            raise Failed(f'{mode}: {log}')
    return f'{", ".join(MODES)}: two steps each'


def check_numbers(here: Here) -> str:
    """As on the CPU: seeded masks equal, DCT to 1e-5, log odds to 1e-3, stability under I-FGSM to 0.05 dB."""
    image = _photo(96)
    sides = [torch.device('cpu'), here.device]
    masks = [repeatable_mask((0.43, 0.5), 3, 0, 96, 96, device).cpu() for device in sides]
    if not torch.equal(*masks):
        raise Failed('masks of a seed differ')
    spectra = [dct2(image.to(device)).cpu() for device in sides]
    dct = ((spectra[0] - spectra[1]).abs().max() / spectra[0].abs().max()).item()
    classifier = build_classifier({}).eval()
    with torch.no_grad():
        odds = [classifier.to(device)(image.to(device)).cpu() for device in sides]
    logits = (odds[0] - odds[1]).abs().max().item()
    stability = [_stability(DEFENDED, image, device) for device in sides]
    found = f'DCT {dct:.1e}, logits {logits:.1e}, stability {stability[0]:.2f} and {stability[1]:.2f} dB'
    if dct > 1e-5 or logits > 1e-3 or abs(stability[0] - stability[1]) > 0.05:
        raise Failed(found)
    return found


def check_train(here: Here) -> str:
    """A GAN training with loader workers and prefetching is killed, resumes, and ends."""
    options = _train_options(here, 'gan', gan=True)
    file = _written(here, 'gan.yml', options)
    states = here.work / 'experiments' / 'gan' / 'training_states'
    command = [sys.executable, '-m', 'rsr_basicsr.train', '-opt', str(file)]
    with subprocess.Popen(command, cwd=here.work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        deadline = time.monotonic() + min(WAIT, max(here.left(), 1))
        while not list(states.glob('*.state')) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    if not list(states.glob('*.state')):
        raise Failed(f'no checkpoint within {WAIT} s')
    log = _run(here, [*command, '--auto_resume'])
    resumed = [line for line in log.splitlines() if 'Resuming training from' in line]
    if not resumed or not (here.work / 'experiments/gan/models/net_g_latest.pth').is_file():
        raise Failed(log[-300:])
    return resumed[0].rpartition('Resuming')[2].strip()


def check_launcher(here: Here) -> str:
    """One process of torchrun trains, with spawned loader workers, and ends with exit code 0."""
    file = _written(here, 'launched.yml', _train_options(here, 'launched'))
    command = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--nproc_per_node=1',
        f'--master_port={29500 + os.getpid() % 500}',
    ]
    _run(here, [*command, '-m', 'rsr_basicsr.train', '-opt', str(file), '--launcher', 'pytorch'])
    return 'nccl' if here.on_gpu else 'gloo'


def check_upscale(here: Here) -> str:
    """Half precision is within 45 dB of full precision, for a small and a large image."""
    found = []
    for side in (512, 3840) if here.on_gpu else (64,):
        Image.fromarray(_pixels(side)).save(here.work / f'{side}.png')
        outputs, seconds = [], []
        for precision in ('fp32', 'fp16' if here.on_gpu else 'bf16'):
            folder = here.work / f'{side}_{precision}'
            began = time.perf_counter()
            words = [
                f'{side}.png',
                '-n',
                DEFENDED,
                '-o',
                str(folder),
                '--precision',
                precision,
                '--device',
                str(here.device),
            ]
            _rsr(here, 'upscale', *words)
            seconds.append(time.perf_counter() - began)
            outputs.append(np.asarray(Image.open(folder / f'{side}_out.png')))
        same = calculate_stability(*outputs, crop_border=4)
        found.append(f'{side} px: {same:.1f} dB, {seconds[0]:.1f} and {seconds[1]:.1f} s')
        if same < 45:
            raise Failed(found[-1])
    return '; '.join(found)


def check_memory(here: Here) -> str:
    """Where the memory is bounded, an image too large for it is one sentence, and the next image is upscaled."""
    if not here.on_gpu:
        return 'a GPU only'
    code = (
        'import sys, torch\n'
        f'torch.cuda.set_per_process_memory_fraction(0.02, {here.device.index or 0})\n'
        'from rsr_basicsr.cli import main\nsys.exit(main(sys.argv[1:]))'
    )
    (here.work / 'mixed').mkdir()
    for name, side in (('a', 3000), ('b', 64)):
        Image.fromarray(_pixels(side)).save(here.work / 'mixed' / f'{name}.png')
    words = ['upscale', 'mixed', '-n', DEFENDED, '-o', 'bounded', '--tile', '0', '--device', str(here.device)]
    run = subprocess.run([sys.executable, '-c', code, *words], cwd=here.work, capture_output=True, text=True)
    if run.returncode != 1 or 'Traceback' in run.stderr or not (here.work / 'bounded' / 'b_out.png').is_file():
        raise Failed(f'exit code {run.returncode}: {run.stderr[-300:]}')
    return run.stderr.strip().splitlines()[-1]


def check_validation(here: Here) -> str:
    """An image of 510x340 is attacked whole, as in a validation under attack."""
    height, width = (340, 510) if here.on_gpu else (34, 51)
    _start_counting(here)
    net = build_network(
        {'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, **({} if here.on_gpu else {'num_block': 1})}
    )
    lq = _photo(512)[..., :height, :width].to(here.device)
    began = time.perf_counter()
    IFGSM(eps=8, steps=2, objective='stability')(net.to(here.device).eval(), lq)
    return f'RRDBNet, {width}x{height}: {time.perf_counter() - began:.1f} s{_peak(here)}'


def check_benchmark(here: Here) -> str:
    """The same benchmark twice gives the same results, to 0.01."""
    tables = []
    for name in ('once', 'twice'):
        options = {
            'name': 'check',
            'num_gpu': 1 if here.on_gpu else 0,
            'networks': {DEFENDED: {'type': 'Interpolation', 'mode': 'bicubic', 'scale': 4}},
            'attacks': {'pgd': {'type': 'PGD', 'steps': 3}},
            'eps': [8],
            'datasets': {'pairs': {'type': 'PairedImageDataset', 'dataroot_gt': 'gt', 'dataroot_lq': 'lq'}},
        }
        _rsr(here, 'benchmark', '-opt', str(_written(here, 'benchmark.yml', options)), '-o', name)
        with open(here.work / name / 'results.csv', encoding='utf-8') as file:
            tables.append([float(row['mean']) for row in csv.DictReader(file) if row['mean']])
    worst = max(abs(one - other) for one, other in zip(*tables, strict=True))
    if worst > 0.01:
        raise Failed(f'they differ by {worst:.4f}')
    return f'{len(tables[0])} figures, largest difference {worst:.1e}'


def check_speed(here: Here) -> str:
    """A GAN step with one attack step at most 1.2x the plain step, two on half of the batch at most 1.3x."""
    if not here.on_gpu:
        return 'a GPU only; on a CPU: python scripts/benchmark_training.py'
    words = ['--only', 'gan', 'step', 'memory', '--device', str(here.device)]
    return '\n' + _run(here, [sys.executable, str(ROOT / 'scripts' / 'benchmark_training.py'), *words])


CHECKS: dict[str, Callable[[Here], str]] = {
    'sync': check_sync,
    'numbers': check_numbers,
    'upscale': check_upscale,
    'memory': check_memory,
    'validation': check_validation,
    'benchmark': check_benchmark,
    'train': check_train,
    'launcher': check_launcher,
    'speed': check_speed,
}


def main() -> int:
    """Run the checks, print a line or more for each, and return the number that failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--device', type=torch.device, default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--minutes', type=float, default=10, help='time for all checks (default: 10)')
    parser.add_argument('--only', nargs='+', choices=CHECKS, default=list(CHECKS), help='default: all')
    parser.add_argument('--keep', type=Path, help='folder for what the checks write (default: a temporary one)')
    args = parser.parse_args()
    until, failed = time.monotonic() + 60 * args.minutes, 0
    name = torch.cuda.get_device_name(args.device) if args.device.type == 'cuda' else f'{os.cpu_count()} cores'
    print(f'{args.device}, {name}, torch {torch.__version__}')
    with _folder(args.keep) as work:
        here = Here(args.device, work, until)
        write_evaluation_pairs(work / 'gt', work / 'lq', gt_size=128)
        for check in args.only:
            expected = (CHECKS[check].__doc__ or '').strip()
            if here.left() <= 0:
                print(f'{check}: not run, the time is over. {expected}', flush=True)
                continue
            began = time.monotonic()
            try:
                result = f'as expected: {CHECKS[check](here)}'
            except Failed as error:
                failed, result = failed + 1, f'FAILED: {error}'
            except Exception:  # a check can end in anything, and the next one must run
                failed, result = failed + 1, f'FAILED:\n{traceback.format_exc()}'
            print(f'{check} ({time.monotonic() - began:.0f} s): {expected}\n  {result}', flush=True)
    print(f'{failed} failed')
    return failed


# --- Parts of the checks ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        shutil.rmtree(keep, ignore_errors=True)
        keep.mkdir(parents=True)
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@contextlib.contextmanager
def _no_waiting(strict: bool) -> Iterator[None]:
    """Within the block, what makes the host wait for the GPU is an error."""
    if not strict:
        yield
        return
    torch.cuda.set_sync_debug_mode('error')
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode('default')


def _model(here: Here, mode: str) -> Any:
    """A small DefendedSRModel whose attack works in that mode."""
    opt: dict[str, Any] = {
        'name': 'check',
        'is_train': True,
        'dist': False,
        'rank': 0,
        'world_size': 1,
        'scale': 4,
        'path': {},
        'num_gpu': 1 if here.on_gpu else 0,
        'logger': {'print_freq': 10},
        'network_g': {'type': 'DefendedSRVGGNetCompact', **SMALL, 'defense': {'gate': 'never'}},
        'attack': {'type': 'PGD', 'eps': [1, 8], 'steps': 2, 'mode': mode},
        'train': {
            'ema_decay': 0.999,
            'optim_g': {'type': 'Adam', 'lr': 1e-4},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [100]},
            'pixel_opt': {'type': 'L1Loss'},
        },
    }
    return MODEL_REGISTRY.get('DefendedSRModel')(opt)


def _put_batch(model: Any, here: Here, batch: int, size: int) -> None:
    model.lq = torch.rand(batch, 3, size, size, device=here.device)
    model.gt = torch.rand(batch, 3, 4 * size, 4 * size, device=here.device)


def _train_options(here: Here, name: str, gan: bool = False) -> dict[str, Any]:
    """A short training on the sample photos, with two loader workers."""
    photos = here.work / 'photos'
    if not photos.is_dir():
        write_training_photos(photos)
    size = {} if here.on_gpu else SMALL
    options: dict[str, Any] = {
        'name': name,
        'model_type': 'DefendedSRGANModel' if gan else 'DefendedSRModel',
        'scale': 4,
        'num_gpu': 1 if here.on_gpu else 0,
        'manual_seed': 0,
        'datasets': {
            'train': {
                'name': 'pairs',
                'type': 'PairedImageDataset',
                'dataroot_gt': 'gt',
                'dataroot_lq': 'lq',
                'gt_size': 64,
                'use_hflip': True,
                'use_rot': True,
                'io_backend': {'type': 'disk'},
                'num_worker_per_gpu': 2,
                'batch_size_per_gpu': 2,
                'dataset_enlarge_ratio': 10,
                **({'prefetch_mode': 'cuda', 'pin_memory': True} if here.on_gpu else {'prefetch_mode': 'cpu'}),
            }
        },
        'network_g': {'type': 'DefendedSRVGGNetCompact', **size, 'defense': {'gate': 'never'}},
        'path': {},
        'attack': {'type': 'PGD', 'eps': [1, 8], 'steps': 1, 'mode': 'mixed', 'share': 0.5},
        'train': {
            'total_iter': 12,
            'optim_g': {'type': 'Adam', 'lr': 1e-4},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [100]},
            'pixel_opt': {'type': 'L1Loss'},
            **({'precision': 'bf16'} if here.on_gpu else {}),
        },
        'logger': {'print_freq': 2, 'save_checkpoint_freq': 4, 'use_tb_logger': False},
    }
    if gan:
        options['network_d'] = {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 64 if here.on_gpu else 8}
        options['train'] |= {
            'optim_d': {'type': 'Adam', 'lr': 1e-4},
            'gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.1},
        }
    return options


def _written(here: Here, name: str, options: dict[str, Any]) -> Path:
    path = here.work / name
    path.write_text(yaml.safe_dump(options), encoding='utf-8')
    return path


def _rsr(here: Here, *words: str) -> str:
    return _run(here, [sys.executable, '-m', 'rsr_basicsr.cli', *words])


def _run(here: Here, command: list[str]) -> str:
    """The output of a command that must end well, in the time that is left."""
    try:
        run = subprocess.run(command, cwd=here.work, capture_output=True, text=True, timeout=max(here.left(), 1))
    except subprocess.TimeoutExpired:
        raise Failed(f'{" ".join(command[1:5])} did not end in the time that was left') from None
    if run.returncode:
        raise Failed(f'{" ".join(command[1:5])} ended with {run.returncode}: {(run.stdout + run.stderr)[-600:]}')
    return run.stdout + run.stderr


def _pixels(side: int) -> np.ndarray:
    """A photo of that size, (side, side, 3), uint8."""
    from skimage import data

    return np.asarray(Image.fromarray(data.astronaut()).resize((side, side), Image.Resampling.BICUBIC))


def _photo(side: int) -> torch.Tensor:
    return torch.from_numpy(_pixels(side).copy()).permute(2, 0, 1)[None].float() / 255


def _stability(name: str, image: torch.Tensor, device: torch.device) -> float:
    """Stability of a network under I-FGSM on a device."""
    net, lq = open_network(name).to(device), image.to(device)
    attacked = IFGSM(eps=8, steps=10, objective='stability', seed=0)(net, lq)
    with torch.no_grad():
        outputs = [(net(x)[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy() for x in (attacked, lq)]
    return calculate_stability(*outputs, crop_border=4)


def _start_counting(here: Here) -> None:
    if here.on_gpu:
        torch.cuda.reset_peak_memory_stats(here.device)


def _peak(here: Here) -> str:
    return f', peak {torch.cuda.max_memory_allocated(here.device) / 2**30:.1f} GiB' if here.on_gpu else ''


if __name__ == '__main__':
    sys.exit(main())
