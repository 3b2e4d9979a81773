"""Checks of what a GPU takes: memory as estimated, a validation under attack, and the time of a step."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch
from basicsr.archs import build_network
from PIL import Image

from gpu_checks.base import Failed, Here, pixels

_SCRIPTS = Path(__file__).resolve().parents[1]
_TOLERANCE = 0.25  # between estimated and measured memory; fragments and workspaces are not counted


def check_estimate(here: Here) -> str:
    """The peak of a GAN step of x4plus is what rsr check estimates, to 25 %."""
    if not here.on_gpu:
        return 'a GPU only; on a CPU tests/check/test_check_memory.py measures it'
    from benchmark_training import build, count, peak_on_gpu

    estimated = count('finetune/finetune_defended_realesrgan_x4plus.yml').of(12) / 2**30
    model = build(here.device, 'RealESRGANModel', {'steps': 2, 'share': 0.5})
    measured = peak_on_gpu(model, here.device)
    found = f'estimated {estimated:.1f} GiB, measured {measured:.1f} GiB'
    if abs(measured / estimated - 1) > _TOLERANCE:
        raise Failed(found)
    return found


def check_validation(here: Here) -> str:
    """rsr test attacks an image of 510x340 whole, and rsr check has told what it takes."""
    width, height = (510, 340) if here.on_gpu else (48, 32)
    blocks = {} if here.on_gpu else {'num_block': 1}
    network = {'type': 'DefendedRRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, **blocks, 'defense': {'gate': 'never'}}
    torch.save({'params': build_network(dict(network)).state_dict()}, here.work / 'untrained.pth')
    for name, scale in (('large_gt', 4), ('large_lq', 1)):
        (here.work / name).mkdir(exist_ok=True)
        Image.fromarray(pixels(scale * width, scale * height)).save(here.work / name / 'photo.png')
    options = {
        'name': 'validation',
        'model_type': 'DefendedSRModel',
        'scale': 4,
        'num_gpu': 1 if here.on_gpu else 0,
        'manual_seed': 0,
        'network_g': network,
        'datasets': {
            'test_1': {
                'name': 'large',
                'type': 'PairedImageDataset',
                'dataroot_gt': 'large_gt',
                'dataroot_lq': 'large_lq',
                'io_backend': {'type': 'disk'},
            }
        },
        'path': {'pretrain_network_g': 'untrained.pth'} if here.weights is None else here.path_of_weights(),
        'val': {
            'save_img': False,
            'suffix': None,
            'attack': {'type': 'IFGSM', 'eps': 8, 'steps': 2, 'seed': 0},
            'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 4}},
        },
    }
    file = str(here.written('validation.yml', options))
    told = re.search(r'memory of val.attack: .*', here.rsr('check', file))
    log = here.rsr('test', '-opt', file)
    measured = re.search(r'stability: *([\d.]+|inf)', log)
    if told is None or measured is None:
        raise Failed(log[-300:])
    tiles = ' (in tiles, as it did not fit)' if 'does not fit into the GPU whole' in log else ''
    return f'stability {measured[1]} dB{tiles}; {told[0]}'


def check_speed(here: Here) -> str:
    """A GAN step with one attack step at most 1.2x the plain step, two on half of the batch at most 1.3x."""
    if not here.on_gpu:
        return 'a GPU only; on a CPU: python scripts/benchmark_training.py'
    words = ['--only', 'gan', 'passes', 'step', 'memory', 'profile', '--device', str(here.device)]
    return '\n' + here.run([sys.executable, str(_SCRIPTS / 'benchmark_training.py'), *words])
