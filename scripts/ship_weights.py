"""Put trained weights into the package, as rsr weights finds them: the backbone alone, in half precision.

    python scripts/ship_weights.py defended-general-x4v3 experiments/NAME/models/net_g_latest.pth

Of several checkpoints, which must have started from the same weights, the mean is taken (Wortsman et al. 2022). Prints
the values for the table in rsr_basicsr/weights/official.py, and by how much half precision moves the output for a
photo.
The model card beside the file is written by hand.
"""

from __future__ import annotations

import rsr_basicsr  # noqa: F401  # isort: skip  (it makes ``import basicsr`` possible on new torchvision)

import argparse
import sys
from pathlib import Path

import torch
from skimage import data

from rsr_basicsr.catalog.weights import SHIPPED
from rsr_basicsr.inference.recognition import open_network
from rsr_basicsr.utils.errors import RSRError
from rsr_basicsr.weights.state_dict import file_sha256, load_state


def main() -> int:
    """Write the file, print what it is, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('name', help='of the weights')
    parser.add_argument('checkpoints', type=Path, nargs='+', metavar='CHECKPOINT', help='of rsr train')
    parser.add_argument('-o', '--output', type=Path, help='file to write instead, elsewhere')
    args = parser.parse_args()
    try:
        states = [backbone_of(path) for path in args.checkpoints]
        trained = open_network(str(args.checkpoints[0]))
    except RSRError as error:
        print(f'ship_weights: {error}', file=sys.stderr)
        return error.exit_code
    if any(shapes_of(state) != shapes_of(states[0]) for state in states):
        print('ship_weights: the checkpoints are of different networks; give those of one', file=sys.stderr)
        return 2
    backbone = {key: torch.stack([state[key].float() for state in states]).mean(0) for key in states[0]}
    trained.load_state_dict(backbone, strict=False)  # a defended one keeps its defence
    path = args.output or SHIPPED / f'{args.name}.pth'
    path.parent.mkdir(exist_ok=True, parents=True)
    torch.save({'params': {key: value.half().contiguous() for key, value in backbone.items()}}, path)
    photo = torch.from_numpy(data.astronaut()[:128, :128].copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        moved = (open_network(str(path))(photo) - trained(photo)).abs()
    print(f"sha256='{file_sha256(path)}',\nsize={path.stat().st_size},")
    print(f'half precision moves the output for a photo by {float(moved.max()) * 255:.3f} grey levels at most')
    return 0


def backbone_of(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint without those of the defence."""
    return {key: value for key, value in load_state(path).items() if not key.startswith('defense.')}


def shapes_of(state: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    """The shape of each tensor by its name."""
    return {key: value.shape for key, value in state.items()}


if __name__ == '__main__':
    sys.exit(main())
