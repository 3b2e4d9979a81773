"""Attack networks on pictures and measure what comes out."""

from __future__ import annotations

import contextlib
from typing import Dict, Iterator, List, Sequence

import numpy as np
import torch
from basicsr.metrics import calculate_psnr
from basicsr.utils import img2tensor, tensor2img
from torch import nn

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.attacks import GradientAttack
from rsr_basicsr.attacks.base import worse
from rsr_basicsr.benchmark.record import Result
from rsr_basicsr.metrics import calculate_stability

CROP_BORDER = 4  # pixels, Yue et al. 2021


def evaluate(label: str, net: nn.Module, pictures: Dict[str, Dict[str, np.ndarray]], attacks: Sequence[GradientAttack],
             seed: int = 0) -> Iterator[List[Result]]:
    """Measure a network on clean pictures, then under each attack.

    A defended network is attacked three times, with the gate as it decides, forced open and forced shut; the result
    that the deployed network suffers most from is kept for each picture. Stability is measured against the output of
    the deployed network for the clean picture.

    Args:
        label: name of the network in the results.
        net: maps (B, 3, H, W) to (B, 3, sH, sW) in [0, 1]; in evaluation mode.
        pictures: name -> ``lq`` and ``gt``, (h, w, 3) and (sh, sw, 3) RGB uint8, all of one size.
        attacks: each gives one set of results; they should return 8-bit pictures.
        seed: of the random starts and masks.

    Yields:
        The results of all pictures, first the clean ones (eps 0), then attack by attack.
    """
    names = list(pictures)
    device = next(net.parameters()).device
    torch.manual_seed(seed)
    lq = _to_batch([pictures[name]['lq'] for name in names], device)
    clean = _upscale(net, lq)

    def results(eps, inputs, outputs):
        flagged = _flagged(net, inputs)
        for i, name in enumerate(names):
            sr, gt = _to_picture(outputs[i]), pictures[name]['gt']
            yield Result(network=label, picture=name, eps=eps, psnr=calculate_psnr(sr, gt, CROP_BORDER),
                         stability=calculate_stability(sr, _to_picture(clean[i]), CROP_BORDER) if eps else None,
                         detected=flagged[i], lq=_to_picture(inputs[i]), sr=sr)

    yield list(results(0, lq, clean))
    for attack in attacks:
        attacked, outputs = _worst_over_gates(net, lq, clean, attack)
        yield list(results(attack.eps, attacked, outputs))


def _worst_over_gates(net, lq, clean, attack):
    worst = None
    for gate in _gates(net):
        with gate():
            attacked = attack(net, lq, clean if not attack.objective.needs_ground_truth else None)
        outputs = _upscale(net, attacked)
        error = (outputs - clean).square().flatten(1).sum(1)
        # The outputs are kept, not made again: the masks are drawn anew at every pass.
        worst = worse(worst, (error, attacked, outputs))
    return worst[1:]


def _gates(net):
    yield contextlib.nullcontext
    if _decides(net):
        yield lambda: net.defense.forced(True)
        yield lambda: net.defense.forced(False)


def _flagged(net, inputs):
    return net.defense.attacked(inputs).tolist() if _decides(net) else [None] * len(inputs)


def _decides(net):
    return isinstance(net, DefenseMixin) and net.defense.gate in ('classifier', 'soft')


@torch.no_grad()
def _upscale(net, lq):
    return net(lq).clamp(0, 1)


def _to_batch(pictures, device):
    return torch.stack(img2tensor([p.astype(np.float32) / 255 for p in pictures], bgr2rgb=False)).to(device)


def _to_picture(x):
    return tensor2img(x, rgb2bgr=False)
