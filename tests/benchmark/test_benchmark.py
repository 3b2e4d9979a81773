"""The benchmark: closed forms, other processes, kills, merges, planted defects."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from basicsr.utils.registry import ARCH_REGISTRY, METRIC_REGISTRY
from scipy import stats
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from helpers import OPTIONS, write
from rsr_basicsr.archs import Interpolation
from rsr_basicsr.attacks import BPDA
from rsr_basicsr.benchmark.matrix import Matrix
from rsr_basicsr.benchmark.options import check_benchmark
from rsr_basicsr.benchmark.record import read_records
from rsr_basicsr.benchmark.summary import bootstrap, estimate
from rsr_basicsr.cli import main
from rsr_basicsr.data import ReducedImageDataset, write_evaluation_pairs, write_training_photos
from rsr_basicsr.defenses import DEFENSE_REGISTRY, InputTransform
from rsr_basicsr.options.loading import override
from rsr_basicsr.utils.errors import OptionsError

SMALL = dict(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=4, act_type='prelu')


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """A small network that upscales and shakes its output a little: the residual of SRVGGNetCompact is nearest."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'small.pth'
    torch.save({'params': SRVGGNetCompact(**SMALL).state_dict()}, path)
    return path


@pytest.fixture
def options(weights, pairs):
    """A matrix of 60 cells that takes two seconds."""
    return {
        'name': 'small',
        'num_gpu': 0,
        'gallery': 1,
        'mask_seeds': [0, 1],
        'networks': {
            'nearest': {'type': 'Interpolation', 'mode': 'nearest', 'defenses': ['none']},
            'plain': {'type': 'SRVGGNetCompact', **SMALL, 'weights': str(weights)},
            'defended': {
                'type': 'DefendedSRVGGNetCompact',
                **SMALL,
                'weights': str(weights),
                'defenses': ['none'],
                'defense': {'points': ['input'], 'gate': 'always'},
            },
        },
        'defenses': {'bits': {'type': 'BitDepth', 'bits': 4}},
        'attacks': {'pgd': {'type': 'PGD', 'steps': 4}},
        'eps': [2, 8],
        'datasets': {
            'photos': {
                'type': 'PairedImageDataset',
                'dataroot_gt': str(pairs / 'gt'),
                'dataroot_lq': str(pairs / 'lq'),
                'num_images': 3,
            }
        },
    }


def benchmark(opt, folder, *flags, code=0):
    """Run ``rsr benchmark`` in this process, and return the folder of its results."""
    folder.mkdir(exist_ok=True)
    file = write(opt, folder / 'options.yml')
    assert main(['benchmark', '-opt', str(file), '-o', str(folder / 'out'), *flags]) == code
    return folder / 'out'


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


# figures


def test_figures_of_a_linear_network(options, tmp_path, pairs, capsys):
    del options['networks']['plain'], options['networks']['defended']
    options.update(defenses={}, eps=[8])
    options['attacks'] = {'pgd': {'type': 'PGD', 'steps': 20, 'step_size': 4}}
    found = figures(benchmark(options, tmp_path))
    moved, clean, attacked = [], [], []
    for record in read_records(tmp_path / 'out'):
        lq, gt = (cv2.imread(str(pairs / kind / f'{record.image}.png')) for kind in ('lq', 'gt'))
        if record.attack == 'clean':
            assert record.values['psnr'] == [pytest.approx(luma_psnr(lq.repeat(4, 0).repeat(4, 1), gt))] * 2
            clean.append(record.values['psnr'][0])
        elif record.attack == 'pgd':
            (stability, _), (psnr, _) = record.values['stability'], record.values['psnr']
            moved.append(stability)
            attacked.append(psnr)
            # Every value that is not near black or white ends on the face of the ball: the output moves as far.
            assert 20 * np.log10(255 / 8) - 0.01 <= stability < 20 * np.log10(255 / 8) + 1
    assert found['nearest', 'none', 'clean', 0, 'psnr'] == pytest.approx(np.mean(clean), abs=1e-4)
    assert found['nearest', 'none', 'worst case', 8, 'stability'] == pytest.approx(np.mean(moved), abs=1e-4)
    # Of random noise and PGD the one with the lower stability is the worst; PSNR has a worst of its own.
    assert found['nearest', 'none', 'worst case', 8, 'psnr'] <= np.mean(attacked) + 1e-4
    assert 'nearest, which invents nothing' not in capsys.readouterr().err


def luma_psnr(sr, gt):
    """PSNR on Y of BT.601 without 4 pixels at each edge, from the formula of the standard."""
    y = [(16 + pixels[4:-4, 4:-4].astype(np.float64) @ [24.966, 128.553, 65.481] / 255) for pixels in (sr, gt)]
    return peak_signal_noise_ratio(*y, data_range=255)


def test_intervals_are_those_of_scipy():
    values = np.random.default_rng(1).normal(30, 2, 40)
    low, high = bootstrap(values)
    theirs = stats.bootstrap((values,), np.mean, method='percentile', n_resamples=9999).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.08)
    assert bootstrap(values) == (low, high)


def test_estimate_of_known_numbers():
    found = estimate([[1.0, 3.0], [4.0, 4.0]])
    assert (found.mean, found.worst, found.count) == (3.0, 1.0, 2)
    assert found.spread == pytest.approx(np.std([2, 4], ddof=1)) and found.seed_spread == pytest.approx(0.5)
    assert estimate([[1.0, 3.0], [4.0, 4.0]], higher_is_better=False).worst == 4.0


# the same from any number of processes, however often they are killed


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


def test_an_entry_without_a_value_is_taken_out(options, tmp_path):
    found = figures(
        benchmark(
            options,
            tmp_path,
            '--force_yml',
            'networks:defended=',
            'defenses:bits=',
            'networks:plain:defenses=[none]',
            'eps=[8]',
        )
    )
    assert {(network, eps) for network, _, _, eps, _ in found} == {
        ('nearest', 0),
        ('nearest', 8),
        ('plain', 0),
        ('plain', 8),
    }


def test_a_cell_is_made_again_where_what_it_depends_on_has_changed(options, tmp_path, weights):
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
    record = {**json.loads(line), 'key': 'x', 'shown': {'lq': '../../secret.png'}}
    (tmp_path / 'merged' / 'record' / 'z.jsonl').write_text(json.dumps(record) + '\n[1]\n{"key": 1}\n')
    assert {r.key for r in read_records(tmp_path / 'merged')} == {r.key for r in read_records(together)}
    capsys.readouterr()
    assert main(['benchmark', '--merge', str(tmp_path / 'nowhere'), '-o', str(tmp_path / 'x')]) == 2
    assert 'no folder of a benchmark' in capsys.readouterr().err


def test_merge_tells_apart_what_only_shares_a_name(options, tmp_path, weights, capsys):
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


# warnings


@DEFENSE_REGISTRY.register()
class FakeRounding(InputTransform):
    """Rounds to 32 levels, so that there is no gradient, and protects hardly at all."""

    def transform(self, x):
        return (x * 31).round() / 31


@DEFENSE_REGISTRY.register()
class HonestRounding(InputTransform):
    """The same with a gradient."""

    def transform(self, x):
        return BPDA(lambda x: (x * 31).round() / 31)(x)


def test_masked_gradients_are_called_out_and_others_are_not(options, tmp_path, capsys):
    options['networks'] = {'plain': {**options['networks']['plain'], 'defenses': ['none', 'fake', 'honest']}}
    options['defenses'] = {'fake': {'type': 'FakeRounding'}, 'honest': {'type': 'HonestRounding'}}
    options['attacks'] = {'pgd': {'type': 'PGD', 'steps': 10}, 'square': {'type': 'Square', 'queries': 100}}
    benchmark(options, tmp_path)
    masked = [line for line in capsys.readouterr().out.splitlines() if 'gradients may hide' in line]
    assert any('plain + fake: pgd (eps 8): 100% of the gradient is exactly zero' in line for line in masked)
    assert any('plain + fake: square (eps 8) asks for no gradient and does' in line for line in masked)
    # A stand-in for the gradient is not the best one, but there is one; and the network itself hides nothing.
    assert not any('plain + honest:' in line and 'exactly zero' in line for line in masked)
    assert all('plain + ' in line for line in masked)


def test_honest_networks_are_not_suspected(options, tmp_path, capsys):
    """Masks and sizes drawn at random, a median, attacks with two objectives, radii that 8 bit do not tell apart."""
    options['networks'] = {
        'plain': {**options['networks']['plain'], 'defenses': ['none', 'median', 'random']},
        'defended': options['networks']['defended'],
    }
    options['defenses'] = {'median': {'type': 'Median'}, 'random': {'type': 'RandomResizePad'}}
    options['attacks'] = {
        'pgd': {'type': 'PGD', 'steps': 10, 'eot_samples': 4},
        'pgd_truth': {'type': 'PGD', 'steps': 10, 'objective': 'ground_truth', 'eot_samples': 4},
    }
    options['eps'] = [1, 1.5, 4]
    folder = benchmark(options, tmp_path)
    said = capsys.readouterr().out
    assert 'draws at random' not in said and 'exactly zero' not in said
    # At eps 1 noise and attack are one grey level; where it does as much, that is no sign of masks.
    assert not [line for line in said.splitlines() if 'with eps' in line], said
    drawn = {(record.network, record.defense): record.random for record in read_records(folder)}
    assert drawn == {
        ('plain', 'none'): False,
        ('plain', 'median'): False,
        ('plain', 'random'): True,
        ('defended', 'none'): True,
    }


def test_undefended_network_under_random_noise_is_not_suspected(options, tmp_path, capsys):
    options['networks'] = {'plain': {**options['networks']['plain'], 'defenses': ['none']}}
    options['attacks'] = {'noise': {'type': 'RandomNoise'}}
    folder = benchmark(options, tmp_path)
    said = capsys.readouterr().out
    assert 'gradient' not in said and re.findall('Warning: .*', said) == [
        'Warning: photos: 3 images only; the figures may be others on more.'
    ]
    assert 'random noise' not in (folder / 'results.csv').read_text()  # the control goes by the name it was given
    options['attacks'].update(noise={'type': 'RandomNoise', 'eps': 2}, far={'type': 'FGSM', 'eps': 16})
    found = figures(benchmark(options, tmp_path))
    assert {eps for _, _, attack, eps, _ in found if attack == 'random noise'} == {2, 16}


def test_detectors_and_random_defences_that_nobody_aimed_at(options, tmp_path, capsys):
    options['networks'] = {'defended': options['networks']['defended']}
    options['networks']['defended']['defense'] = {'points': ['input']}
    benchmark(options, tmp_path)
    assert 'decides by a detector, but no attack tried to get past' in capsys.readouterr().out
    options['attacks']['aware'] = {'type': 'DetectorAware', 'steps': 2, 'weights': [0, 1], 'eps': 8}
    folder = benchmark(options, tmp_path)
    assert 'decides by a detector' not in capsys.readouterr().out
    aware = [record for record in read_records(folder) if record.attack == 'aware']
    assert len(aware) == 3 and {record.worst for record in aware} <= {'undetected', 'detected'}
    pgd = [record for record in read_records(folder) if record.attack == 'pgd']
    assert {record.worst for record in pgd} <= {'as it decides', 'always', 'never'}
    assert all(record.score is not None for record in pgd)


# what goes wrong


def test_everything_wrong_is_named_at_once(options, tmp_path, capsys, pairs):
    broken = tmp_path / 'broken'
    for kind in ('gt', 'lq'):
        (broken / kind).mkdir(parents=True)
        for name in ('a', 'b'):
            source = next((pairs / kind).glob('*.png'))
            (broken / kind / f'{name}.png').write_bytes(source.read_bytes())
    (broken / 'lq' / 'b.png').write_bytes(b'no image')
    options['networks']['gone'] = {'type': 'SRVGGNetCompact', **SMALL, 'weights': 'gone.pth'}
    options['networks']['double'] = {'type': 'Interpolation', 'scale': 2}
    options['networks']['plain']['defenses'] = ['none', 'bit']
    options['defenses']['strong'] = {'type': 'JPG'}
    options['attacks']['worst case'] = {'type': 'FGSM'}
    options['attacks'].update(
        fast={'type': 'PGD', 'stepz': 3}, slow={'type': 'PDG'}, strong={'type': 'PGD', 'eps': 0.03}
    )
    options['datasets'].update(
        broken={'type': 'PairedImageDataset', 'dataroot_gt': str(broken / 'gt'), 'dataroot_lq': str(broken / 'lq')},
        missing={'type': 'ReducedImageDataset', 'dataroot_gt': 'nowhere'},
    )
    options['metrics'] = {
        'psnr': {'type': 'calculate_psnr'},
        'odd': {'type': 'calculate_odd'},
        'ssim': {'type': 'calculate_ssim', 'crop_border': 4, 'better': 'Higher'},
    }
    options['datasets']['photos']['num_imags'] = 2
    options['networks']['random'] = {
        'type': 'DefendedSRVGGNetCompact',
        **SMALL,
        'weights': options['networks']['plain']['weights'],
        'defense': {'classifier': {'type': 'paper', 'weights': 'untrained'}},
    }
    options['sead'] = 1
    benchmark(options, tmp_path, code=2)
    error = capsys.readouterr().err
    for part in ("unknown key 'sead'; did you mean 'seed'?",):
        assert part in error
    del options['sead']
    benchmark(options, tmp_path, code=2)
    error = capsys.readouterr().err
    assert error.startswith('rsr benchmark: 15 entries cannot be used:')
    for part in (
        'networks.gone.weights: no such file',
        'networks.double: it upscales by 2, but scale is 4',
        "'bit' is not one of the defenses; did you mean 'bits'",
        'defenses.strong',
        'JPEG',
        "attacks.fast: unknown key 'stepz'; did you mean 'steps'",
        'attacks.slow: type: expected one of',
        'did you mean 7.65',
        'b.png cannot be read as an image',
        'no such folder: nowhere',
        "metrics.psnr: the key 'crop_border' is missing",
        "did you mean 'num_images'",
        'networks.random.weights',
        'plain backbone without a trained classifier',
        'worst case stands for',
        'metrics.ssim.better: expected one of higher, lower',
        "'calculate_odd' is not registered",
    ):
        assert part in error, part
    assert not (tmp_path / 'out').exists() and 'Traceback' not in error


def test_a_ground_truth_is_asked_for_where_there_is_none(options, tmp_path, capsys, pairs):
    options['datasets']['blind'] = {'type': 'SingleImageDataset', 'dataroot_lq': str(pairs / 'lq')}
    options['attacks']['pgd']['objective'] = 'ground_truth'
    benchmark(options, tmp_path, code=2)
    assert 'needs a ground truth, which blind does not have' in capsys.readouterr().err


@METRIC_REGISTRY.register()
def calculate_moody(img, **kwargs):
    """A metric that does not like some images."""
    if img.mean() > 100:
        raise RuntimeError('too bright')
    return 1.0


def test_a_metric_that_fails_leaves_the_others_alone(options, tmp_path, capsys):
    options['networks'] = {'nearest': options['networks']['nearest']}
    options['metrics'] = {'moody': {'type': 'calculate_moody'}}
    found = figures(benchmark(options, tmp_path, code=3))
    assert ('nearest', 'none', 'pgd', 8, 'stability') in found
    assert 'moody could not be taken of' in capsys.readouterr().out


class Blind(torch.nn.Module):
    """Gives values that are not numbers for dark images."""

    def __init__(self, darkest):
        super().__init__()
        self.darkest = darkest

    def forward(self, x):
        return Interpolation(4, 'nearest')(x) / (x.mean() > self.darkest)


def test_values_that_are_no_numbers_are_failures(options, tmp_path, pairs, capsys):
    if 'Blind' not in ARCH_REGISTRY:
        ARCH_REGISTRY.register(Blind)
    means = sorted(cv2.imread(str(file)).mean() / 255 for file in sorted((pairs / 'lq').iterdir())[:3])
    options['networks'] = {'blind': {'type': 'Blind', 'darkest': float(sum(means[:2]) / 2), 'defenses': ['none']}}
    out = benchmark(options, tmp_path, code=3)
    assert '5 of 15 cells failed' in capsys.readouterr().out
    records = read_records(out)
    assert len(records) == 15 and all('not a number' in record.error for record in records if record.error)


def test_failing_images_are_recorded_and_the_others_measured(tmp_path, capsys, pairs):
    torch.manual_seed(0)
    network = dict(num_in_ch=3, num_out_ch=3, scale=2, num_feat=4, num_block=1, num_grow_ch=4)
    torch.save({'params': RRDBNet(**network).state_dict()}, tmp_path / 'x2.pth')
    folder = tmp_path / 'images'
    folder.mkdir()
    for name, side in (('even', 16), ('odd', 17)):  # which this network cannot unshuffle
        cv2.imwrite(str(folder / f'{name}.png'), np.full((side, side, 3), 100, np.uint8))
    options = {
        'name': 'x',
        'scale': 2,
        'num_gpu': 0,
        'gallery': 1,
        'networks': {'x2': {'type': 'RRDBNet', **network, 'weights': str(tmp_path / 'x2.pth')}},
        'attacks': {'fgsm': {'type': 'FGSM'}},
        'eps': [4],
        'metrics': {},
        'datasets': {'set': {'type': 'SingleImageDataset', 'dataroot_lq': str(folder)}},
    }
    out = benchmark(options, tmp_path, code=3)
    said = capsys.readouterr()
    assert '3 of 6 cells failed' in said.out and 'Traceback' not in said.out + said.err
    assert ('x2', 'none', 'fgsm', 4.0, 'stability') in figures(out)
    failed = [record for record in read_records(out) if record.error]
    assert {record.image for record in failed} == {'odd'} and len(failed) == 3
    assert ',x2,none,fgsm,4,stability,' in (out / 'results.csv').read_text()
    assert 'odd' in (out / 'report.html').read_text()


@pytest.mark.parametrize(
    'change, message', [('eps', 'write section:key=value'), ('eps:x=1', 'eps is not a block'), ('eps=[1', 'force_yml')]
)
def test_wrong_overrides(change, message):
    with pytest.raises(OptionsError, match=message):
        override({'eps': [1]}, [change])


def test_a_report_says_what_was_changed_on_the_command_line(options, tmp_path):
    options.update(description='PGD of 4 steps.', attacks={'fgsm': {'type': 'FGSM'}}, eps=[8], defenses={})
    out = benchmark(options, tmp_path, '--force_yml', 'networks:defended=', 'eps=[4]')
    assert 'PGD of 4 steps. Changed: networks:defended=; eps=[4].' in (out / 'options.json').read_text()
    assert 'PGD of 4 steps. Changed: ' in (out / 'report.md').read_text()


def test_a_named_block_is_added_by_its_type():
    options = {'attacks': {'pgd': {'type': 'PGD'}, 'old': None}}
    with pytest.raises(OptionsError, match=r'attacks:PGD-10:steps=2: .* no block PGD-10; did you mean .pgd.\?$'):
        override(options, ['attacks:PGD-10:steps=2'])
    override(options, ['attacks:pgd10:type=PGD', 'attacks:pgd10:steps=2'])
    assert options['attacks']['pgd10'] == {'type': 'PGD', 'steps': 2}


def test_overrides_are_values_and_no_code(tmp_path):
    options = {'networks': {'a': {'weights': 'x'}}, 'eps': [1]}
    override(options, ['networks:a:weights=my.pth', 'eps=[2, 8]', 'attacks:pgd:steps=3'])
    assert options == {'networks': {'a': {'weights': 'my.pth'}}, 'eps': [2, 8], 'attacks': {'pgd': {'steps': 3}}}
    with pytest.raises(OptionsError):
        override(options, [f'eps=!!python/object/apply:os.mkdir [{tmp_path / "made"}]'])
    assert not (tmp_path / 'made').exists()


# every kind of cell


def test_a_retried_cell_comes_home_from_another_machine(options, tmp_path):
    """What failed on the first machine and was done on another one is a success, and is not done again."""
    options['networks'] = {'nearest': options['networks']['nearest']}
    benchmark(options, tmp_path)
    for folder, keep in (('apart0', None), ('apart1', 'record')):
        (tmp_path / folder / 'record').mkdir(parents=True)
        for number, line in enumerate((tmp_path / 'out' / 'record' / '0.jsonl').read_text().splitlines()):
            record = json.loads(line)
            if keep is None:
                record.update(error='out of memory', shown={})
            with open(tmp_path / folder / 'record' / f'{"0" if keep is None else "1"}.jsonl', 'a') as file:
                file.write(json.dumps({**record, 'shown': {}}) + '\n')
    options['gallery'] = 0
    (tmp_path / 'twice.py').write_text(TWICE)
    launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', 'twice.py']
    run = subprocess.run(
        [*launch, str(write(options, tmp_path / 'o.yml'))], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert not [record for record in read_records(tmp_path / 'apart0') if record.error]
    assert lines_of(tmp_path / 'apart1') == 15  # nothing was made again


def test_attacks_that_are_made_of_others_or_for_all_images(options, tmp_path, weights):
    options['networks'] = {'plain': {**options['networks']['plain'], 'defenses': ['none']}}
    options['metrics'] = {'gain': {'type': 'calculate_gain'}}
    options['eps'] = [8]
    options['attacks'] = {
        'universal': {'type': 'Universal', 'size': 8, 'steps': 2},
        'transfer': {'type': 'Transfer', 'steps': 2, 'source': {'type': 'Interpolation', 'mode': 'nearest'}},
        'worst': {'type': 'WorstOf', 'attacks': [{'type': 'FGSM'}, {'type': 'PGD', 'steps': 3}]},
        'l2': {'type': 'PGD', 'steps': 3, 'norm': 'L2'},
        'float': {'type': 'PGD', 'steps': 3, 'quantize': 'none'},
    }
    options['tile'] = 12
    out = benchmark(options, tmp_path)
    found = figures(out)
    stability = {
        name: found['plain', 'none', name, 8, 'stability']
        for name in (*options['attacks'], 'random noise', 'worst case')
    }
    assert stability['worst'] < stability['transfer'] and stability['worst'] < stability['random noise']
    counted = [stability[name] for name in ('universal', 'transfer', 'worst', 'random noise')]
    assert stability['worst case'] <= min(counted) + 1e-9
    assert {record.worst for record in read_records(out) if record.attack == 'worst'} <= {'FGSM', 'PGD'}
    perturbations = []
    for record in read_records(out):
        if record.attack == 'universal':
            assert record.error == ''
            perturbations.append(record.values['gain'][0])
    assert len(perturbations) == 3


def test_networks_defences_attacks_and_metrics_of_the_document(options, tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / 'docs' / 'benchmark.md').read_text(encoding='utf-8')
    (code,) = re.findall(r'```python\n(.*?)```', text, flags=re.DOTALL)
    (tmp_path / 'mine_of_the_document.py').write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    options.update(
        networks={'mine': {'type': 'Sharp', 'amount': 0.5}},
        defenses={'half': {'type': 'Shrink', 'factor': 0.5}},
        metrics={'moved': {'type': 'calculate_moved', 'better': 'lower'}},
        eps=[4],
    )
    options['attacks'] = {'long': {'type': 'LongStep', 'steps': 3}}
    found = figures(benchmark(options, tmp_path, '--import', 'mine_of_the_document'))
    assert found['mine', 'half', 'long', 4, 'stability'] > found['mine', 'none', 'long', 4, 'stability']
    assert 0 < found['mine', 'none', 'long', 4, 'moved'] <= 1
    METRIC_REGISTRY._obj_map.pop('calculate_moved')


@pytest.mark.parametrize('file', sorted((OPTIONS / 'benchmark').glob('*.yml')), ids=lambda file: file.stem)
def test_committed_protocols(file, pairs, tmp_path):
    opt = yaml.safe_load(file.read_text(encoding='utf-8'))
    for name, depth in (('w', 32), ('s', 16)):
        net = SRVGGNetCompact(**{**SMALL, 'num_feat': 64, 'num_conv': depth})
        torch.save({'params': net.state_dict()}, tmp_path / f'{name}.pth')
    for network in opt['networks'].values():
        network['weights'] = 'untrained' if network['type'] == 'DefendedCDC' else str(tmp_path / 'w.pth')
    for attack in opt['attacks'].values():
        if 'source' in attack:
            attack['source']['weights'] = str(tmp_path / 's.pth')
    if 'lpips' in opt['metrics']:  # whose backbone would be downloaded
        assert opt['metrics'].pop('lpips')['type'] == 'calculate_lpips'
    opt['datasets'] = {
        'pairs': {
            'type': 'PairedImageDataset',
            'dataroot_gt': str(pairs / 'gt'),
            'dataroot_lq': str(pairs / 'lq'),
            'num_images': 1,
        }
    }
    options, images = check_benchmark(opt)
    cells = Matrix(options, images, torch.device('cpu')).cells
    there = {(cell.network, cell.defense, cell.attack) for cell in cells}
    assert opt['name'] == file.stem and {name for _, _, name in there} == {'clean', 'random noise', *opt['attacks']}
    gated = {'straight_through', 'masks_on', 'masks_off', 'detector_aware'}
    assert not [name for network, _, name in there if network == 'general-x4v3' and name in gated]
    assert {defense for _, defense, _ in there} == {'none', *opt.get('defenses', {})}


# images and yardsticks


def test_lmdb_gives_the_same_as_files(options, tmp_path, pairs):
    options['networks'] = {'nearest': options['networks']['nearest']}
    expected = (benchmark(options, tmp_path) / 'results.csv').read_bytes()
    for kind in ('gt', 'lq'):
        names = sorted(file.name for file in (pairs / kind).iterdir())
        make_lmdb_from_imgs(
            str(pairs / kind),
            str(tmp_path / f'{kind}.lmdb'),
            names,
            [name[: -len('.png')] for name in names],
            map_size=2**24,
        )
    options['datasets']['photos'].update(
        {f'dataroot_{kind}': str(tmp_path / f'{kind}.lmdb') for kind in ('gt', 'lq')}, io_backend={'type': 'lmdb'}
    )
    assert (benchmark(options, tmp_path / 'lmdb') / 'results.csv').read_bytes() == expected
    assert lines(tmp_path / 'lmdb') == 3 * 5


def test_sample_photos(tmp_path):
    meta_info = write_training_photos(tmp_path / 'train')
    assert all((tmp_path / 'train' / name).is_file() for name in meta_info.read_text().split())
    names = write_evaluation_pairs(tmp_path / 'gt', tmp_path / 'lq')
    shapes = {cv2.imread(str(tmp_path / kind / f'{name}.png')).shape for kind in ('gt', 'lq') for name in names}
    assert shapes == {(256, 256, 3), (64, 64, 3)}
    assert not {n.split('_')[0] for n in names} & {n.split('_')[0].split('.')[0] for n in meta_info.read_text().split()}


def test_reduced_images_are_those_of_another_library(tmp_path):
    from PIL import Image

    photo = data.astronaut()[:200, :250]
    Image.fromarray(photo).save(tmp_path / 'photo.png')
    block = {
        'name': 'x',
        'type': 'ReducedImageDataset',
        'dataroot_gt': str(tmp_path),
        'io_backend': {'type': 'disk'},
        'scale': 4,
        'phase': 'val',
    }
    item = ReducedImageDataset({**block, 'crop': 130, 'io_backend': {'type': 'disk'}})[0]
    gt, lq = (np.rint(item[name].permute(1, 2, 0).numpy() * 255) for name in ('gt', 'lq'))
    assert np.array_equal(gt, photo[36:164, 61:189]) and lq.shape == (32, 32, 3)
    # Both take the bicubic kernel of MATLAB; at the border they continue the image in their own ways.
    theirs = np.asarray(Image.fromarray(gt.astype(np.uint8)).resize((32, 32), Image.BICUBIC)).astype(float)
    assert np.abs(lq - theirs)[4:-4, 4:-4].max() <= 1
    assert ReducedImageDataset(block)[0]['gt'].shape == (3, 200, 248)


@pytest.mark.parametrize(
    'mode, flag', [('nearest', cv2.INTER_NEAREST), ('bilinear', cv2.INTER_LINEAR), ('bicubic', cv2.INTER_CUBIC)]
)
def test_interpolation_is_that_of_opencv(photo, mode, flag):
    ours = Interpolation(scale=3, mode=mode)(photo)[0].permute(1, 2, 0).numpy()
    theirs = cv2.resize(photo[0].permute(1, 2, 0).numpy(), None, fx=3, fy=3, interpolation=flag)
    assert np.abs(ours - theirs).max() < 1e-4


# the leaderboard


def test_leaderboard(options, tmp_path, capsys):
    options['networks']['plain']['card'] = {'authors': 'A. <b>N. Author', 'link': 'https://example.org/a|b'}
    out = benchmark(options, tmp_path)
    capsys.readouterr()
    assert main(['leaderboard', str(out / 'cards.jsonl')]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith('| ')]
    found = figures(out)
    expected = sorted(
        (
            (found[name, defense, 'worst case', 8, 'stability'], name, defense)
            for name, defense in (('nearest', 'none'), ('plain', 'none'), ('plain', 'bits'), ('defended', 'none'))
        ),
        reverse=True,
    )
    assert [tuple(cell.strip() for cell in line.split('|')[1:3]) for line in table[2:]] == [
        (name, defense) for _, name, defense in expected
    ]
    assert '<b>' not in ''.join(table) and 'a\\|b' in ''.join(table)
    entries = [json.loads(line) for line in (out / 'cards.jsonl').read_text().splitlines()]
    assert {entry['sha256'] is None for entry in entries if entry['network'] != 'nearest'} == {False}
    (tmp_path / 'bad.jsonl').write_text('{"network": "x"}\n')
    assert main(['leaderboard', str(tmp_path / 'bad.jsonl')]) == 2
    assert 'line 1: no entry' in capsys.readouterr().err
    (tmp_path / 'bad.jsonl').write_text('\n')
    assert main(['leaderboard', str(tmp_path / 'bad.jsonl'), '-o', str(tmp_path / 'table.md')]) == 2
    assert 'bad.jsonl holds no entry' in capsys.readouterr().err and not (tmp_path / 'table.md').exists()


def test_leaderboard_of_the_documents_is_made_of_its_cards(capsys):
    docs = Path(__file__).parents[2] / 'docs'
    cards = sorted(map(str, (docs / 'leaderboard').glob('*.jsonl')))
    assert cards and main(['leaderboard', *cards]) == 0
    assert capsys.readouterr().out == (docs / 'leaderboard.md').read_text(encoding='utf-8')


def test_launcher_is_asked_for_its_variables(options, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    benchmark(options, tmp_path, '--launcher', 'pytorch', code=2)
    assert 'start with: torchrun' in capsys.readouterr().err


# networks without weights, detectors without a gradient, the protocol of the paper


def test_an_untrained_network_is_of_the_seed_and_says_so(options, tmp_path, capsys):
    network = {
        'type': 'DefendedSRVGGNetCompact',
        **SMALL,
        'weights': 'untrained',
        'defenses': ['none'],
        'defense': {'points': ['input'], 'classifier': {'type': 'paper'}},
    }
    options['networks'] = {'new': network}
    found, facts = {}, {}
    for folder, seed in (('first', 0), ('again', 0), ('other', 1)):
        options['seed'] = seed
        torch.manual_seed(seed + len(folder))  # which must not matter
        (tmp_path / folder).mkdir()
        out = benchmark(options, tmp_path / folder)
        found[folder] = figures(out)
        facts[folder] = read_records(out)[0].facts
        assert f'Warning: new is untrained: its weights are drawn from seed {seed}. Its' in capsys.readouterr().out
        assert '>untrained</td>' in (out / 'report.html').read_text()
        assert json.loads((out / 'cards.jsonl').read_text())['weights'] == 'untrained'
    assert found['first'] == found['again'] != found['other']
    assert facts['first'] == facts['again'] and facts['first']['fingerprint'] != facts['other']['fingerprint']
    assert facts['first']['weights'] == 'untrained' and facts['first']['sha256'] is None
    assert main(['leaderboard', str(tmp_path / 'first' / 'out' / 'cards.jsonl'), '-o', str(tmp_path / 'l.md')]) == 0
    assert '| untrained |' in (tmp_path / 'l.md').read_text()
    # The seed's network, built here.
    matrix = Matrix(*check_benchmark(options), torch.device('cpu'))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence([1, 0]).generate_state(1)[0]))
        expected = ARCH_REGISTRY.get('DefendedSRVGGNetCompact')(**SMALL, defense=network['defense']).state_dict()
    state = matrix.network('new').state_dict()
    assert all(torch.equal(state[key], value) for key, value in expected.items())


def test_a_word_for_weights_is_taken_for_a_file(options):
    options['networks']['plain']['weights'] = 'untrain'
    with pytest.raises(OptionsError, match="networks.plain.weights: no such file, got 'untrain'"):
        check_benchmark(options)


def test_a_detector_without_a_gradient(options, tmp_path, capsys):
    blind = {
        'type': 'DefendedSRVGGNetCompact',
        **SMALL,
        'weights': 'untrained',
        'defenses': ['none'],
        'defense': {'points': ['input'], 'classifier': {'type': 'paper_rrdb', 'weights': 'untrained'}},
    }
    options['networks'] = {'blind': blind}
    options['attacks'] = {
        'pgd': {'type': 'PGD', 'steps': 2, 'eps': 8},
        'aware': {'type': 'DetectorAware', 'steps': 2, 'weights': [1], 'eps': 8},
    }
    with pytest.raises(
        OptionsError,
        match='attacks.aware: it is for networks that decide by a detector with a gradient, and none of these does',
    ):
        check_benchmark(options)
    options['networks']['seeing'] = {**blind, 'defense': {**blind['defense'], 'classifier': {'type': 'ensemble'}}}
    folder = benchmark(options, tmp_path)
    printed = ' '.join(capsys.readouterr().out.split())
    assert 'photos, blind: its detector has no gradient, so that DetectorAware could not try to get past it' in printed
    assert 'not finished' not in printed and 'seeing: it decides by a detector, but' not in printed
    records = read_records(folder)
    assert {record.network for record in records if record.attack == 'aware'} == {'seeing'}
    assert all(record.score is not None and not record.error for record in records)


def test_the_protocol_of_the_paper(pairs):
    opt = yaml.safe_load((OPTIONS / 'benchmark' / 'paper.yml').read_text())
    assert opt['attacks']['ifgsm_published'] == {
        'type': 'IFGSM',
        'steps': 10,
        'objective': 'stability',
        'clamp': 'end',
        'quantize': 'floor',
    }
    assert opt['metrics']['ssim_published'] == {'type': 'calculate_ssim_zero_padded'}
    opt['networks'] = {'cdc': {**opt['networks']['cdc'], 'weights': 'untrained'}}
    opt['datasets']['RealSR'].update(dataroot_gt=str(pairs / 'gt'), dataroot_lq=str(pairs / 'lq'), num_images=1)
    del opt['metrics']['lpips']
    opt, _ = check_benchmark(opt)
    net = ARCH_REGISTRY.get('DefendedCDC')(
        **{
            key: value
            for key, value in opt['networks']['cdc'].items()
            if key not in ('type', 'weights', 'defenses', 'card')
        }
    )
    assert sum(parameter.numel() for key, parameter in net.named_parameters() if 'defense.' not in key) == 39_920_530
    assert len(list(net._masked_modules())) + ('input' in net.points) == 13
    assert type(net.defense.classifier).__name__ == 'FrequencyClassifier' and net.defense.threshold == 0.9
