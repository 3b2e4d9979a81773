"""Ten minutes on a GPU: does everything run there, does it compute what a CPU computes, and how fast is it.

    python scripts/gpu_check.py [--device cuda] [--minutes 10] [--only sync train ...] [--keep FOLDER]
                                [--photos FOLDER] [--weights RealESRGAN_x4plus.pth]

Each check prints what is expected and what was found, and goes on after a failure; the exit code is the number of
failed checks. On a CPU (``--device cpu``) the same checks run on small inputs, without those that only a GPU has.
Checks that do not fit into the time are named. The last one trains with the photos and weights in the time that is
left; with ``--keep`` its checkpoints stay.
"""

from __future__ import annotations

import rsr_basicsr  # noqa: F401  isort: skip  (it makes ``import basicsr`` possible on new torchvision)

import argparse
import contextlib
import logging
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from gpu_checks.base import Failed, Here
from gpu_checks.cost import check_estimate, check_speed, check_validation
from gpu_checks.results import check_benchmark, check_graph, check_memory, check_numbers, check_upscale
from gpu_checks.training import check_finetune, check_launcher, check_sync, check_train

from rsr_basicsr.data import write_evaluation_pairs

CHECKS: dict[str, Callable[[Here], str]] = {
    'sync': check_sync,
    'numbers': check_numbers,
    'graph': check_graph,
    'upscale': check_upscale,
    'memory': check_memory,
    'estimate': check_estimate,
    'validation': check_validation,
    'benchmark': check_benchmark,
    'train': check_train,
    'launcher': check_launcher,
    'speed': check_speed,
    'finetune': check_finetune,
}


def main() -> int:
    """Run the checks, print a line or more for each, and return the number that failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--device', type=torch.device, default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--minutes', type=float, default=10, help='time for all checks (default: 10)')
    parser.add_argument('--only', nargs='+', choices=CHECKS, default=list(CHECKS), help='default: all')
    parser.add_argument('--keep', type=Path, help='folder for what the checks write (default: a temporary one)')
    parser.add_argument('--photos', type=Path, help='folder of photos to train on (default: sample photos)')
    parser.add_argument('--weights', type=Path, help='of RealESRGAN_x4plus, to train (default: random ones)')
    args = parser.parse_args()
    logging.disable(logging.INFO)  # BasicSR prints every network
    until, failed = time.monotonic() + 60 * args.minutes, 0
    name = torch.cuda.get_device_name(args.device) if args.device.type == 'cuda' else f'{os.cpu_count()} cores'
    print(f'{args.device}, {name}, torch {torch.__version__}', flush=True)
    with _folder(args.keep) as work:
        given = (None if path is None else path.resolve() for path in (args.photos, args.weights))
        here = Here(args.device, work, until, *given)
        write_evaluation_pairs(work / 'gt', work / 'lq', gt_size=128)
        for check in args.only:
            expected = (CHECKS[check].__doc__ or '').strip()
            if here.left() <= 0:
                print(f'{check}: not run, the time is over. {expected}', flush=True)
                continue
            began = time.monotonic()
            try:
                result = f'as expected: {CHECKS[check](here)}'
            except Failed as error:
                failed, result = failed + 1, f'FAILED: {error}'
            except Exception:  # a check can end in anything, and the next one must run
                failed, result = failed + 1, f'FAILED:\n{traceback.format_exc()}'
            print(f'{check} ({time.monotonic() - began:.0f} s): {expected}\n  {result}', flush=True)
    print(f'{failed} failed')
    return failed


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        shutil.rmtree(keep, ignore_errors=True)
        keep.mkdir(parents=True)
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


if __name__ == '__main__':
    sys.exit(main())
