"""Wrong options of a benchmark, and cells that fail."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.utils.registry import ARCH_REGISTRY, METRIC_REGISTRY

from benchmark_runs import SMALL, benchmark, figures
from rsr_basicsr.archs import Interpolation
from rsr_basicsr.benchmark.record import read_records


def test_all_errors_are_reported_at_once(options, tmp_path, capsys, pairs):
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


def test_missing_ground_truth_is_an_error(options, tmp_path, capsys, pairs):
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
    assert 'moody failed in' in capsys.readouterr().out


class Blind(torch.nn.Module):
    """Gives values that are not numbers for dark images."""

    def __init__(self, darkest):
        super().__init__()
        self.darkest = darkest

    def forward(self, x):
        return Interpolation(4, 'nearest')(x) / (x.mean() > self.darkest)


def test_values_that_are_not_finite_fail(options, tmp_path, pairs, capsys):
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


class Unlucky(torch.nn.Module):
    """Raises an error at the brightest image."""

    def __init__(self, error, brightest):
        super().__init__()
        self.error, self.brightest = error, brightest

    def forward(self, x):
        if x.mean() > self.brightest:
            raise RuntimeError(self.error)
        return Interpolation(4, 'nearest')(x)


def _unlucky(error, options, pairs):
    if 'Unlucky' not in ARCH_REGISTRY:
        ARCH_REGISTRY.register(Unlucky)
    means = sorted(cv2.imread(str(file)).mean() / 255 for file in sorted((pairs / 'lq').iterdir())[:3])
    options['networks'] = {
        'fine': options['networks']['nearest'],
        'unlucky': {'type': 'Unlucky', 'error': error, 'brightest': float(sum(means[1:]) / 2), 'defenses': ['none']},
    }


def test_cells_go_on_without_memory(options, tmp_path, pairs, capsys):
    _unlucky('cuFFT error: CUFFT_ALLOC_FAILED', options, pairs)
    out = benchmark(options, tmp_path, code=3)
    assert '5 of 30 cells failed' in capsys.readouterr().out
    errors = {record.error for record in read_records(out) if record.error}
    assert errors == {'out of memory; write tile in the options, or take smaller images'}


def test_cells_stop_at_a_lost_gpu(options, tmp_path, pairs, capsys):
    _unlucky('CUDA error: an illegal memory access was encountered', options, pairs)
    benchmark(options, tmp_path, code=1)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith('rsr benchmark: the GPU has failed (CUDA error: an illegal memory access was encountered)')
    kept = read_records(tmp_path / 'out')
    assert 15 <= len(kept) < 30 and not [record for record in kept if record.error]
