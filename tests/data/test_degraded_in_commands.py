"""DegradedImageDataset in options files: of a benchmark, a training with a validation, and their checks."""

import csv

import pytest
from training_files import GENERAL, check, in_order

from helpers import paired_options, read, shrink, train, write
from rsr_basicsr.cli import main
from rsr_basicsr.data import write_evaluation_pairs


@pytest.fixture(scope='module')
def block(tmp_path_factory):
    """The data set of five photos of 96x96."""
    folder = tmp_path_factory.mktemp('degraded')
    write_evaluation_pairs(folder / 'gt', folder / 'lq', gt_size=96)
    return {'type': 'DegradedImageDataset', 'dataroot_gt': str(folder / 'gt'), 'num_images': 2}


def test_benchmark_measures_it(block, tmp_path, monkeypatch):
    pytest.importorskip('piq')
    monkeypatch.chdir(tmp_path)
    options = {
        'name': 'degraded',
        'num_gpu': 0,
        'gallery': 0,
        'networks': {'bicubic': {'type': 'Interpolation'}, 'nearest': {'type': 'Interpolation', 'mode': 'nearest'}},
        'defenses': {'half': {'type': 'Blend', 'alpha': 0.5}, 'clip': {'type': 'ClipToBicubic', 'levels': 4}},
        'attacks': {
            'pgd': {
                'type': 'PGD',
                'steps': 1,
                'objective': {'type': 'perceptual', 'measure': 'gmsd', 'to': 'ground_truth'},
            }
        },
        'eps': [8],
        'datasets': {'real': block},
        'metrics': {
            'distance': {'type': 'calculate_perceptual', 'crop_border': 4, 'measure': 'haarpsi'},
            'moved': {'type': 'calculate_perceptual_stability', 'crop_border': 4, 'measure': 'haarpsi'},
            'consistency': {'type': 'calculate_lr_consistency', 'crop_border': 4},
        },
    }
    assert main(['benchmark', '-opt', str(write(options, tmp_path / 'o.yml')), '-o', 'out']) == 0
    with open('out/results.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    measured = {(row['network'], row['defense'], row['attack'], row['metric']): float(row['mean']) for row in rows}
    assert all(row['images'] == '2' and row['failed'] == '0' for row in rows)
    # Of two interpolations, the blend lies between both ends.
    ends = measured['nearest', 'none', 'clean', 'distance'], measured['bicubic', 'none', 'clean', 'distance']
    assert min(ends) <= measured['nearest', 'half', 'clean', 'distance'] <= max(ends)
    assert measured['nearest', 'clip', 'pgd', 'moved'] > 0
    assert measured['nearest', 'none', 'clean', 'consistency'] > measured['nearest', 'none', 'pgd', 'consistency']


def test_validation_of_a_training(block, pairs, photos, tmp_path, monkeypatch):
    opt = paired_options(pairs, photos=photos, iterations=2)
    opt['datasets']['val'] = {'name': 'real', 'io_backend': {'type': 'disk'}, **block}
    metrics = {
        'psnr': {'type': 'calculate_psnr', 'crop_border': 4},
        'consistency': {'type': 'calculate_lr_consistency', 'crop_border': 4},
    }
    opt['val'] = {'val_freq': 2, 'save_img': False, 'attack': {'type': 'PGD', 'eps': 8, 'steps': 1}, 'metrics': metrics}
    log = next(train(opt, tmp_path, monkeypatch).glob('train_*.log')).read_text()
    assert 'Number of val images/folders in real: 2' in log and 'Validation real' in log and '# consistency' in log


def test_check_names_everything_that_is_wrong(block, photos, tmp_path, capsys):
    opt = in_order(shrink(read(GENERAL), photos))
    opt['datasets']['val'] = {'name': 'real', 'io_backend': {'type': 'disk'}, **block}
    assert check(opt, tmp_path, capsys, '--no-memory')[0] == []
    opt['datasets']['val'].update(jpeg_range2=[0, 50], resize_prob=[1, 1], seedd=1)
    errors, _, _ = check(opt, tmp_path, capsys, '--no-memory')
    assert sorted(errors) == [
        'datasets.val.jpeg_range2: expected a number of at least 1 and at most 99, got 0',
        'datasets.val.resize_prob: expected three numbers, for up, down and keep, got [1, 1]',
        "datasets.val: unknown key 'seedd'; did you mean 'seed'?",
    ]
    opt['datasets']['val'] = {'name': 'real', 'io_backend': {'type': 'disk'}, **block, 'kernel_list': ['iso']}
    errors, _, _ = check(opt, tmp_path, capsys, '--no-memory')
    assert errors == [
        'datasets.val.kernel_prob: expected a number for each of the 1 kernels of kernel_list, got '
        '[0.45, 0.25, 0.12, 0.03, 0.12, 0.03]'
    ]
