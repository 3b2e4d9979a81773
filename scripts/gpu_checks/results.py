"""Checks that a GPU computes what a CPU computes, and goes on after an image that is too large for it."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from collections.abc import Iterator

import torch
from basicsr.archs import build_network
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from PIL import Image
from timing import fastest
from torch import nn

from gpu_checks.base import DEFENDED, Failed, Here, photo, pixels
from rsr_basicsr.archs.defense import build_classifier
from rsr_basicsr.archs.frequency_mask_arch import repeatable_mask
from rsr_basicsr.attacks import IFGSM
from rsr_basicsr.attacks.problem import Problem
from rsr_basicsr.inference.image_io import LoadedImage
from rsr_basicsr.inference.recognition import open_network
from rsr_basicsr.inference.upscaler import Upscaler
from rsr_basicsr.losses.component_loss import region_maps
from rsr_basicsr.metrics.stability_metric import calculate_stability
from rsr_basicsr.ops.frequency import dct2

_LEAST = 45  # dB, between half and full precision


def check_numbers(here: Here) -> str:
    """As on the CPU: seeded masks, DCT to 1e-5, logits to 1e-3, regions of CDC to 1e-4, stability to 0.05 dB."""
    image = photo(96)
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
    regions = [region_maps(image.to(device)).cpu() for device in sides]
    differ = (regions[0] != regions[1]).float().mean().item()
    stability = [_stability(DEFENDED, image, device) for device in sides]
    found = (
        f'DCT {dct:.1e}, logits {logits:.1e}, regions {differ:.1e} of the pixels, stability {stability[0]:.2f} and '
        f'{stability[1]:.2f} dB'
    )
    if dct > 1e-5 or logits > 1e-3 or differ > 1e-4 or abs(stability[0] - stability[1]) > 0.05:
        raise Failed(found)
    return found


def check_graph(here: Here) -> str:
    """A CUDA graph has the gradient of plain passes, cosine above 0.9999, in bf16 0.99, and draws new masks."""
    if not here.on_gpu:
        return 'a GPU only'
    net, found = open_network(DEFENDED).to(here.device), []
    for precision, least in (('fp32', 0.9999), ('bf16', 0.99)):
        gradients = [_gradients(net, here.device, precision, graph)[1].flatten() for graph in (False, True)]
        cosine = torch.nn.functional.cosine_similarity(*gradients, dim=0).item()
        found.append(f'{precision} {cosine:.6f}')
        if cosine < least:
            raise Failed(found[-1])
    masked = build_network({'type': 'DefendedSRVGGNetCompact', 'defense': {'gate': 'always'}}).to(here.device)
    first, _, third = _gradients(masked.train(), here.device, 'bf16', True)
    if torch.equal(first, third):
        raise Failed('the masks of a recording stay the same')
    return ', '.join(found)


def _gradients(net: nn.Module, device: torch.device, precision: str, graph: bool) -> list[torch.Tensor]:
    """Gradients of three passes, the first and the last for the same image."""
    lq = photo(64).to(device)
    attack = IFGSM(eps=8, precision=precision, cuda_graph=graph, objective='ground_truth')
    with Problem.of(attack, net, lq, lq.new_zeros(1, 3, 256, 256), attack.radius(lq)) as problem:
        return [problem.gradient(image)[0].clone() for image in (lq, lq + 1 / 255, lq)]


def check_upscale(here: Here) -> str:
    """Half precision is within 45 dB of full precision, at 512x512 and 4K; Real-ESRGAN's class is not faster."""
    found = []
    for width, height in ((512, 512), (3840, 2160)) if here.on_gpu else ((64, 64),):
        image, outputs, seconds = LoadedImage(rgb=photo(width, height)), [], []
        for precision in ('fp32', 'fp16' if here.on_gpu else 'bf16'):
            upscaler = Upscaler(open_network(DEFENDED), precision=precision, device=str(here.device))
            upscaler(LoadedImage(rgb=photo(64)))
            began = time.perf_counter()
            outputs.append((upscaler(image)[0].rgb[0] * 255).round().byte().permute(1, 2, 0).numpy())
            seconds.append(time.perf_counter() - began)
        same = calculate_stability(*outputs, crop_border=4)
        found.append(f'{width}x{height}: {same:.1f} dB, {seconds[0]:.2f} and {seconds[1]:.2f} s')
        if same < _LEAST:
            raise Failed(found[-1])
    return '; '.join([*found, *_against_realesrgan(here)])


def _against_realesrgan(here: Here) -> Iterator[str]:
    """Times of Real-ESRGAN's class and ours, for one network and image, in tiles of the same size."""
    try:
        from realesrgan import RealESRGANer
    except ImportError:
        yield 'realesrgan is not installed, so its class was not timed'
        return
    net = open_network(DEFENDED)
    weights = {name.removeprefix('model.'): value for name, value in net.state_dict().items()}
    file, side, half = here.work / 'released.pth', 1024 if here.on_gpu else 64, here.on_gpu
    backbone = SRVGGNetCompact(num_conv=32, upscale=4)
    torch.save({'params': {name: weights[name] for name in backbone.state_dict()}}, file)
    theirs = RealESRGANer(4, str(file), model=backbone, tile=512, tile_pad=10, half=half, device=here.device)
    ours = Upscaler(net, tile=512, overlap=10, device=str(here.device))
    image, given = pixels(side)[..., ::-1].copy(), LoadedImage(rgb=photo(side))
    seconds = fastest([lambda: theirs.enhance(image), lambda: ours(given)], 3, here.device)
    yield (
        f'{side}x{side} by Real-ESRGAN {seconds[0]:.2f} s, by ours {seconds[1]:.2f} s with the detector: '
        f'{seconds[1] / seconds[0]:.2f}x'
    )


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
        Image.fromarray(pixels(side)).save(here.work / 'mixed' / f'{name}.png')
    words = ['upscale', 'mixed', '-n', DEFENDED, '-o', 'bounded', '--tile', '0', '--device', str(here.device)]
    run = subprocess.run([sys.executable, '-c', code, *words], cwd=here.work, capture_output=True, text=True)
    if run.returncode != 1 or 'Traceback' in run.stderr or not (here.work / 'bounded' / 'b_out.png').is_file():
        raise Failed(f'exit code {run.returncode}: {run.stderr[-300:]}')
    return run.stderr.strip().splitlines()[-1]


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
        here.rsr('benchmark', '-opt', str(here.written('benchmark.yml', options)), '-o', name)
        with open(here.work / name / 'results.csv', encoding='utf-8') as file:
            tables.append([float(row['mean']) for row in csv.DictReader(file) if row['mean']])
    worst = max(abs(one - other) for one, other in zip(*tables, strict=True))
    if worst > 0.01:
        raise Failed(f'they differ by {worst:.4f}')
    return f'{len(tables[0])} figures, largest difference {worst:.1e}'


def _stability(name: str, image: torch.Tensor, device: torch.device) -> float:
    """Stability of a network under I-FGSM on a device."""
    net, lq = open_network(name).to(device), image.to(device)
    attacked = IFGSM(eps=8, steps=10, objective='stability', seed=0)(net, lq)
    with torch.no_grad():
        outputs = [(net(x)[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy() for x in (attacked, lq)]
    return calculate_stability(*outputs, crop_border=4)
