"""How long commands take that compute nothing, beside Python itself and the import of torch and BasicSR.

    python scripts/benchmark_startup.py

Each is started ``--runs`` times, in turn, and the median is printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ENTRIES = Path(__file__).resolve().parents[1] / 'docs' / 'leaderboard' / 'general_x4v3_baselines.jsonl'
RSR = ['-m', 'rsr_basicsr.cli']
#: What is timed: title -> arguments of Python, exit code
COMMANDS: dict[str, tuple[list[str], int]] = {
    'python -c pass': (['-c', 'pass'], 0),
    'import torch': (['-c', 'import torch'], 0),
    'import rsr_basicsr, basicsr': (['-c', 'import rsr_basicsr, basicsr'], 0),
    'rsr --help': ([*RSR, '--help'], 0),
    'rsr --version': ([*RSR, '--version'], 0),
    'rsr options': ([*RSR, 'options'], 0),
    'rsr weights --list': ([*RSR, 'weights', '--list'], 0),
    'rsr leaderboard FILE': ([*RSR, 'leaderboard', str(ENTRIES)], 0),
    'rsr upscale --tle 3 (mistyped)': ([*RSR, 'upscale', '--tle', '3'], 2),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--runs', type=int, default=5, help='runs of each (default: 5)')
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {title: [] for title in COMMANDS}
    for _ in range(args.runs):
        for title, (words, code) in COMMANDS.items():
            begin = time.perf_counter()
            # Both streams are closed to the terminal, as neither is looked at.
            run = subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            seconds[title].append(time.perf_counter() - begin)
            if run.returncode != code:
                raise SystemExit(f'{title}: exit code {run.returncode}, expected {code}')
    medians = {title: statistics.median(found) for title, found in seconds.items()}
    everything = medians['import rsr_basicsr, basicsr']
    print(f'{os.cpu_count()} cores, median of {args.runs} runs')
    for title, found in medians.items():
        print(f'{title:<32}{found:7.2f} s{found / everything:8.1%} of importing everything')
    return 0


if __name__ == '__main__':
    sys.exit(main())
