"""Blends that are as sharp as the reference: found, named, measured, and the same in every process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs.srvgg_arch import SRVGGNetCompact

from benchmark_plane import LOST_EDGES, blended, calculate_lost_edges
from benchmark_runs import SMALL, benchmark, figures, lines
from helpers import write
from rsr_basicsr.benchmark.matching import CleanBlends, resolve_plane, smallest_alpha
from rsr_basicsr.benchmark.options import check_benchmark
from rsr_basicsr.cli import main
from rsr_basicsr.utils.errors import OptionsError

TESTS = Path(__file__).parents[1]


@pytest.fixture
def plane(options, weights):
    """Options of a reference, and of networks that are it, stretched away from bicubic upscaling."""
    block = {**SMALL, 'weights': str(weights), 'defenses': ['none']}
    options['networks'] = {
        'old': {'type': 'SRVGGNetCompact', **block},
        'sharper': {'type': 'Stretched', 'amount': 1.25, **block},
        'duller': {'type': 'Stretched', 'amount': 0.8, **block},
        'dull': {'type': 'Stretched', 'amount': 0.5, **block},
        'cubic': {'type': 'Interpolation', 'mode': 'bicubic', 'defenses': ['none']},
    }
    options.update(defenses={}, mask_seeds=[0], gallery=0, eps=[8], plane={}, metrics={'edges': dict(LOST_EDGES)})
    options['plane'] = {'measure': 'edges', 'alphas': [0.5, 1]}
    return options


@pytest.mark.parametrize('seed', range(20))
def test_search_is_that_of_brute_force(seed):
    rng = np.random.default_rng(seed)
    lowest = rng.integers(-20, 160)
    steps = rng.random(181) * rng.choice([0.1, 1], 181)
    curve = np.array([steps[min(a, lowest) : max(a, lowest)].sum() for a in range(141)])  # falls, then rises
    for level in np.quantile(curve, [0, 0.02, 0.2, 0.6, 1]):
        expected = next((alpha for alpha in range(141) if curve[alpha] <= level), None)
        tried = []
        found = smallest_alpha(lambda alphas: tried.extend(alphas) or curve[alphas], level)
        assert found == expected and len(tried) == len(set(tried)) < 40
    assert smallest_alpha(lambda alphas: curve[alphas], curve.min() - 1e-9) is None


def test_stretched_networks_are_matched_by_their_inverse(plane, tmp_path):
    out = benchmark(plane, tmp_path)
    kept = json.loads((out / 'options.json').read_text())
    assert kept['plane']['matched'] == {'sharper': 0.8, 'duller': 1.25, 'dull': None}
    assert kept['defenses']['blend 0.8'] == {'type': 'Blend', 'alpha': 0.8}
    assert [network['defenses'] for network in kept['networks'].values()] == [
        ['none', 'blend 0.5'],
        ['none', 'blend 0.8'],
        ['none', 'blend 1.25'],
        ['none'],
        ['none'],
    ]
    found = figures(out)
    for name, blend in (('sharper', 'blend 0.8'), ('duller', 'blend 1.25')):
        for attack, eps, metric in (('clean', 0, 'edges'), ('pgd', 8, 'stability'), ('pgd', 8, 'edges')):
            expected = found['old', 'none', attack, eps, metric]
            assert found[name, blend, attack, eps, metric] == pytest.approx(expected, abs=0.03)
    assert found['dull', 'none', 'clean', 0, 'edges'] == pytest.approx(
        found['old', 'blend 0.5', 'clean', 0, 'edges'], abs=0.03
    )
    assert found['cubic', 'none', 'clean', 0, 'edges'] == pytest.approx(kept['plane']['bicubic'], abs=1e-4)
    assert found['old', 'none', 'clean', 0, 'edges'] == pytest.approx(kept['plane']['level'], abs=1e-4)


def test_matched_again_nothing_is_measured_again(plane, tmp_path):
    benchmark(plane, tmp_path)
    before = lines(tmp_path)
    benchmark(plane, tmp_path)
    assert lines(tmp_path) == before


def test_distances_are_those_of_every_blend(plane, pairs, weights):
    plane, images = check_benchmark(plane)
    alphas = list(range(0, 141, 7))
    found = CleanBlends(plane, images).distances('old', alphas)
    net = SRVGGNetCompact(**SMALL)
    net.load_state_dict(torch.load(weights)['params'])
    assert found.shape == (3, len(alphas))
    for row, image in zip(found, images):
        lq, gt = (cv2.imread(str(pairs / kind / f'{image.name}.png')) for kind in ('lq', 'gt'))
        x = torch.from_numpy(lq[..., ::-1].transpose(2, 0, 1) / np.float32(255))[None]
        expected = [calculate_lost_edges(blended(net, x, alpha / 100), gt) for alpha in alphas]
        assert row == pytest.approx(np.array(expected), abs=1e-2)  # a rounding may differ


def test_failing_image_is_left_out(plane, pairs):
    _, images = check_benchmark(plane)
    bright = [cv2.imread(str(pairs / 'gt' / f'{image.name}.png')).mean() for image in images]
    plane['metrics']['edges']['brightest'] = float(np.mean(sorted(bright)[1:]))  # all but the brightest
    blends = CleanBlends(*check_benchmark(plane))
    found = blends.distances('old', [0, 100])
    assert np.isnan(found).any(axis=1).tolist() == [value == max(bright) for value in bright]
    assert blends.error == 'too bright' and blends.matched('sharper', found[:, 1]) == 0.8
    plane['metrics']['edges']['brightest'] = 0
    with pytest.raises(OptionsError, match='edges cannot be computed for old on any image of photos: too bright'):
        resolve_plane(*check_benchmark(plane), progress=False)


def test_measure_that_prefers_blur_matches_nothing(plane, tmp_path, capsys):
    plane['metrics'] = {'edges': {'type': 'calculate_edges', 'better': 'lower'}}
    out = benchmark(plane, tmp_path)
    assert json.loads((out / 'options.json').read_text())['plane']['matched'] == {}
    assert 'old is no closer to the original than bicubic upscaling' in ' '.join(capsys.readouterr().out.split())


def test_match_can_be_left_out(plane):
    plane['plane'] = {'measure': 'edges', 'match': False, 'alphas': {'sharper': [0.7], 'old': [0.5]}}
    resolved = resolve_plane(*check_benchmark(plane), progress=False)
    assert resolved['plane']['matched'] == {}
    assert {name: net['defenses'] for name, net in resolved['networks'].items()} == {
        'old': ['none', 'blend 0.5'],
        'sharper': ['none', 'blend 0.7'],
        'duller': ['none'],
        'dull': ['none'],
        'cubic': ['none'],
    }


def test_defended_networks_are_not_matched(plane):
    plane['defenses'] = {'jpeg': {'type': 'JPEG'}}
    plane['networks']['sharper']['defenses'] = ['jpeg']
    plane['networks']['duller']['defenses'] = ['none', 'jpeg']
    resolved = resolve_plane(*check_benchmark(plane), progress=False)
    assert set(resolved['plane']['matched']) == {'duller', 'dull'}
    assert resolved['networks']['sharper']['defenses'] == ['jpeg']


def test_processes_agree(plane, tmp_path):
    expected = (benchmark(plane, tmp_path) / 'results.csv').read_bytes()
    two = tmp_path / 'two'
    two.mkdir()
    (two / 'of_tests.py').write_text(f'import sys; sys.path.insert(0, {str(TESTS)!r}); import benchmark_plane')
    launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', '-m']
    launch += ['rsr_basicsr.cli', 'benchmark', '--launcher', 'pytorch', '--import', 'of_tests', '-o', 'out']
    run = subprocess.run([*launch, '-opt', str(write(plane, two / 'o.yml'))], capture_output=True, text=True, cwd=two)
    assert run.returncode == 0, run.stderr[-2000:]
    assert (two / 'out' / 'results.csv').read_bytes() == expected
    assert len(list((two / 'out' / 'record').iterdir())) == 2


def test_merged_runs_are_compared_at_one_sharpness(plane, tmp_path, capsys):
    runs = []
    for name in ('sharper', 'duller'):
        networks = {kept: plane['networks'][kept] for kept in ('old', name)}
        runs.append(benchmark({**plane, 'networks': networks}, tmp_path / name))
    capsys.readouterr()
    assert main(['benchmark', '--merge', *map(str, runs), '-o', str(tmp_path / 'both')]) == 0
    printed = capsys.readouterr().out
    assert 'sharper at the sharpness of old (blend 0.80)' in printed and 'old (blend 1.25)' in printed
    kept = json.loads((tmp_path / 'both' / 'options.json').read_text())
    assert kept['plane']['matched'] == {'sharper': 0.8, 'duller': 1.25}

    def merged(change, message):
        options = json.loads((runs[1] / 'options.json').read_text())
        options['plane'].update(change)
        (runs[1] / 'options.json').write_text(json.dumps(options))
        assert main(['benchmark', '--merge', *map(str, runs), '-o', str(tmp_path / 'x')]) == 2
        assert message in capsys.readouterr().err

    merged({'reference': 'duller'}, 'the runs have different plane.reference')
    merged({'bicubic': '0.3'}, 'does not hold the options of a benchmark')
    merged({'bicubic': 1, 'matched': 'all'}, 'no folder of a benchmark')
