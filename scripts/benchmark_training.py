"""Cost of attack augmentation in a training step: time against the counted minimum, memory, and a profile.

    python scripts/benchmark_training.py [--device cpu|cuda] [--only step passes memory count gan profile]

All sides of a ratio are measured in turn in one run, on BasicSR's training step with real model classes, and the
fastest run of each counts. The minimum ("floor") is counted by torch's FlopCounterMode: the plain step's arithmetic
plus that of the attack's passes. On a CPU, peak memory is measured in one process per side (Linux only). Targets are
in brackets. Takes about 6 minutes on two CPU cores.
"""

import rsr_basicsr  # noqa: F401  isort: skip  (it makes ``import basicsr`` possible on new torchvision)

import argparse
import contextlib
import copy
import io
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from attack_passes import attack_pass
from basicsr.archs import build_network
from basicsr.utils.registry import MODEL_REGISTRY
from timing import describe, fastest, finish, peak_mib
from torch.utils.flop_counter import FlopCounterMode

from rsr_basicsr.attacks import IFGSM
from rsr_basicsr.check.run_file import check_all
from rsr_basicsr.check.step_memory import CARDS, GIB, RESERVE, estimate
from rsr_basicsr.check.training import gt_size
from rsr_basicsr.options.calls import registered
from rsr_basicsr.options.loading import as_parsed, load_options
from rsr_basicsr.options.messages import Problems

STEP, MEMORY = 1.05, 1.1  # at most: of the floor, of the plain step's peak
GAN = {'one step, full batch': 1.2, 'two steps, half the batch': 1.3}  # at most, of the plain GAN step
GRAPH = ', as CUDA graphs'
ADAM = {'type': 'Adam', 'lr': 1e-4}
OPTIONS = Path(__file__).parents[1] / 'options'
COUNTED = (
    'finetune/finetune_defended_realesrgan_x4plus.yml',
    'train/train_defended_realesrnet_x4plus.yml',
    'finetune/finetune_defended_general_x4v3.yml',
    'train/train_defended_msrresnet_x4.yml',
    'train/train_defended_swinir_x4.yml',
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--device', type=torch.device, default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--only', nargs='+', choices=SECTIONS, default=list(SECTIONS), help='default: all sections')
    parser.add_argument('--peak', choices=SIDES_OF_MEMORY, help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.disable(logging.INFO)  # BasicSR prints every network
    if args.peak:
        print(peak_of_this_process(args.peak))
        return
    print(describe(args.device))
    for section in args.only:
        SECTIONS[section](args.device)


def build(device: torch.device, kind: str = 'RealESRNetModel', attack: dict[str, Any] | None = None) -> Any:
    """BasicSR's model for RRDBNet, defended if there is an attack."""
    defended = 'Defended' if attack else ''
    opt: dict[str, Any] = {
        'name': 'benchmark',
        'is_train': True,
        'dist': False,
        'rank': 0,
        'world_size': 1,
        'scale': 4,
        'num_gpu': 0 if device.type == 'cpu' else 1,
        'queue_size': 12,
        'path': {},
        'l1_gt_usm': False,
        'percep_gt_usm': False,
        'gan_gt_usm': False,
        'gt_usm': False,
        'network_g': {'type': f'{defended}RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3},
        'train': {
            'optim_g': dict(ADAM),
            'scheduler': {'type': 'MultiStepLR', 'milestones': [10**6]},
            'pixel_opt': {'type': 'L1Loss'},
        },
    }
    if attack:
        opt['attack'] = {'type': 'IFGSM', 'eps': 8, 'mode': 'mixed', 'objective': 'ground_truth_l1', **attack}
        opt['train'].update(optim_classifier=dict(ADAM), classifier_opt={'type': 'ClassifierLoss'})
    if kind == 'RealESRGANModel':
        opt['network_d'] = {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 64}
        opt['train'].update(optim_d=dict(ADAM), gan_opt={'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.1})
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        model = registered(MODEL_REGISTRY, f'{defended}{kind}', 'model_type')(opt)
    if kind == 'RealESRGANModel':
        model.cri_perceptual = VGGLoss(device)
    return model


class VGGLoss(torch.nn.Module):
    """BasicSR's perceptual loss with random weights: the same cost without a download."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        from torchvision.models import vgg19

        self.features = vgg19(weights=None).features[:35].to(device).requires_grad_(False)

    def forward(self, x: torch.Tensor, gt: torch.Tensor) -> tuple[torch.Tensor, None]:
        return (self.features(x) - self.features(gt.detach())).abs().mean(), None


def step(model: Any, batch: int, size: int, device: torch.device) -> Callable[[], None]:
    """A function that runs one training step, without the degradations."""
    torch.manual_seed(0)
    lq, gt = torch.rand(batch, 3, size, size, device=device), torch.rand(batch, 3, 4 * size, 4 * size, device=device)

    def run() -> None:
        model.lq, model.gt, model.gt_usm = lq, gt, gt
        model.optimize_parameters(1)

    return run


def flops(function: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def benchmark_step(device: torch.device) -> None:
    batch, size = (2, 32) if device.type == 'cpu' else (12, 64)
    print(f'\nA step of RealESRNetModel, RRDBNet with 23 blocks, batch {batch}, LQ {size}x{size}, every image attacked')
    plain = build(device)
    sides = {0: step(plain, batch, size, device)}
    for steps in (1, 2):
        sides[steps] = step(build(device, attack={'steps': steps, 'share': 1.0}), batch, size, device)
    net = build_network({'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3}).to(device)
    lq, gt = torch.rand(1, 3, 16, 16, device=device), torch.rand(1, 3, 64, 64, device=device)
    attack_pass = flops(lambda: IFGSM(eps=8, steps=1, objective='ground_truth_l1')(net, lq, gt))
    training_pass = flops(lambda: (net(lq) - gt).abs().mean().backward())
    seconds = dict(zip(sides, fastest(list(sides.values()), 3, device)))
    print(f'  plain: {seconds[0]:.3f} s')
    for steps in (1, 2):
        floor = 1 + steps * attack_pass / training_pass
        ratio = seconds[steps] / seconds[0]
        print(
            f'  {steps} attack step(s): {seconds[steps]:.3f} s, {ratio:.2f} of the plain step; counted floor '
            f'{floor:.2f}; {ratio / floor:.3f} of the floor [{STEP}]'
        )


def benchmark_passes(device: torch.device) -> None:
    batch, size = (1, 32) if device.type == 'cpu' else (12, 64)
    net = build_network({'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3}).to(device).requires_grad_(False)
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    inputs = torch.rand(batch, 3, size, size, device=device), torch.rand(batch, 3, 4 * size, 4 * size, device=device)
    sides = {
        'fp32, by a Python call per convolution': attack_pass(net, *inputs, saves_memory=True),
        'fp32': attack_pass(net, *inputs),
        'bf16, by a Python call per convolution': attack_pass(
            net, *inputs, 'bf16', saves_memory=True, casts_once=False
        ),
        'bf16, weights cast in every pass': attack_pass(net, *inputs, 'bf16', casts_once=False),
        'bf16, weights cast once': attack_pass(net, *inputs, 'bf16'),
        'the same, channels last': attack_pass(last, *inputs, 'bf16'),
    }
    if device.type == 'cuda':
        sides['fp32, as a CUDA graph'] = attack_pass(net, *inputs, graph=True)
        sides['bf16, channels last, as a CUDA graph'] = attack_pass(last, *inputs, 'bf16', graph=True)
    print(f'\nTwo passes of an attack, RRDBNet with 23 blocks, batch {batch}, LQ {size}x{size}')
    seconds = fastest(list(sides.values()), 3, device)
    for name, found in zip(sides, seconds):
        print(f'  {name}: {found * 1e3:.0f} ms, {found / seconds[0]:.2f} of the first')


SIDES_OF_MEMORY: dict[str, dict[str, Any] | None] = {'plain': None, 'mixed': {'steps': 2, 'share': 0.5}}


def benchmark_memory(device: torch.device) -> None:
    print('\nPeak memory of a step, two attack steps on half the batch, against the plain step')
    if device.type == 'cpu':
        peaks = {
            side: float(
                subprocess.run(
                    [sys.executable, __file__, '--peak', side], check=True, text=True, stdout=subprocess.PIPE
                ).stdout.split()[-1]
            )
            for side in SIDES_OF_MEMORY
        }
    else:
        peaks = {side: peak_on_gpu(build(device, attack=attack), device) for side, attack in SIDES_OF_MEMORY.items()}
    print(
        f'  plain {peaks["plain"]:.2f} GiB, mixed {peaks["mixed"]:.2f} GiB: {peaks["mixed"] / peaks["plain"]:.3f} '
        f'[{MEMORY}]'
    )


def peak_of_this_process(side: str) -> float:
    device = torch.device('cpu')
    model = build(device, attack=SIDES_OF_MEMORY[side])
    step(model, 2, 8, device)()  # gradients, Adam's moments, and other one-time allocations
    return peak_mib(step(model, 4, 32, device)) / 2**10


def peak_on_gpu(model: Any, device: torch.device) -> float:
    """Peak of a step in GiB, batch 12 and LQ 64x64, after one that makes gradients and the optimizer's moments."""
    run = step(model, 12, 64, device)
    run()
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return torch.cuda.max_memory_allocated(device) / 2**30


def count(file: str) -> Any:
    """Estimated memory of a training step with the networks, losses and attack of an options file."""
    opt = load_options(str(OPTIONS / file))
    as_parsed(opt, 'train', '.')
    checked = check_all(opt, Problems())  # converts values to their final types; folders and weights may be missing
    return estimate(opt, gt_size(opt, checked.model) // opt['scale'], opt['datasets']['train']['batch_size_per_gpu'])


def benchmark_count(device: torch.device) -> None:
    print(
        f'\nEstimated memory of a training step with the options files as they are, and the largest batch per card; '
        f'{RESERVE:g} GiB are reserved for CUDA, the pair pool and the degradations'
    )
    for file in COUNTED:
        found = count(file)
        print(
            f'  {file}: {found.fixed / GIB:.2f} GiB + {found.sample / GIB:.3f} GiB per sample; '
            + ', '.join(f'{card} GB: {found.largest_batch(card)}' for card in CARDS)
        )


def gan_sides(device: torch.device) -> tuple[tuple[int, int], dict[str, Callable[[], None]]]:
    attacks: dict[str, dict[str, Any] | None] = {
        'plain': None,
        'one step, full batch': {'steps': 1, 'share': 1.0},
        'two steps, half the batch': {'steps': 2, 'share': 0.5},
    }
    half = {'precision': 'bf16'} if device.type == 'cuda' else {}
    if device.type == 'cuda':
        for name in GAN:
            attacks[f'{name}{GRAPH}'] = {**(attacks[name] or {}), 'cuda_graph': True}
    batch, size = (2, 32) if device.type == 'cpu' else (12, 64)
    return (batch, size), {
        name: step(build(device, 'RealESRGANModel', attack and {**attack, **half}), batch, size, device)
        for name, attack in attacks.items()
    }


def benchmark_gan(device: torch.device) -> None:
    (batch, size), sides = gan_sides(device)
    print(
        f'\nA step of RealESRGANModel, RRDBNet with 23 blocks, batch {batch}, LQ {size}x{size}'
        + (', attack in bf16' if device.type == 'cuda' else ' (targets are for a GPU)')
    )
    seconds = dict(zip(sides, fastest(list(sides.values()), 3, device)))
    print(f'  plain: {seconds["plain"]:.3f} s')
    for name in sides:
        if name != 'plain':
            target = GAN[name.removesuffix(GRAPH)]
            print(
                f'  {name}: {seconds[name]:.3f} s, {seconds[name] / seconds["plain"]:.2f} of the plain step [{target}]'
            )


def profile(device: torch.device) -> None:
    from torch.profiler import ProfilerActivity

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == 'cuda' else [])
    (batch, size), sides = gan_sides(device)
    run = sides['two steps, half the batch']
    run()
    with torch.profiler.profile(activities=activities) as found:
        run()
        finish(device)
    if device.type == 'cuda':
        print(f'\nThe GPU is busy for {busy_share(found):.0%} of a step')
    key = 'self_cuda_time_total' if device.type == 'cuda' else 'self_cpu_time_total'
    print(f'\nWhere the time of a GAN step goes, two attack steps on half the batch of {batch}, LQ {size}x{size}')
    print(found.key_averages().table(sort_by=key, row_limit=12, max_name_column_width=60))


def busy_share(profile: torch.profiler.profile) -> float:
    """Share of the time from the first kernel to the last one in which any kernel runs."""
    kernels = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    spans = sorted((kernel.time_range.start, kernel.time_range.end) for kernel in kernels)
    busy, until = 0.0, spans[0][0]
    for start, end in spans:
        busy += max(end - max(start, until), 0)
        until = max(until, end)
    return busy / (until - spans[0][0])


SECTIONS = {
    'step': benchmark_step,
    'passes': benchmark_passes,
    'memory': benchmark_memory,
    'count': benchmark_count,
    'gan': benchmark_gan,
    'profile': profile,
}

if __name__ == '__main__':
    main()
