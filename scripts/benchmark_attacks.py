"""The cost of an attack step (against a plain loop, in bf16, in batches, without arithmetic), and attacks' strength.

    python scripts/benchmark_attacks.py [--device cpu|cuda] [--only step host precision batch strength schedules]

Both sides of a ratio alternate in one run, and the fastest run of each counts: other work on the machine makes runs
slower, never faster. Peak memory on a CPU is measured in one process per side, on Linux only. Targets are in brackets.
Takes about 7 minutes on two CPU cores.
"""

import rsr_basicsr  # noqa: F401  isort: skip  (it makes ``import basicsr`` possible on new torchvision)

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from attack_passes import attack_pass, operations, plain_pass
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from timing import describe, fastest, peak_mib

from rsr_basicsr.archs import noise_statistics
from rsr_basicsr.archs.defense import build_classifier
from rsr_basicsr.attacks import (
    APGD,
    FGSM,
    IFGSM,
    MIFGSM,
    PGD,
    Attack,
    BandLimited,
    RandomNoise,
    Square,
    Transfer,
    Universal,
)
from rsr_basicsr.catalog.weights import WEIGHTS
from rsr_basicsr.data import write_evaluation_pairs
from rsr_basicsr.ops.precision import emulates_bf16
from rsr_basicsr.weights.official import fetch
from rsr_basicsr.weights.state_dict import load_network

StepInputs = tuple[torch.nn.Module, torch.Tensor, torch.Tensor]

NETWORKS: dict[str, Callable[[], torch.nn.Module]] = {
    'RRDBNet, 23 blocks': lambda: RRDBNet(3, 3, num_feat=64, num_block=23, num_grow_ch=32),
    'SRVGGNetCompact, 32 conv.': lambda: SRVGGNetCompact(num_conv=32, upscale=4),
}
STEP_TIME, STEP_MEMORY = 0.75, 0.8  # targets: at most this share of the plain loop's
HOST = 1.15  # target: at most this share of a pass of plain autograd


def main() -> None:
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


def plain_step(net: torch.nn.Module, lq: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The straightforward implementation: ``backward`` computes the gradients of the parameters too."""
    lq = lq.clone().requires_grad_()
    net.zero_grad()
    (net(lq) - target).square().sum().backward()
    assert lq.grad is not None
    return (lq + lq.grad.sign() / 255).clamp(0, 1).detach()


def our_step(net: torch.nn.Module, lq: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return IFGSM(eps=1, steps=1, objective='ground_truth')(net, lq, target)


SIDES = {'plain': plain_step, 'ours': our_step}


def build_problem(name: str, device: torch.device, batch: int = 1, size: int = 64) -> StepInputs:
    """A network, images (B, 3, size, size), and targets four times as large."""
    torch.manual_seed(0)
    net = NETWORKS[name]().to(device)
    return net, torch.rand(batch, 3, size, size, device=device), torch.rand(batch, 3, 4 * size, 4 * size, device=device)


def time_step(device: torch.device) -> None:
    """Compare our attack step with that of the plain loop, on one image of 64x64."""
    print('\none step, 64x64                plain time       ours            plain memory       ours')
    for name in NETWORKS:
        problem = build_problem(name, device)
        plain, ours = fastest([lambda side=side: side(*problem) for side in SIDES.values()], 5, device)
        memory, our_memory = (peak_memory(name, side, device) for side in SIDES)
        print(
            f'{name:<27}{plain * 1e3:11.0f} ms{ours * 1e3:8.0f} ms {ours / plain:6.2f}x'
            f'{memory:12.0f} MiB{our_memory:8.0f} MiB {our_memory / memory:6.2f}x'
            f'  (at most {STEP_TIME}x, {STEP_MEMORY}x)'
        )


def peak_memory(name: str, side: str, device: torch.device) -> float:
    """Peak memory of a step in MiB, without the network and the images."""
    if device.type == 'cuda':
        problem = build_problem(name, device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        SIDES[side](*problem)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    # The threshold returns freed memory at once; otherwise the allocator's caching adds to the peak.
    run = subprocess.run(
        [sys.executable, __file__, '--peak', name, side],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, 'MALLOC_MMAP_THRESHOLD_': '65536'},
    )
    return float(run.stdout.split()[-1])


def peak_of_this_process(name: str, side: str) -> float:
    problem = build_problem(name, torch.device('cpu'))
    SIDES[side](*build_problem('SRVGGNetCompact, 32 conv.', torch.device('cpu'), size=8))  # loads the libraries
    return peak_mib(lambda: SIDES[side](*problem))


def time_host(device: torch.device) -> None:
    """Compare our passes with those of plain autograd where Python and launches are all there is, as on a fast GPU.

    The network has the layers of RRDBNet with 23 blocks and next to no arithmetic. CPU time of one thread counts, which
    other work on the machine changes little.
    """
    net = RRDBNet(3, 3, num_feat=2, num_block=23, num_grow_ch=1).to(device).requires_grad_(False)
    lq, target = torch.rand(1, 3, 4, 4, device=device), torch.rand(1, 3, 16, 16, device=device)
    plain = plain_pass(net, lq, target)
    sides = {
        'plain autograd': lambda: [plain() for _ in range(2)],
        'ours, as on a GPU': attack_pass(net, lq, target),
        'ours, as on a CPU and with memory': attack_pass(net, lq, target, saves_memory=True),
        'ours in bf16, weights cast in every pass': attack_pass(net, lq, target, 'bf16', casts_once=False),
        'ours in bf16, weights cast once': attack_pass(net, lq, target, 'bf16'),
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = fastest(list(sides.values()), 10, device, clock=time.process_time)
    torch.set_num_threads(threads)
    print(
        '\ntwo passes of 351 convolutions on 4x4 pixels    time   of plain autograd   operations  '
        f'(ours, as on a GPU: at most {HOST}x)'
    )
    for (name, side), found in zip(sides.items(), seconds):
        print(f'{name:<44}{found * 1e3:5.0f} ms {found / seconds[0]:16.2f}x {operations(side):12}')
    srvgg = NETWORKS['SRVGGNetCompact, 32 conv.']().to(device).eval()
    classifier, image = build_classifier({}).to(device).eval(), torch.rand(1, 3, 64, 64, device=device)
    with torch.no_grad(), at_once_as_on_a_gpu():
        classifier(image)  # fills its caches
        network, detector = (operations(lambda net=net: net(image)) for net in (srvgg, classifier))
    print(
        f'\noperations of a forward pass: SRVGGNetCompact {network}, with the built-in classifier {network + detector} '
        f'({detector} more)'
    )


@contextlib.contextmanager
def at_once_as_on_a_gpu() -> Iterator[None]:
    """Within the block, a CPU batches the classifier's operations as a GPU does."""
    own = dict(noise_statistics.AT_ONCE)
    noise_statistics.AT_ONCE['cpu'] = own['cuda']
    try:
        yield
    finally:
        noise_statistics.AT_ONCE.update(own)


def time_precision(device: torch.device) -> None:
    """Compare a step in bf16 on channels-last tensors with one in fp32."""
    if not has_bf16(device):
        print('\nbf16 + channels_last: this hardware has no bf16 arithmetic')
        return
    batch = 16 if device.type == 'cuda' else 1
    print(f'\none step, {batch}x64x64                    fp32       bf16')
    for name in NETWORKS:
        net, lq, target = build_problem(name, device, batch)
        attacks = [IFGSM(eps=1, steps=1, objective='ground_truth', precision=p) for p in ('fp32', 'bf16')]
        nets = [net, build_problem(name, device)[0].to(memory_format=torch.channels_last)]
        full, half = fastest([lambda pair=pair: pair[0](pair[1], lq, target) for pair in zip(attacks, nets)], 5, device)
        print(f'{name:<27}{full * 1e3:11.1f} ms{half * 1e3:8.1f} ms {half / full:6.2f}x')


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware computes in bf16 instead of emulating it."""
    if device.type == 'cuda':
        return not emulates_bf16(device)
    return any(getattr(torch.cpu, name, bool)() for name in ('_is_avx512_bf16_supported', '_is_amx_tile_supported'))


def time_batch(device: torch.device) -> None:
    """Compare a step on eight images at once with steps on one after the other."""
    print('\none step, 8 images of 64x64  one by one    batched')
    for name in NETWORKS:
        net, lq, target = build_problem(name, device, batch=8)

        def one_by_one() -> None:
            for image, image_target in zip(lq.split(1), target.split(1)):
                our_step(net, image, image_target)

        single, batched = fastest([one_by_one, lambda: our_step(net, lq, target)], 2, device)
        print(f'{name:<27}{single * 1e3:11.0f} ms{batched * 1e3:8.0f} ms {batched / single:6.2f}x')


def compare_strength(device: torch.device) -> None:
    """Compare how far attacks move the output of realesr-animevideov3 for five photos of scikit-image."""
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


def compare_schedules(device: torch.device) -> None:
    """Compare PGD and APGD with falling steps and as published, on the same photos."""
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


def real_network_and_photos(device: torch.device) -> tuple[torch.nn.Module, torch.Tensor]:
    """realesr-animevideov3, and five photos of scikit-image reduced to 32x32, (5, 3, 32, 32)."""
    net = load_network({**WEIGHTS['realesr-animevideov3'].network, 'weights': fetch('realesr-animevideov3')}).to(device)
    with tempfile.TemporaryDirectory() as folder:
        names = write_evaluation_pairs(Path(folder, 'gt'), Path(folder, 'lq'), gt_size=128)
        paths = [str(Path(folder, 'lq', f'{name}.png')) for name in names]
        images = [cast(np.ndarray, cv2.imread(path))[..., ::-1] / 255 for path in paths]
    return net, torch.stack([torch.from_numpy(image).permute(2, 0, 1).float() for image in images]).to(device)


def compare(net: torch.nn.Module, lq: torch.Tensor, eps: Sequence[float], attacks: Sequence[Attack]) -> None:
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


SECTIONS: dict[str, Callable[[torch.device], None]] = {
    'step': time_step,
    'host': time_host,
    'precision': time_precision,
    'batch': time_batch,
    'strength': compare_strength,
    'schedules': compare_schedules,
}


if __name__ == '__main__':
    main()
