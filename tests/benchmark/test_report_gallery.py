"""The gallery of the page: images, noise and spectra."""

from __future__ import annotations

import dataclasses
import re

import cv2
import numpy as np
import pytest
import torch

from benchmark_records import (
    ATTACK,
    NOISE,
    make_records,
    numbers,
)
from rsr_basicsr.benchmark.report.charts import amplified_noise, noise_factor
from rsr_basicsr.ops.frequency import log_spectrum


def shots(records, attack):
    return [r for r in records if r.attack == attack and (attack != ATTACK or r.image == 'first' or r.eps == 8)]


def test_images_are_those_measured(page, folder):
    images, records = page.images(), make_records(folder)
    for r in shots(records, ATTACK):
        label = r.network if r.defense == 'none' else f'{r.network} + {r.defense}'
        lq, sr = (cv2.imread(str(folder / r.gallery[kind])) for kind in ('lq', 'sr'))
        assert np.array_equal(images[f'{r.image}, input attacked against {label}, eps {r.eps:g}/255'], lq)
        output = images[f'{r.image}, output of {label} under attack, eps {r.eps:g}/255']
        assert np.abs(output.astype(int) - sr).mean() < 12  # JPEG of noise
    for r in shots(records, 'clean')[:2]:
        lq, sr, gt = (cv2.imread(str(folder / r.gallery[kind])) for kind in ('lq', 'sr', 'gt'))
        assert np.array_equal(images[f'{r.image}, clean input'], lq)
        assert np.abs(images[f'{r.image}, output of plain for the clean input'].astype(int) - sr).mean() < 12
        assert np.abs(images[f'{r.image}, high-resolution original'].astype(int) - gt).mean() < 6


def test_gallery_has_the_worst_attack(page):
    assert re.findall(r'Worst attack: (\w+ ?\w*), eps (\d)', page.text) == 4 * [(ATTACK, '2'), (ATTACK, '8')] + 4 * [
        (NOISE, '2'),
        (ATTACK, '8'),
    ]


def test_gate_setting_is_named(records, write):
    records = [dataclasses.replace(r, worst='never' if r.eps == 8 else 'PGD' if r.eps else None) for r in records]
    text = write(records).text
    assert f'{ATTACK}, eps 8/255, with the gate forced off' in text and f'{ATTACK}, eps 2/255, PGD' in text


def test_values_stand_below_each_image(page):
    shown = [rows for caption, rows in page.tables if not caption]
    assert len(shown) == 2 * 4 * 2  # images, subjects, strengths
    assert shown[4:6] == [
        [
            ['', 'clean', 'attacked'],
            ['stability dB', '–', f'{numbers(1, ATTACK, eps, 0)["stability"][0]:.2f}'],
            ['psnr dB', '31.25', f'{np.mean(numbers(1, ATTACK, eps, 0)["psnr"]):.2f}'],
            ['lpips', '0.110', f'{np.mean(numbers(1, ATTACK, eps, 0)["lpips"]):.3f}'],
            ['detector', 'not flagged', flagged],
        ]
        for eps, flagged in ((2.0, 'not flagged'), (8.0, 'flagged'))
    ]


def test_largest_eps_is_visible_first(page):
    parts = [attributes for _, attributes in page.tags if 'data-eps' in attributes]
    assert {part['data-eps'] for part in parts} == {'2', '8'}
    assert all(('hidden' in part) == (part['data-eps'] == '2') for part in parts)


def test_images_that_are_missing_are_left_out(records, write, tmp_path):
    whole = set(write(records).images())
    gone = next(r for r in records if (r.network, r.image, r.attack) == ('guarded', 'first', 'clean'))
    (tmp_path / gone.gallery['sr']).unlink()
    assert whole - set(write(records).images()) == {'first, output of guarded for the clean input'}
    (tmp_path / gone.gallery['lq']).write_bytes(b'no image')
    lost = whole - set(write(records).images())
    assert {name for name in lost if 'noise against guarded, eps 8' in name} == {
        'first, noise against guarded, eps 8/255, amplified'
    }
    for file in tmp_path.glob('*.png'):
        file.unlink()
    assert not write(records).images()


@pytest.mark.parametrize('eps', [0.5, 2, 8])
def test_amplified_noise(eps):
    rng = np.random.default_rng(0)
    clean, attacked = rng.integers(100, 110, (2, 16, 24, 3), dtype=np.uint8)
    shown = amplified_noise(clean, attacked, noise_factor(eps))
    for at in [(0, 0, 0), (3, 7, 1), (15, 23, 2)]:
        expected = 128 + (int(attacked[at]) - int(clean[at])) * 127 / eps
        assert shown[at] == pytest.approx(min(max(expected, 0), 255), abs=0.51)


def test_noise_of_full_strength_reaches_black_and_white():
    clean = np.full((4, 4, 3), 100, np.uint8)
    assert amplified_noise(clean, clean + np.uint8(8), noise_factor(8)).min() == 255
    assert amplified_noise(clean, clean - np.uint8(8), noise_factor(8)).max() == 1
    assert np.unique(amplified_noise(clean, clean, noise_factor(8))) == [128]


def test_spectra_share_a_scale_and_their_difference_is_grey_where_nothing_changed(tmp_path, write):
    records = make_records(
        tmp_path, networks=('n',), defenses=('none',), images=('p',), strengths=(8.0,), attacks=(ATTACK,)
    )
    clean, attacked = (cv2.imread(str(tmp_path / r.gallery['lq'])) for r in records)
    clean, attacked = (
        log_spectrum(torch.from_numpy(lq / 255).permute(2, 0, 1)[None])[0].numpy() for lq in (clean, attacked)
    )
    images = write(records).images()

    expected = 127.5 * (1 + np.clip((attacked - clean) / np.log(32), -1, 1))
    shown = images['p, change of the log spectrum by the attack against n, eps 8/255']
    assert np.abs(shown - expected).max() <= 0.51
    # Where the two magnitudes are equal to the eye of the scale, the colours must be equal too.
    shown = [
        images['p, log spectrum of the clean input'].astype(int),
        images['p, log spectrum of the input attacked against n, eps 8/255'].astype(int),
    ]
    assert np.abs(shown[0] - shown[1])[np.abs(attacked - clean) < 1e-3].max(initial=0) <= 8
    # The largest coefficient, DC, is the yellow end of viridis in at least one of them.
    yellow = cv2.applyColorMap(np.uint8([[255]]), cv2.COLORMAP_VIRIDIS)[0, 0]
    assert any(np.array_equal(image[0, 0], yellow) for image in shown)
