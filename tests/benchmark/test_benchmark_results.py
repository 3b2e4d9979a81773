"""Results of a benchmark: closed forms, intervals, and images from folders and LMDB."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from scipy import stats
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from benchmark_runs import benchmark, figures, lines
from rsr_basicsr.archs import Interpolation
from rsr_basicsr.benchmark.record import read_records
from rsr_basicsr.benchmark.summary import bootstrap, estimate
from rsr_basicsr.data import ReducedImageDataset, write_evaluation_pairs, write_training_photos


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
    assert 'Reference: nearest' not in capsys.readouterr().out


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


def test_composed_and_universal_attacks(options, tmp_path, weights):
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
