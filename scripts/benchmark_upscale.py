"""What ``rsr upscale`` gains by reading and writing images while it computes others.

    python scripts/benchmark_upscale.py [--device cpu|cuda] [--photos 12] [--size 128]

Crops of photos go through ``upscale_files`` one after the other, and with threads that read and write. Both sides of a
ratio alternate in one run, and the fastest run of each counts. On a CPU the threads share the cores with the network.
So there is a third network, which lets the cores idle as long as its images take to be written: a GPU as fast as that.
Takes about two minutes on two CPU cores.
"""

import rsr_basicsr  # noqa: F401  isort: skip  (it makes ``import basicsr`` possible on new torchvision)

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import torch
from skimage import data
from timing import describe, fastest

from rsr_basicsr.archs import Interpolation
from rsr_basicsr.inference.batch import Naming, find_files, upscale_files
from rsr_basicsr.inference.beside import AHEAD
from rsr_basicsr.inference.image_io import LoadedImage, read_image, write_image
from rsr_basicsr.inference.recognition import open_network
from rsr_basicsr.inference.upscaler import Upscaler

PHOTOS = (data.astronaut, data.coffee, data.chelsea, data.rocket)
SCALE = 4


class Waiting(Interpolation):
    """Bicubic interpolation that waits without using a core."""

    def __init__(self, seconds: float) -> None:
        super().__init__(scale=SCALE)
        self.seconds = seconds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return super().forward(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--photos', type=int, default=12, help='how many (default: 12)')
    parser.add_argument('--size', type=int, default=128, help='their height and width (default: 128)')
    parser.add_argument('--runs', type=int, default=3, help='runs of each side (default: 3)')
    args = parser.parse_args()
    print(f'{describe(torch.device(args.device))}, {args.photos} photos of {args.size}x{args.size}, x{SCALE}, PNG')
    with tempfile.TemporaryDirectory() as work:
        photos = written_photos(Path(work) / 'photos', args.photos, args.size)
        writing = seconds_of_writing(photos, Path(work) / 'one.png')
        networks: dict[str, Callable[[], torch.nn.Module]] = {
            'defended-general-x4v3': lambda: open_network('defended-general-x4v3'),
            'bicubic': lambda: Interpolation(scale=SCALE),
            f'bicubic, and waits {writing:.2f} s': lambda: Waiting(writing),
        }
        print(f'{"":<30}one after the other{f"{AHEAD} written meanwhile":>22}    ratio')
        for name, build in networks.items():
            print(row(name, build(), photos, Path(work) / 'results', args.runs, args.device), flush=True)


def written_photos(folder: Path, number: int, size: int) -> Path:
    """Write crops of the photos of scikit-image as PNG files."""
    folder.mkdir()
    for index in range(number):
        photo = PHOTOS[index % len(PHOTOS)]()
        top, left = (index * 37 % (side - size + 1) if side > size else 0 for side in photo.shape[:2])
        cv2.imwrite(str(folder / f'{index:03d}.png'), photo[top : top + size, left : left + size, ::-1])
    return folder


def seconds_of_writing(photos: Path, target: Path) -> float:
    """How long it takes to write the result of the first photo."""
    image = read_image(min(photos.iterdir()))
    upscaled = LoadedImage(Interpolation(scale=SCALE)(image.rgb))
    (found,) = fastest([lambda: write_image(target, upscaled)], 3, torch.device('cpu'))
    return found


def row(name: str, net: torch.nn.Module, photos: Path, results: Path, runs: int, device: str) -> str:
    """The times of both sides, and their ratio."""
    upscaler, naming = Upscaler(net, device=device), Naming(results, overwrite=True)
    files = find_files([photos], naming).files

    def side(ahead: int) -> Callable[[], None]:
        def run() -> None:
            failed = [result.error for result in upscale_files(files, upscaler, naming, ahead) if result.error]
            assert not failed, failed

        return run

    in_turn, beside = fastest([side(0), side(AHEAD)], runs, torch.device(device))
    return f'{name:<30}{in_turn:17.2f} s{beside:20.2f} s {beside / in_turn:8.2f}x'


if __name__ == '__main__':
    main()
