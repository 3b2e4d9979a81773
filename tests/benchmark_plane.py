"""Results on the plane of sharpness and robustness, with known numbers, and a measure that tells sharpness."""

from __future__ import annotations

import numpy as np
import torch
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from basicsr.utils.registry import ARCH_REGISTRY, METRIC_REGISTRY
from torch.nn import functional as F

from rsr_basicsr.benchmark.record import Record
from rsr_basicsr.benchmark.summary import Results

METRICS = {
    'stability': {'type': 'calculate_stability', 'crop_border': 4},
    'lpips': {'type': 'calculate_lpips', 'crop_border': 4},
    'moved': {'type': 'calculate_perceptual_stability', 'crop_border': 4, 'measure': 'lpips'},
    'lr': {'type': 'calculate_lr_consistency', 'crop_border': 4},
}
#: Differences of the images to the mean; their own mean is 0
SPREAD = np.array([-0.03, -0.02, -0.01, 0.01, 0.02, 0.03])


def records_of(network, defense, clean, attacked, stability, dataset='Set6', images=6, seed=0, **fields):
    """Records of six images, clean and under two attacks at eps 2 and 8; each argument is the mean over the images.

    The attack ``weak`` leaves 3 dB more and a distance that is 0.01 lower.
    """
    spread = np.random.default_rng([len(network), len(defense), seed]).permutation(SPREAD)
    found = []
    for eps, attack, milder in ((0, 'clean', 0), (2, 'strong', 0), (8, 'strong', 0), (2, 'weak', 1), (8, 'weak', 1)):
        for image in range(images):
            distance = (clean if not eps else attacked + (eps - 8) * 0.01 - 0.01 * milder) + spread[image]
            values = {'lpips': [float(distance)], 'lr': [30.0 - eps]}
            if eps:
                values['stability'] = [stability + 2 * (8 - eps) + 3 * milder + 50 * spread[image]]
                values['moved'] = [0.1 + eps / 100 - 0.01 * milder]
            found.append(
                Record(
                    f'{network}{defense}{dataset}{attack}{eps}{image}',
                    network,
                    defense,
                    attack,
                    float(eps),
                    dataset,
                    f'image {image}',
                    values=values,
                    attack_options={'type': 'PGD'} if eps else {},
                    facts={'type': 'SRVGGNetCompact', 'fingerprint': network, **fields},
                )
            )
    return found


def plane_results(records, metrics=METRICS, **plane):
    """Results with the options that belong to them: defences that are called ``blend A`` are blends."""
    defenses = {
        record.defense: {'type': 'Blend', 'alpha': float(record.defense.split()[1])}
        if record.defense.startswith('blend')
        else {'type': 'JPEG'}
        for record in records
        if record.defense != 'none'
    }
    networks = {record.network: {'type': record.facts['type']} for record in records}
    options = {
        'name': 'known',
        'metrics': {name: dict(metric) for name, metric in metrics.items()},
        'networks': networks,
        'defenses': {'none': {}, **defenses},
        'plane': {'measure': 'lpips', 'reference': 'old', 'match': True, 'alphas': {}, 'dataset': 'Set6', **plane},
    }
    return Results(records, options)


def known_records(**fields):
    """A reference with its line of blends, a network that beats it, one that does not, a blurry one, and a defence."""
    old = [('none', 0.35, 0.50, 15), ('blend 0.5', 0.42, 0.52, 20), ('blend 0.25', 0.50, 0.55, 26)]
    new = [('none', 0.30, 0.40, 18), ('blend 0.8', 0.40, 0.44, 24)]
    bad = [('none', 0.33, 0.55, 14), ('blend 0.9', 0.37, 0.56, 15)]
    return [
        *(record for point in old for record in records_of('old', *point, **fields)),
        *records_of('old', 'jpeg', 0.46, 0.56, 19, **fields),
        *(record for point in new for record in records_of('new', *point, **fields)),
        *(record for point in bad for record in records_of('bad', *point, **fields)),
        *records_of('blurry', 'none', 0.46, 0.50, 26, **fields),
        *(record for record in records_of('cubic', 'none', 0.60, 0.61, 30, **{**fields, 'type': 'Interpolation'})),
    ]


def energy(image):
    """Mean absolute gradient of an image, (H, W, 3)."""
    image = image.astype(np.float64)
    return np.abs(np.diff(image, axis=0)).mean() + np.abs(np.diff(image, axis=1)).mean()


@METRIC_REGISTRY.register()
def calculate_lost_edges(img, img2, brightest=255, **kwargs):
    """How much less gradient the output has than three times that of the original: lower is sharper."""
    if img2.mean() > brightest:
        raise RuntimeError('too bright')
    return float(3 * energy(img2) - energy(img))


@METRIC_REGISTRY.register()
def calculate_edges(img, img2, **kwargs):
    """The gradient of the output: a distance that prefers blur."""
    return float(energy(img))


LOST_EDGES = {'type': 'calculate_lost_edges', 'better': 'lower'}


@ARCH_REGISTRY.register()
class Stretched(SRVGGNetCompact):
    """``bicubic + amount * (network - bicubic)``."""

    def __init__(self, amount=1.0, **kwargs):
        super().__init__(**kwargs)
        self.amount = amount

    def forward(self, x):
        base = F.interpolate(x, scale_factor=4, mode='bicubic', align_corners=False)
        return base + self.amount * (super().forward(x) - base)


def blended(net, lq, alpha):
    """The blend of a network with bicubic upscaling as an 8-bit image, (H, W, 3) in BGR."""
    with torch.no_grad():
        base = F.interpolate(lq, scale_factor=4, mode='bicubic', align_corners=False).numpy()
        output = base + alpha * (net(lq).numpy() - base)
    return np.rint(output[0].clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)[..., ::-1]
