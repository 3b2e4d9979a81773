"""Benchmarks that are killed, resumed, shared among processes, and merged."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time

import torch

from benchmark_runs import TWICE, benchmark, command, figures, lines, lines_of
from helpers import write
from rsr_basicsr.benchmark.record import read_records
from rsr_basicsr.cli import main


def test_processes_and_kills_change_nothing(options, tmp_path):
    expected = (benchmark(options, tmp_path) / 'results.csv').read_bytes()
    assert len(expected.splitlines()) > 60 and lines(tmp_path) == 60

    two = tmp_path / 'two'
    two.mkdir()
    (two / 'twice.py').write_text(TWICE)
    launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', 'twice.py']
    run = subprocess.run([*launch, str(write(options, two / 'o.yml'))], capture_output=True, text=True, cwd=two)
    assert run.returncode == 0, run.stderr[-2000:]
    for folder, files in (('common', 2), ('apart0', 1)):
        assert (two / folder / 'results.csv').read_bytes() == expected
        written = [file.read_text().count('\n') for file in sorted((two / folder / 'record').glob('*.jsonl'))]
        assert len(written) == files and sum(written) == 60 and min(written) > 10
    assert len(list((two / 'apart0' / 'images').iterdir())) == len(list((two / 'common' / 'images').iterdir()))

    killed = tmp_path / 'killed'
    killed.mkdir()
    for _ in range(3):
        process, before = (
            subprocess.Popen(command(options, killed), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL),
            lines(killed),
        )
        while lines(killed) < before + 5 and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with open(killed / 'out' / 'record' / '0.jsonl', 'a') as file:
            file.write('{"key": "torn')  # as a kill in the middle of a line leaves it
    done = lines(killed)
    assert 15 <= done < 60
    assert main(['benchmark', '--merge', str(killed / 'out'), '-o', str(killed / 'so far')]) == 0
    assert b',pgd,8,' in (killed / 'so far' / 'results.csv').read_bytes()
    assert benchmark(options, killed) and (killed / 'out' / 'results.csv').read_bytes() == expected
    records = [
        json.loads(line)['key']
        for line in (killed / 'out' / 'record' / '0.jsonl').read_text().splitlines()
        if not line.startswith('{"key": "torn')
    ]
    assert len(records) == len(set(records))  # nothing was made twice


def test_cells_are_measured_again_after_changes(options, tmp_path, weights):
    benchmark(options, tmp_path)
    before = lines(tmp_path)
    benchmark(options, tmp_path)
    assert lines(tmp_path) == before
    options['networks']['renamed'] = options['networks'].pop('plain')
    assert ('renamed', 'bits', 'pgd', 8.0, 'stability') in figures(benchmark(options, tmp_path))
    assert lines(tmp_path) == before
    state = torch.load(weights)
    state['params']['body.0.bias'][0] += 0.01
    torch.save(state, tmp_path / 'other.pth')
    options['networks']['renamed']['weights'] = str(tmp_path / 'other.pth')
    benchmark(options, tmp_path)
    assert lines(tmp_path) == before + 2 * 3 * 5  # one network behind two defences, three images, clean and four


def test_merge(options, tmp_path, capsys):
    together = benchmark(options, tmp_path)
    runs = []
    for name in ('plain', 'defended'):
        folder = tmp_path / name
        opt = {**options, 'networks': {n: v for n, v in options['networks'].items() if n == name or n == 'nearest'}}
        opt['networks'] = opt['networks'] if name == 'plain' else {name: opt['networks'][name]}
        runs.append(str(benchmark(opt, folder)))
    assert main(['benchmark', '--merge', *runs, '-o', str(tmp_path / 'merged')]) == 0
    assert (tmp_path / 'merged' / 'results.csv').read_bytes() == (together / 'results.csv').read_bytes()
    # What was merged is a run like any other.
    assert main(['benchmark', '--merge', str(tmp_path / 'merged'), '-o', str(tmp_path / 'merged')]) == 0
    assert (tmp_path / 'merged' / 'results.csv').read_bytes() == (together / 'results.csv').read_bytes()
    # A stranger's record may name any file.
    line = (tmp_path / 'merged' / 'record' / '0.jsonl').read_text().splitlines()[0]
    record = {**json.loads(line), 'key': 'x', 'gallery': {'lq': '../../secret.png'}}
    (tmp_path / 'merged' / 'record' / 'z.jsonl').write_text(json.dumps(record) + '\n[1]\n{"key": 1}\n')
    assert {r.key for r in read_records(tmp_path / 'merged')} == {r.key for r in read_records(together)}
    capsys.readouterr()
    assert main(['benchmark', '--merge', str(tmp_path / 'nowhere'), '-o', str(tmp_path / 'x')]) == 2
    assert 'no folder of a benchmark' in capsys.readouterr().err


def test_merge_of_equal_names(options, tmp_path, weights, capsys):
    options['networks'] = {'plain': {**options['networks']['plain'], 'defenses': ['none']}}
    options['eps'] = [8]
    mine = benchmark(options, tmp_path)
    state = torch.load(weights)
    state['params']['body.0.bias'] += 0.1
    torch.save(state, tmp_path / 'other.pth')
    options['networks']['plain']['weights'] = str(tmp_path / 'other.pth')
    theirs = benchmark(options, tmp_path / 'theirs')
    assert main(['benchmark', '--merge', str(mine), str(theirs), '-o', str(tmp_path / 'both')]) == 0
    merged = figures(tmp_path / 'both')
    names = sorted({name for name, *_ in merged})
    assert len(names) == 2 and re.fullmatch(r'plain \([0-9a-f]{6}\)', names[1])
    for name, folder in zip(names, (mine, theirs)):
        assert merged[name, 'none', 'pgd', 8, 'stability'] == figures(folder)['plain', 'none', 'pgd', 8, 'stability']
    for change, message in (
        ({'mask_seeds': [0, 1, 2]}, 'different mask_seeds'),
        ({'attacks': {'pgd': {'type': 'PGD', 'steps': 1}}}, "different attacks 'pgd'"),
    ):
        other = benchmark({**options, **change}, tmp_path / message)
        capsys.readouterr()
        assert main(['benchmark', '--merge', str(mine), str(other), '-o', str(tmp_path / f'no {message}')]) == 2
        assert message in capsys.readouterr().err


def test_retried_cells_are_fetched_from_another_machine(options, tmp_path):
    """A cell that failed on one machine and succeeded on another is a success and is not measured again."""
    options['networks'] = {'nearest': options['networks']['nearest']}
    benchmark(options, tmp_path)
    for folder, keep in (('apart0', None), ('apart1', 'record')):
        (tmp_path / folder / 'record').mkdir(parents=True)
        for line in (tmp_path / 'out' / 'record' / '0.jsonl').read_text().splitlines():
            record = json.loads(line)
            if keep is None:
                record.update(error='out of memory', gallery={})
            with open(tmp_path / folder / 'record' / f'{"0" if keep is None else "1"}.jsonl', 'a') as file:
                file.write(json.dumps({**record, 'gallery': {}}) + '\n')
    options['gallery'] = 0
    (tmp_path / 'twice.py').write_text(TWICE)
    launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', 'twice.py']
    run = subprocess.run(
        [*launch, str(write(options, tmp_path / 'o.yml'))], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert not [record for record in read_records(tmp_path / 'apart0') if record.error]
    assert lines_of(tmp_path / 'apart1') == 15  # nothing was made again


def test_launcher_needs_its_variables(options, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    benchmark(options, tmp_path, '--launcher', 'pytorch', code=2)
    assert 'start with: torchrun' in capsys.readouterr().err
