"""What an attack step costs (against a plain loop, in bf16, in batches), and what each reaches.

    python scripts/benchmark_attacks.py [--device cpu|cuda] [--only step precision batch strength schedules]

Both sides of a ratio are measured in turn in one run, and the fastest run of each counts: other work on the machine
makes runs slower, never faster. Peak memory on a CPU is that of a process of its own for each side, which Linux alone
tells. The targets stand in brackets. Takes about 7 minutes on two CPU cores.
"""

import rsr_basicsr  # noqa: F401  isort: skip  (it makes ``import basicsr`` possible on new torchvision)

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import torch
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from timing import describe, fastest, peak_mib

from rsr_basicsr.attacks import APGD, FGSM, IFGSM, MIFGSM, PGD, BandLimited, RandomNoise, Square, Transfer, Universal
from rsr_basicsr.data import write_evaluation_pairs
from rsr_basicsr.weights.official import WEIGHTS, fetch
from rsr_basicsr.weights.state_dict import load_network

NETWORKS = {
    'RRDBNet, 23 blocks': lambda: RRDBNet(3, 3, num_feat=64, num_block=23, num_grow_ch=32),
    'SRVGGNetCompact, 32 conv.': lambda: SRVGGNetCompact(num_conv=32, upscale=4),
}
STEP_TIME, STEP_MEMORY = 0.75, 0.8  # at most, of the plain loop's


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', type=torch.device, default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--only', nargs='+', choices=SECTIONS, default=list(SECTIONS), help='by default all')
    parser.add_argument('--peak', nargs=2, metavar=('NETWORK', 'SIDE'), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        print(peak_of_this_process(*args.peak))
        return
    print(describe(args.device))
    for section in args.only:
        SECTIONS[section](args.device)


def plain_step(net, lq, target):
    """What a first version of an attack does: the gradient of everything, by ``backward``."""
    lq = lq.clone().requires_grad_()
    net.zero_grad()
    (net(lq) - target).square().sum().backward()
    return (lq + lq.grad.sign() / 255).clamp(0, 1).detach()


def our_step(net, lq, target):
    return IFGSM(eps=1, steps=1, objective='ground_truth')(net, lq, target)


SIDES = {'plain': plain_step, 'ours': our_step}


def made(name, device, batch=1, size=64):
    """A network, images and targets."""
    torch.manual_seed(0)
    net = NETWORKS[name]().to(device)
    return net, torch.rand(batch, 3, size, size, device=device), torch.rand(batch, 3, 4 * size, 4 * size, device=device)


def time_step(device):
    """One attack step of ours and one of the plain loop, on one image of 64x64."""
    print('\none step, 64x64                plain time       ours            plain memory       ours')
    for name in NETWORKS:
        problem = made(name, device)
        plain, ours = fastest([lambda side=side: side(*problem) for side in SIDES.values()], 5, device)
        memory, our_memory = (peak_memory(name, side, device) for side in SIDES)
        print(
            f'{name:<27}{plain * 1e3:11.0f} ms{ours * 1e3:8.0f} ms {ours / plain:6.2f}x'
            f'{memory:12.0f} MiB{our_memory:8.0f} MiB {our_memory / memory:6.2f}x'
            f'  (at most {STEP_TIME}x, {STEP_MEMORY}x)'
        )


def peak_memory(name, side, device):
    """MiB that a step takes at its peak, beside the network and the images."""
    if device.type == 'cuda':
        problem = made(name, device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        SIDES[side](*problem)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    # Freed memory goes back at once: otherwise the peak is that of the allocator's habits.
    run = subprocess.run(
        [sys.executable, __file__, '--peak', name, side],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, 'MALLOC_MMAP_THRESHOLD_': '65536'},
    )
    return float(run.stdout.split()[-1])


def peak_of_this_process(name, side):
    problem = made(name, torch.device('cpu'))
    SIDES[side](*made('SRVGGNetCompact, 32 conv.', torch.device('cpu'), size=8))  # loads what is loaded once
    return peak_mib(lambda: SIDES[side](*problem))


def time_precision(device):
    """A step in bf16 on channels-last tensors, and one in fp32."""
    if not has_bf16(device):
        print('\nbf16 + channels_last: this hardware has no bf16 arithmetic')
        return
    batch = 16 if device.type == 'cuda' else 1
    print(f'\none step, {batch}x64x64                    fp32       bf16')
    for name in NETWORKS:
        net, lq, target = made(name, device, batch)
        attacks = [IFGSM(eps=1, steps=1, objective='ground_truth', precision=p) for p in ('fp32', 'bf16')]
        nets = [net, made(name, device)[0].to(memory_format=torch.channels_last)]
        full, half = fastest([lambda pair=pair: pair[0](pair[1], lq, target) for pair in zip(attacks, nets)], 5, device)
        print(f'{name:<27}{full * 1e3:11.1f} ms{half * 1e3:8.1f} ms {half / full:6.2f}x')


def has_bf16(device):
    """Whether bf16 is computed, not imitated."""
    if device.type == 'cuda':
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return any(getattr(torch.cpu, name, bool)() for name in ('_is_avx512_bf16_supported', '_is_amx_tile_supported'))


def time_batch(device):
    """A step on eight images at once, and on one after the other."""
    print('\none step, 8 images of 64x64  one by one    batched')
    for name in NETWORKS:
        net, lq, target = made(name, device, batch=8)

        def one_by_one():
            for image, its_target in zip(lq.split(1), target.split(1)):
                our_step(net, image, its_target)

        single, batched = fastest([one_by_one, lambda: our_step(net, lq, target)], 2, device)
        print(f'{name:<27}{single * 1e3:11.0f} ms{batched * 1e3:8.0f} ms {batched / single:6.2f}x')


def compare_strength(device):
    """How far each attack moves the output of realesr-animevideov3 for five photos that come with scikit-image."""
    net, lq = real_network_and_photos(device)
    source = torch.nn.Upsample(scale_factor=4, mode='bicubic')
    compare(
        net,
        lq,
        (1, 2, 4, 8),
        [
            RandomNoise(),
            FGSM(),
            IFGSM(steps=10),
            MIFGSM(steps=10),
            PGD(steps=20),
            PGD(steps=50),
            APGD(steps=50),
            BandLimited(steps=20),
            Universal(size=32, steps=20),
            Square(queries=300),
            Transfer(source=source),
        ],
    )


def compare_schedules(device):
    """The same with the steps of PGD and APGD falling, and as they were published."""
    net, lq = real_network_and_photos(device)
    compare(
        net,
        lq,
        (2, 8),
        [
            attack(steps=steps, schedule=schedule)
            for steps in (10, 20, 50)
            for attack in (PGD, APGD)
            for schedule in ('constant', 'linear')
        ],
    )


def real_network_and_photos(device):
    """realesr-animevideov3, and five photos of scikit-image reduced to 32x32, (5, 3, 32, 32)."""
    net = load_network({**WEIGHTS['realesr-animevideov3'].network, 'weights': fetch('realesr-animevideov3')}).to(device)
    with tempfile.TemporaryDirectory() as folder:
        names = write_evaluation_pairs(Path(folder, 'gt'), Path(folder, 'lq'), gt_size=128)
        images = [cv2.imread(str(Path(folder, 'lq', f'{name}.png')))[..., ::-1] / 255 for name in names]
    return net, torch.stack([torch.from_numpy(image).permute(2, 0, 1).float() for image in images]).to(device)


def compare(net, lq, eps, attacks):
    """Print the mean stability under each attack, at each eps."""
    print(
        f'\nstability in dB, {len(lq)} images of 32x32, 8 bit' + ''.join(f'{f"eps {e}":>8}' for e in eps) + '  seconds'
    )
    with torch.no_grad():
        clean = net(lq).clamp(0, 1)
    for attack in attacks:
        started, figures = time.perf_counter(), []
        for e in eps:
            attacked = attack.but(eps=e, quantize='nearest')(net, lq, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                error = (net(attacked).clamp(0, 1) - clean).square().flatten(1).mean(1)
            figures.append(-10 * error.log10().mean().item())
        name = re.sub(r'eps=8(, )?|(, )?objective=Stability\(\)', '', repr(attack))
        print(f'{name:<49}' + ''.join(f'{figure:8.1f}' for figure in figures) + f'{time.perf_counter() - started:9.0f}')


SECTIONS = {
    'step': time_step,
    'precision': time_precision,
    'batch': time_batch,
    'strength': compare_strength,
    'schedules': compare_schedules,
}


if __name__ == '__main__':
    main()
