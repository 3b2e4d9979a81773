"""DegradedImageDataset: the same images in every run, by Real-ESRGAN's degradations."""

import hashlib
import random
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch.utils.data import DataLoader

from helpers import OPTIONS
from rsr_basicsr.data import DegradedImageDataset, ReducedImageDataset, write_evaluation_pairs
from rsr_basicsr.options.degradation_blocks import DegradedImageOptions as Schema
from rsr_basicsr.utils.errors import OptionsError

#: Neither blur, change of size, noise nor visible compression
NOTHING = {
    'kernel_list': ['iso'],
    'kernel_prob': [1],
    'sinc_prob': 0,
    'blur_sigma': [0.05, 0.06],
    'resize_prob': [0, 0, 1],
    'noise_range': [0, 0],
    'gaussian_noise_prob': 1,
    'jpeg_range': [99, 99],
    'second_blur_prob': 0,
    'resize_prob2': [0, 0, 1],
    'noise_range2': [0, 0],
    'gaussian_noise_prob2': 1,
    'jpeg_range2': [99, 99],
    'final_sinc_prob': 0,
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Five photos of 160x160."""
    folder = tmp_path_factory.mktemp('hr')
    write_evaluation_pairs(folder / 'gt', folder / 'lq', gt_size=160)
    return folder / 'gt'


def dataset(folder, **options):
    return DegradedImageDataset({'dataroot_gt': str(folder), 'scale': 4, **options})


def digest(item):
    return hashlib.sha256(item['lq'].contiguous().numpy().tobytes()).hexdigest()


def digests(folder, **options):
    images = dataset(folder, **options)
    return [digest(images[index]) for index in range(len(images))]


def test_shapes_and_levels(folder):
    item = dataset(folder)[0]
    assert item['gt'].shape == (3, 160, 160) and item['lq'].shape == (3, 40, 40)
    levels = item['lq'] * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4) and levels.min() >= 0 and levels.max() <= 255
    assert item['lq_path'] == item['gt_path'] == str(folder / 'astronaut_face.png')


def test_deterministic_in_any_order(folder):
    images = dataset(folder)
    backwards = [digest(images[index]) for index in reversed(range(5))]
    assert backwards[::-1] == digests(folder) and len(set(backwards)) == 5


def test_deterministic_in_another_process(folder):
    code = (
        'import sys; sys.path.insert(0, "tests/data"); import rsr_basicsr, torch; torch.set_num_threads(2); '
        'from test_degraded_image_dataset import digests; print(*digests(sys.argv[1]))'
    )
    environment = {**__import__('os').environ, 'OMP_NUM_THREADS': '2', 'PYTHONHASHSEED': '7'}
    environment['PYTHONPATH'] = f'{OPTIONS.parent}:{OPTIONS.parent / "tests"}'
    found = subprocess.run(
        [sys.executable, '-c', code, str(folder)], cwd=OPTIONS.parent, env=environment, text=True, capture_output=True
    )
    assert found.stdout.split() == digests(folder), found.stderr


def test_deterministic_in_workers(folder):
    loader = DataLoader(dataset(folder), batch_size=1, num_workers=2, shuffle=True)
    found = {batch['lq_path'][0]: digest({'lq': batch['lq'][0]}) for batch in loader}
    assert [found[path] for path in sorted(found)] == digests(folder)


def test_depends_on_the_seed_and_the_name(folder, tmp_path):
    plain = digests(folder)
    assert not set(plain) & set(digests(folder, seed=1))
    for name in ('coffee_cup.png', 'other.png'):
        shutil.copy(folder / 'coffee_cup.png', tmp_path / name)
    same, other = digests(tmp_path)
    assert same == plain[3] != other


def test_global_random_state_is_restored(folder):
    images = dataset(folder)

    def numbers():
        return random.random(), np.random.rand(), torch.rand(1).item()

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = numbers()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    threads = torch.get_num_threads()
    images[0]
    assert numbers() == expected and torch.get_num_threads() == threads


def psnr(a, b):
    return -10 * (a - b).square().mean().log10().item()


def test_much_worse_than_a_reduction(folder):
    degraded = dataset(folder)
    reduced = ReducedImageDataset({'dataroot_gt': str(folder), 'scale': 4, 'io_backend': {'type': 'disk'}})
    found = [psnr(degraded[index]['lq'], reduced[index]['lq']) for index in range(5)]
    assert all(torch.equal(degraded[index]['gt'], reduced[index]['gt']) for index in range(5))
    assert 15 < np.mean(found) < 30 and max(found) < 35
    assert psnr(dataset(folder, **NOTHING)[0]['lq'], reduced[0]['lq']) > 29


@pytest.mark.parametrize('sigma', [5, 20])
def test_noise_has_the_given_deviation(sigma, tmp_path):
    cv2.imwrite(str(tmp_path / 'grey.png'), np.full((400, 400, 3), 128, np.uint8))
    plain, noisy = (dataset(tmp_path, **NOTHING, **more)[0]['lq'] * 255 for more in ({}, {'gray_noise_prob2': 0}))
    assert (plain - 128).abs().max() <= 1
    options = {**NOTHING, 'noise_range2': [sigma, sigma], 'gray_noise_prob2': 1}
    noisy = dataset(tmp_path, **options)[0]['lq'] * 255
    assert noisy.std().item() == pytest.approx(sigma, rel=0.05)
    assert noisy.mean().item() == pytest.approx(128, abs=1)


def test_defaults_are_those_of_the_shipped_file():
    shipped = yaml.safe_load((OPTIONS / 'finetune/finetune_defended_realesrgan_x4plus.yml').read_text())
    theirs = {**shipped, **shipped['datasets']['train']}
    own = {'dataroot_gt', 'io_backend', 'crop', 'num_images', 'seed'}
    found = {
        name: field.get_default(call_default_factory=True)
        for name, field in Schema.model_fields.items()
        if name not in own
    }
    assert found == {name: theirs[name] for name in found} and len(found) == 30


def test_crop_and_number_of_images(folder, tmp_path):
    images = dataset(folder, crop=110, num_images=2)
    assert len(images) == 2
    assert images[1]['gt'].shape == (3, 108, 108) and images[1]['lq'].shape == (3, 27, 27)
    cv2.imwrite(str(tmp_path / 'wide.png'), cv2.resize(cv2.imread(str(folder / 'coffee_cup.png')), (203, 101)))
    item = dataset(tmp_path)[0]
    assert item['gt'].shape == (3, 100, 200) and item['lq'].shape == (3, 25, 50)


@pytest.mark.parametrize('seed', range(6))
def test_the_smallest_image_can_be_degraded(seed, folder):
    images = dataset(folder, crop=76, seed=seed)
    assert images.degrader.smallest <= 76 and images[0]['lq'].shape == (3, 19, 19)


def test_an_image_that_is_too_small_is_named(tmp_path):
    cv2.imwrite(str(tmp_path / 'small.png'), np.zeros((72, 90, 3), np.uint8))
    with pytest.raises(ValueError, match='the image is 88x72, and these degradations need at least 74 pixels'):
        dataset(tmp_path)[0]


@pytest.mark.parametrize(
    'wrong, message',
    [
        ({'resize_prob': [1, 2]}, 'resize_prob: expected three numbers, for up, down and keep, got'),
        ({'resize_prob2': [0, 0, 0]}, 'resize_prob2: expected a share above 0'),
        ({'jpeg_range': [30, 100]}, 'jpeg_range.*expected a number of at least 1 and at most 99'),
        ({'noise_range2': [9, 1]}, r'noise_range2: expected \[low, high\] with low <= high'),
        ({'blur_sigma': [1, 1]}, 'blur_sigma: expected .low, high. with low < high'),
        ({'kernel_list': ['round']}, 'kernel_list.*expected one of iso, aniso, '),
        ({'kernel_list': ['iso']}, 'kernel_prob: expected a number for each of the 1 kernels of kernel_list'),
        ({'seed': -1}, 'seed: expected a whole number of at least 0'),
        ({'crop': 75}, 'crop: 75 is too small, these degradations need at least 76'),
        ({'crop': 0}, 'crop: expected a whole number of at least 1'),
        ({'color': 'y'}, 'color: y: DegradedImageDataset degrades RGB images; remove it'),
    ],
)
def test_wrong_values_are_named(wrong, message, folder):
    with pytest.raises(OptionsError, match=message) as error:
        dataset(folder, **wrong)
    assert '\n' not in str(error.value)
