"""Draw the image of README.md: a photo, attacked, upscaled by an undefended and by a defended network.

    python scripts/plot_effect.py -o docs/effect.jpg

The photo is scikit-image's astronaut, reduced by 4 to 64x64. Each network is attacked with its own weights known.
"""

from __future__ import annotations

import rsr_basicsr  # noqa: F401  # isort: skip  (it makes ``import basicsr`` possible on new torchvision)

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from basicsr.utils import img2tensor, tensor2img
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from rsr_basicsr.attacks import PGD
from rsr_basicsr.data.sample_photos import EVALUATION
from rsr_basicsr.inference.recognition import open_network
from rsr_basicsr.metrics.stability_metric import calculate_stability
from rsr_basicsr.ops.resize import reduced
from rsr_basicsr.utils.errors import RSRError

SIDE, SCALE, BORDER = 256, 4, 4
EPS, STEPS = 8, 30
GAP, LINE, FONT = 8, 24, 16  # pixels between images, of a line of text, and of its letters


def main() -> int:
    """Write the image, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--undefended', default='realesr-general-x4v3', help='weight file, or name of rsr weights')
    parser.add_argument('--defended', default='defended-general-x4v3', help='weight file, or name of rsr weights')
    parser.add_argument('-o', '--output', type=Path, required=True, help='image to write')
    args = parser.parse_args()
    photo, (top, left) = EVALUATION['astronaut_face']
    original = photo()[top : top + SIDE, left : left + SIDE, ::-1]
    lq = img2tensor(reduced(original / 255.0, SCALE), bgr2rgb=True, float32=True)[None].clamp(0, 1)
    shown = [(['Original'], original)]
    try:
        for name in (args.undefended, args.defended):
            shown += outputs_of(Path(name).stem, open_network(name), lq)
    except RSRError as error:
        print(f'plot_effect: {error}', file=sys.stderr)
        return error.exit_code
    cv2.imwrite(str(args.output), np.concatenate([framed(lines, image) for lines, image in shown], axis=1))
    print(args.output)
    return 0


def outputs_of(name: str, net: nn.Module, lq: torch.Tensor) -> list[tuple[list[str], np.ndarray]]:
    """Label and image of the outputs of a network: clean and attacked; before them, the attacked input."""
    net = net.eval()
    attack = PGD(eps=EPS, steps=STEPS, seed=0, quantize='nearest', objective='stability')
    attacked = attack(net, lq)
    with torch.no_grad():
        clean, moved = (tensor2img(net(image).clamp(0, 1)) for image in (lq, attacked))
    stability = calculate_stability(moved, clean, crop_border=BORDER)
    seen = cv2.resize(tensor2img(attacked), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    return [
        ([f'Input, PGD-{STEPS}, eps {EPS}/255,', f'against {name}'], seen),
        ([name, 'clean input'], clean),
        ([name, f'attacked: {stability:.1f} dB from clean'], moved),
    ]


def framed(lines: list[str], image: np.ndarray) -> np.ndarray:
    """An image with lines of text below it, on white, (H, W, 3) BGR uint8."""
    canvas = Image.new('RGB', (SIDE + GAP, SIDE + 2 * LINE), 'white')
    canvas.paste(Image.fromarray(np.ascontiguousarray(image[..., ::-1])))
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        draw.text((2, SIDE + 3 + number * LINE), line, fill='black', font=ImageFont.load_default(FONT))
    return np.asarray(canvas)[..., ::-1]


if __name__ == '__main__':
    sys.exit(main())
