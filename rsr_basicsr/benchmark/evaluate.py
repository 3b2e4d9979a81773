"""Attack networks on pictures and measure what comes out."""

from __future__ import annotations

from typing import Dict, Iterator, List, Sequence

import numpy as np
import torch
from basicsr.metrics import calculate_psnr
from basicsr.utils import img2tensor, tensor2img
from torch import nn

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.attacks import Attack, worst_of
from rsr_basicsr.benchmark.record import Result
from rsr_basicsr.metrics import calculate_stability

CROP_BORDER = 4  # pixels, Yue et al. 2021


def evaluate(label: str, net: nn.Module, pictures: Dict[str, Dict[str, np.ndarray]], attacks: Sequence[Attack],
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
    gt = _to_batch([pictures[name]['gt'] for name in names], device)
    for attack in attacks:
        target = gt if attack.objective.needs_ground_truth else clean
        attacked = worst_of(_knowing_the_gate(net, attack))(net, lq, target)
        yield list(results(attack.eps, attacked, _upscale(net, attacked)))


def _knowing_the_gate(net, attack):
    if not _decides(net) or attack.uses != 'gradients':
        return [attack]
    return [attack, attack.but(gate='always'), attack.but(gate='never')]


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
