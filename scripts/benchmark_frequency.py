"""Cost of the frequency mask: against torch-dct, and as a share of a network's forward pass and training step.

    pip install --no-build-isolation -e .[benchmark]
    python scripts/benchmark_frequency.py [--device cpu|cuda] [--only mask forward regions]

Both sides of a ratio are timed in turn in one run, and the fastest run of each counts, since other work on the machine
only slows runs down. Targets are in brackets. Takes about 7 minutes on two CPU cores.
"""

import rsr_basicsr  # noqa: F401  isort: skip  (it makes ``import basicsr`` possible on new torchvision)

import argparse
import functools
from typing import Any

import torch
from basicsr.archs import build_network
from basicsr.losses import build_loss
from timing import describe, fastest

from rsr_basicsr.archs import RandomFrequencyMask
from rsr_basicsr.losses.component_loss import region_maps

# Shape of the tensor, runs per side, target: least speed-up.
MASKED = [
    ((8, 64, 48, 48), 60, 10),
    ((12, 3, 64, 64), 400, 10),
    ((1, 64, 480, 640), 3, 4),
    ((1, 3, 1080, 1920), 15, 1.2),
]
# Network, runs at 128x128 and 256x256, targets: largest ratio with the classifier alone, with all masks.
FORWARD: list[tuple[dict[str, Any], tuple[int, int], float, float]] = [
    (dict(type='RRDBNet', num_in_ch=3, num_out_ch=3, num_feat=64, num_block=23, num_grow_ch=32), (3, 2), 1.01, 1.03),
    (dict(type='SRVGGNetCompact', num_feat=64, num_conv=32, upscale=4), (20, 10), 1.05, 1.15),
]
REGION_SHARE = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--device', type=torch.device, default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--only', nargs='+', choices=SECTIONS, default=list(SECTIONS), help='default: all sections')
    args = parser.parse_args()
    print(f'{describe(args.device)}, float32')
    for section in args.only:
        SECTIONS[section](args.device)


def time_mask(device: torch.device) -> None:
    """Forward and backward pass of the mask module, with our DCT and with torch-dct's."""
    try:
        import torch_dct
    except ImportError:
        raise SystemExit('benchmark_frequency: torch-dct is missing; pip install torch-dct') from None

    class OnTorchDCT(RandomFrequencyMask):
        @staticmethod
        def erase(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return torch_dct.idct_2d(torch_dct.dct_2d(x, norm='ortho') * mask, norm='ortho')

    print('\nmask, forward + backward        torch-dct        ours   speed-up')
    for shape, times, target in MASKED:
        x = torch.randn(shape, device=device, requires_grad=True)
        gradient = torch.randn_like(x)
        sides = [
            lambda mask=mask: torch.autograd.grad(mask(x), x, gradient)
            for mask in (OnTorchDCT(), RandomFrequencyMask())
        ]
        theirs, ours = fastest(sides, times, device)
        print(
            f'{"x".join(map(str, shape)):<26}{theirs * 1e3:12.2f} ms{ours * 1e3:9.2f} ms{theirs / ours:9.1f}x'
            f'  (at least {target}x)'
        )


def time_forward(device: torch.device) -> None:
    """Forward pass of the defended network against the backbone: whole passes in turn, and the added parts alone.

    The added parts take about 1 % of a pass, no more than whole passes vary between runs on most machines.
    """
    print(
        '\nforward pass                     backbone    classifier only           all masks'
        '\n                                           in turn, by parts   in turn, by parts'
    )
    for options, repeats, with_classifier, with_masks in FORWARD:
        for size, times in zip((128, 256), repeats):
            x = torch.rand(1, 3, size, size, device=device)
            nets = [
                build_network(dict(options)),
                *(
                    build_network(
                        {
                            **options,
                            'type': f'Defended{options["type"]}',
                            'defense': {'classifier': {'threshold': threshold}},
                        }
                    )
                    for threshold in (0.0, 1.0)
                ),
            ]
            for net in nets:
                net.eval().to(device)
                net.load_state_dict(nets[0].state_dict())
            with torch.no_grad():
                plain, shut, open_ = fastest([functools.partial(net, x) for net in nets], times, device)
                classifier, masks = time_parts(nets[-1], x)
            print(
                f'{options["type"]:<17}{size}x{size}{plain * 1e3:13.0f} ms'
                f'{shut / plain:9.3f}x {1 + classifier / plain:6.3f}x ({with_classifier:.2f}x)'
                f'{open_ / plain:8.3f}x {1 + (classifier + masks) / plain:6.3f}x ({with_masks:.2f}x)'
            )


def time_parts(net: Any, x: torch.Tensor) -> list[float]:
    """Seconds that the classifier and the masks of a defended network take for ``x`` on their own."""
    defense = net.defense
    tensors = [
        (
            torch.rand(1, place.shape[0], *(place.repeat * size for size in place.shape[1:]), device=x.device),
            place.repeat,
        )
        for place in net.mask_places(*x.shape[-2:])
    ]

    def masks() -> None:
        with defense.obeying(torch.ones(1, device=x.device)):
            for tensor, repeat in tensors:
                defense.apply_mask(tensor, repeat)

    return fastest([lambda: defense.decide(x), masks], 10, x.device)


def time_regions(device: torch.device) -> None:
    """Region maps by Harris corners, as a share of CDC's training step on a clean batch."""
    batch = 16 if device.type == 'cuda' else 2
    net = build_network(dict(type='CDC')).to(device)
    net.returns_components = True
    loss, optimizer = build_loss(dict(type='ComponentLoss')), torch.optim.Adam(net.parameters(), 2e-4)
    lq, hr = (torch.rand(batch, 3, size, size, device=device) for size in (48, 192))

    def step() -> None:
        optimizer.zero_grad()
        loss(net(lq), hr).backward()
        optimizer.step()

    whole, maps = fastest([step, lambda: region_maps(hr)], 3, device)
    print(
        f'\nregion maps, batch of {batch}: {maps * 1e3:.1f} ms of a step of {whole * 1e3:.0f} ms, {maps / whole:.2%}'
        f'  (at most {REGION_SHARE:.0%})'
    )


SECTIONS = {'mask': time_mask, 'forward': time_forward, 'regions': time_regions}


if __name__ == '__main__':
    main()
