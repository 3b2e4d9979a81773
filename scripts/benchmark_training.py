"""What attack augmentation costs in a training step: time against the counted floor, memory, and where the rest goes.

    python scripts/benchmark_training.py [--device cpu|cuda] [--only step memory count gan profile]

All sides of a ratio are measured in turn in one run, on BasicSR's own training step with real model classes, and the
fastest run of each counts. The floor is counted by torch's FlopCounterMode: the plain step's arithmetic plus that of
the attack's passes. Peak memory on a CPU is that of a process of its own for each side, which Linux alone tells. The
targets stand in brackets. Takes about 6 minutes on two CPU cores.
"""

import rsr_basicsr  # noqa: F401  isort: skip  (it makes ``import basicsr`` possible on new torchvision)

import argparse
import contextlib
import io
import logging
import subprocess
import sys
from pathlib import Path

import torch
from basicsr.archs import build_network
from basicsr.utils.registry import MODEL_REGISTRY
from timing import describe, fastest, peak_mib
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
ADAM = {'type': 'Adam', 'lr': 1e-4}
OPTIONS = Path(__file__).parents[1] / 'options'
COUNTED = (
    'finetune/finetune_defended_realesrgan_x4plus.yml',
    'train/train_defended_realesrnet_x4plus.yml',
    'finetune/finetune_defended_general_x4v3.yml',
    'train/train_defended_msrresnet_x4.yml',
    'train/train_defended_swinir_x4.yml',
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', type=torch.device, default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--only', nargs='+', choices=SECTIONS, default=list(SECTIONS), help='by default all')
    parser.add_argument('--peak', choices=SIDES_OF_MEMORY, help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.disable(logging.INFO)  # BasicSR prints every network
    if args.peak:
        print(peak_of_this_process(args.peak))
        return
    print(describe(args.device))
    for section in args.only:
        SECTIONS[section](args.device)


def build(device, kind='RealESRNetModel', attack=None):
    """BasicSR's model for RRDBNet, defended where there is an attack."""
    defended = 'Defended' if attack else ''
    opt = {
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
    """BasicSR's perceptual loss with random weights, which cost the same and need no download."""

    def __init__(self, device):
        super().__init__()
        from torchvision.models import vgg19

        self.features = vgg19(weights=None).features[:35].to(device).requires_grad_(False)

    def forward(self, x, gt):
        return (self.features(x) - self.features(gt.detach())).abs().mean(), None


def step(model, batch, size, device):
    """A function that takes one training step, from the degraded images on."""
    torch.manual_seed(0)
    lq, gt = torch.rand(batch, 3, size, size, device=device), torch.rand(batch, 3, 4 * size, 4 * size, device=device)

    def run():
        model.lq, model.gt, model.gt_usm = lq, gt, gt
        model.optimize_parameters(1)

    return run


def flops(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def benchmark_step(device):
    batch, size = (2, 32) if device.type == 'cpu' else (12, 64)
    print(f'\nA step of RealESRNetModel, RRDBNet with 23 blocks, batch {batch}, LQ {size}x{size}, every image attacked')
    plain = build(device)
    sides = {'plain': step(plain, batch, size, device)}
    for steps in (1, 2):
        sides[steps] = step(build(device, attack={'steps': steps, 'share': 1.0}), batch, size, device)
    net = build_network({'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3}).to(device)
    lq, gt = torch.rand(1, 3, 16, 16, device=device), torch.rand(1, 3, 64, 64, device=device)
    attack_pass = flops(lambda: IFGSM(eps=8, steps=1, objective='ground_truth_l1')(net, lq, gt))
    training_pass = flops(lambda: (net(lq) - gt).abs().mean().backward())
    seconds = dict(zip(sides, fastest(list(sides.values()), 3, device)))
    print(f'  plain: {seconds["plain"]:.3f} s')
    for steps in (1, 2):
        floor = 1 + steps * attack_pass / training_pass
        ratio = seconds[steps] / seconds['plain']
        print(
            f'  {steps} attack step(s): {seconds[steps]:.3f} s, {ratio:.2f} of the plain step; counted floor '
            f'{floor:.2f}; {ratio / floor:.3f} of the floor [{STEP}]'
        )


SIDES_OF_MEMORY = {'plain': None, 'mixed': {'steps': 2, 'share': 0.5}}


def benchmark_memory(device):
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
        peaks = {side: peak_on_gpu(side, device) for side in SIDES_OF_MEMORY}
    print(
        f'  plain {peaks["plain"]:.2f} GiB, mixed {peaks["mixed"]:.2f} GiB: {peaks["mixed"] / peaks["plain"]:.3f} '
        f'[{MEMORY}]'
    )


def peak_of_this_process(side):
    device = torch.device('cpu')
    model = build(device, attack=SIDES_OF_MEMORY[side])
    step(model, 2, 8, device)()  # gradients, Adam's moments, and what is loaded once
    return peak_mib(step(model, 4, 32, device)) / 2**10


def peak_on_gpu(side, device):
    run = step(build(device, attack=SIDES_OF_MEMORY[side]), 12, 64, device)
    run()
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return torch.cuda.max_memory_allocated(device) / 2**30


def count(file):
    """The memory of a training step with the networks, losses and attack of an options file."""
    opt = load_options(str(OPTIONS / file))
    as_parsed(opt, 'train', '.')
    checked = check_all(opt, Problems())  # puts values into their final types; folders and weights need not be there
    return estimate(opt, gt_size(opt, checked.model) // opt['scale'], opt['datasets']['train']['batch_size_per_gpu'])


def benchmark_count(device):
    print(
        f'\nMemory of a training step as the options files have it, counted; batch that fits into a card, of which '
        f'{RESERVE:g} GiB are left to CUDA, the pair pool and the degradations'
    )
    for file in COUNTED:
        found = count(file)
        print(
            f'  {file}: {found.fixed / GIB:.2f} GiB + {found.sample / GIB:.3f} GiB per sample; '
            + ', '.join(f'{card} GB: {found.largest_batch(card)}' for card in CARDS)
        )


def gan_sides(device):
    attacks = {
        'plain': None,
        'one step, full batch': {'steps': 1, 'share': 1.0},
        'two steps, half the batch': {'steps': 2, 'share': 0.5},
    }
    half = {'precision': 'bf16'} if device.type == 'cuda' else {}
    batch, size = (2, 32) if device.type == 'cpu' else (12, 64)
    return (batch, size), {
        name: step(build(device, 'RealESRGANModel', attack and {**attack, **half}), batch, size, device)
        for name, attack in attacks.items()
    }


def benchmark_gan(device):
    (batch, size), sides = gan_sides(device)
    print(
        f'\nA step of RealESRGANModel, RRDBNet with 23 blocks, batch {batch}, LQ {size}x{size}'
        + (', attack in bf16' if device.type == 'cuda' else ' (the targets are for a GPU)')
    )
    seconds = dict(zip(sides, fastest(list(sides.values()), 3, device)))
    print(f'  plain: {seconds["plain"]:.3f} s')
    for name, target in GAN.items():
        print(f'  {name}: {seconds[name]:.3f} s, {seconds[name] / seconds["plain"]:.2f} of the plain step [{target}]')


def profile(device):
    from torch.profiler import ProfilerActivity

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == 'cuda' else [])
    (batch, size), sides = gan_sides(device)
    run = sides['two steps, half the batch']
    run()
    with torch.profiler.profile(activities=activities) as found:
        run()
    key = 'self_cuda_time_total' if device.type == 'cuda' else 'self_cpu_time_total'
    print(f'\nWhere the time of a GAN step goes, two attack steps on half the batch of {batch}, LQ {size}x{size}')
    print(found.key_averages().table(sort_by=key, row_limit=12, max_name_column_width=60))


SECTIONS = {
    'step': benchmark_step,
    'memory': benchmark_memory,
    'count': benchmark_count,
    'gan': benchmark_gan,
    'profile': profile,
}

if __name__ == '__main__':
    main()
