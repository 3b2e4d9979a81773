"""Run benchmarks of small networks and read their results."""

from __future__ import annotations

import sys

from helpers import write
from rsr_basicsr.cli import main

SMALL = dict(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=4, act_type='prelu')


def benchmark(opt, folder, *flags, code=0):
    """Run ``rsr benchmark`` in this process, and return the folder of its results."""
    folder.mkdir(exist_ok=True)
    file = write(opt, folder / 'options.yml')
    assert main(['benchmark', '-opt', str(file), '-o', str(folder / 'out'), *flags]) == code
    return folder / 'out'


def offline(opt):
    """Options with a measure that needs no weights in place of ``auto``, which may download some."""
    if isinstance(opt, dict):
        return {
            key: 'local_contrast' if (key, value) == ('measure', 'auto') else offline(value)
            for key, value in opt.items()
        }
    return [offline(value) for value in opt] if isinstance(opt, list) else opt


def figures(folder):
    """(network, defense, attack, eps, metric) -> the mean in results.csv."""
    lines = [line.split(',') for line in (folder / 'results.csv').read_text().splitlines()[1:]]
    return {(*line[1:4], float(line[4]), line[5]): float(line[6]) for line in lines if line[6]}


def command(opt, folder, *launch):
    return [
        sys.executable,
        *launch,
        '-m',
        'rsr_basicsr.cli',
        'benchmark',
        '-opt',
        str(write(opt, folder / 'o.yml')),
        '-o',
        str(folder / 'out'),
    ]


TWICE = """
import sys
from pathlib import Path
from rsr_basicsr.benchmark.report.output import write_results
from rsr_basicsr.benchmark.run import is_first, launched, run_benchmark
from rsr_basicsr.options import load_options
from rsr_basicsr.benchmark.options import check_benchmark

options, images = check_benchmark(load_options(sys.argv[1]))
with launched('pytorch'):
    for folder in ('common', 'apart0' if is_first() else 'apart1'):  # as on machines that do not share one
        records = run_benchmark(options, images, Path(folder), progress=False)
        if is_first():
            write_results(Path(folder), records, options)
"""


def lines_of(folder):
    return sum(file.read_bytes().count(b'\n') for file in folder.glob('record/*.jsonl'))


def lines(folder):
    return lines_of(folder / 'out')
