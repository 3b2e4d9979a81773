"""``measure_stability`` against networks whose gain is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from torch import nn
from torch.nn import functional as F

from helpers import SMALL_NETWORKS
from networks import DefendedGain, Rounding
from rsr_basicsr.archs import Interpolation
from rsr_basicsr.benchmark.matrix import GATE_SETTINGS
from rsr_basicsr.metrics.stability_metric import calculate_stability, rms_gain
from rsr_basicsr.stability import measure_stability
from rsr_basicsr.stability.maps import smoothed, top_of_scale
from rsr_basicsr.stability.tables import as_json, doubts, summary
from rsr_basicsr.utils.errors import DeviceError, ImageError, OptionsError

QUICK = dict(steps=4, device='cpu')


class Around(nn.Module):
    """0.5 + gain * (x - 0.5), upscaled by 2 by nearest neighbours: amplifies any noise by ``gain``."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x):
        return F.interpolate(0.5 + self.gain * (x - 0.5), scale_factor=2.0, mode='nearest')


class HalfBlind(Around):
    """Ignores its input in the left half of the output."""

    def forward(self, x):
        output = super().forward(x).clone()
        output[..., : output.shape[-1] // 2] = 0.25
        return output


@pytest.fixture
def grey():
    """An image near mid grey, which no attack here drives out of [0, 1]."""
    return torch.rand(1, 3, 40, 70) * 0.2 + 0.4


def test_rms_gain_is_the_ratio_of_levels():
    clean = np.full((16, 16, 3), 100.0)
    for eps, gain in ((8, 5.5), (2, 0.5)):
        stability = calculate_stability(clean + gain * eps, clean, crop_border=0)
        assert rms_gain(stability, eps) == pytest.approx(gain)
    assert -20 * np.log10(rms_gain(0, 8)) == pytest.approx(-30.07, abs=0.005)


@pytest.mark.parametrize('gain', [0.5, 1, 3])
def test_gain_of_a_linear_network_is_found(gain, grey):
    result = measure_stability(Around(gain), [grey], eps=[8, 2], crop=32, **QUICK)
    for eps in (2, 8):
        # Outputs are rounded to 8 bits, which matters for 1 level more than for 24.
        assert result.gain(eps) == pytest.approx(gain, rel=0.02)
        assert result.row(eps).noise_gain == pytest.approx(gain, rel=0.02)
        assert result.row(eps).stability.mean == pytest.approx(20 * np.log10(255 / (gain * eps)), abs=0.2)
    assert result.strengths == [2, 8] and result.facts['scale'] == 2


def test_bicubic_neither_amplifies_nor_damps(photo):
    result = measure_stability(Interpolation(scale=4), [photo], steps=10, device='cpu')
    for eps in (2, 8):
        assert 0.8 < result.gain(eps) < 1.1
        assert result.row(eps).stability == result.row(eps, baseline=True).stability
    assert result.row(8).noise_gain < result.gain(8)


def test_map_is_zero_where_the_input_is_ignored(grey):
    result = measure_stability(HalfBlind(3), [grey], eps=[8], crop=32, **QUICK)
    assert len(result.crops) == 2  # no room for more
    for one in result.crops:
        change = one.attacks[8].change
        assert change.shape == (64, 64) and not change[:, :32].any()
        assert change[:, 32:].mean() == pytest.approx(24, rel=0.02)
        local = smoothed(change, sigma=2)
        assert not local[:, :20].any() and local[:, 44:].mean() == pytest.approx(24, rel=0.02)
    assert top_of_scale([local / 8]) == 4


def test_smoothing_keeps_the_mean_square():
    change = np.zeros((41, 41), np.float32)
    change[20, 20] = 10
    assert (smoothed(change, 2.0) ** 2).sum() == pytest.approx(100, rel=1e-3)
    assert smoothed(np.full((9, 9), 3, np.float32), 2.0) == pytest.approx(3, rel=1e-5)


def test_scale_1_is_compared_with_the_input_itself(grey):
    result = measure_stability(nn.Conv2d(3, 3, 3, padding=1), [grey], eps=[8], **QUICK)
    assert result.facts['scale'] == 1 and result.row(8, baseline=True).network == 'identity'
    assert result.row(8, baseline=True).gain == pytest.approx(1, rel=0.01)


def test_result_depends_on_seed_and_crop_only(photo):
    net = build_network({'type': 'SRVGGNetCompact', **SMALL_NETWORKS['SRVGGNetCompact']})
    first, again, other = (measure_stability(net, [photo], crop=32, seed=seed, **QUICK) for seed in (0, 0, 1))
    assert as_json(first) == as_json(again)
    assert [one.attacks[8].stability for one in first.crops] != [one.attacks[8].stability for one in other.crops]
    beside = measure_stability(net, [photo.flip(-1), photo], crop=32, **QUICK)
    gains = {(one.crop.left, one.crop.top): one.gain(8) for one in first.crops}
    common = [one for one in beside.crops if one.crop.image.name == 'image 2']
    assert common and all(gains[one.crop.left, one.crop.top] == one.gain(8) for one in common)


def test_worst_crop_comes_first(photo):
    images = [photo * 0.1 + 0.45, photo]
    result = measure_stability(Around(3), images, crop=64, **QUICK)
    gains = [one.gain(8) for one in result.crops]
    assert gains == sorted(gains, reverse=True)
    # Clipping at black and white damps the noise.
    assert result.crops[0].crop.image.name == 'image 1' and gains[0] == pytest.approx(3, rel=0.02) and gains[1] < 2.9


def test_detector_is_attacked_with_each_gate_setting(grey):
    net = DefendedGain(defense={'classifier': {'type': 'paper', 'weights': 'untrained'}}).eval()
    result = measure_stability(net, [grey], eps=[8], crop=32, **QUICK)
    assert result.facts['detector'] and result.facts['random']
    assert all(one.attacks[8].gate in GATE_SETTINGS for one in result.crops)
    assert all(len(one.attacks[8].stability) == 3 for one in result.crops)  # mask seeds
    assert sum('adaptive.yml' in doubt for doubt in doubts(result)) == 2


def test_hidden_gradients_are_told_of(photo):
    hidden, plain = (
        doubts(measure_stability(net, [photo], eps=[2], device='cpu', steps=2))
        for net in (Rounding(Interpolation(scale=2)), Interpolation(scale=2))
    )
    assert any('may be hidden' in doubt for doubt in hidden)
    assert not any('may be hidden' in doubt for doubt in plain) and 'Only 1 image' in plain[0]


def test_sentences_hold_the_figures(grey):
    first, second = summary(measure_stability(Around(3), [grey], name='mine', crop=32, **QUICK))
    assert first.startswith('Attacked at 8/255, mine amplifies noise 3.0 times (bicubic: ')
    assert 'moves by 24 levels RMS; stability 20.5 dB [20.5, 20.5].' in first
    assert second == 'Random noise of the same size: 3.0 times, 24 levels.'
    assert 'damps noise to 0.50 of it' in summary(measure_stability(Around(0.5), [grey], crop=32, **QUICK))[0]


def test_windows_of_a_transformer_are_padded(grey):
    net = build_network({'type': 'SwinIR', **SMALL_NETWORKS['SwinIR']})
    result = measure_stability(net, [grey[..., :37, :45]], eps=[8], steps=1, device='cpu')
    assert [one.output.shape for one in result.crops] == [(148, 180, 3)]
    assert json.loads(as_json(result))['crops'][0]['width'] == 45


class Loud(nn.Module):
    def forward(self, x):
        return x[..., :1, :1] if x.shape[-1] == 40 else x * torch.inf


@pytest.mark.parametrize(
    'net, images, settings, error, sentence',
    [
        (Around(1), [torch.rand(1, 3, 40, 40) * 255], {}, ImageError, 'divide 8-bit images by 255'),
        (Around(1), [torch.rand(1, 1, 40, 40)], {}, ImageError, r'expected floats \(1, 3, H, W\)'),
        (Around(1), [torch.rand(1, 3, 40, 12)], {}, ImageError, '12x40 pixels are too few'),
        (Around(1), ['nowhere.png'], {}, OptionsError, 'nowhere.png: no such file'),
        (nn.Conv2d(1, 1, 3), [torch.rand(1, 3, 40, 40)], {}, ImageError, 'Conv2d does not take an image of 40x40'),
        (Loud(), [torch.rand(1, 3, 40, 40)], {}, ImageError, 'Loud makes 1x3x1x1 of 1x3x40x40'),
        (Loud(), [torch.rand(1, 3, 50, 50)], {}, ImageError, 'image 1: Loud cannot be attacked: .* not a number'),
        (Around(1), [torch.rand(1, 3, 40, 40)], {'eps': [8 / 255]}, OptionsError, 'whole number from 1 to 255'),
        (Around(1), [torch.rand(1, 3, 40, 40)], {'eps': []}, OptionsError, 'at least one number'),
        (Around(1), [torch.rand(1, 3, 40, 40)], {'crop': 8}, OptionsError, 'crop 8: expected at least 16'),
    ],
)
def test_exception_is_one_sentence(net, images, settings, error, sentence):
    with pytest.raises(error, match=sentence) as raised:
        measure_stability(net, images, **{**QUICK, **settings})
    assert '\n' not in str(raised.value)


def test_failed_images_are_left_out(grey):
    result = measure_stability(Around(1), [grey[..., :10], grey], crop=32, **QUICK)
    assert result.settings['images'] == 1 and {one.crop.image.name for one in result.crops} == {'image 2'}
    assert len(result.failed) == 1 and result.failed[0].startswith('image 1: 10x40 pixels')


class Unlucky(Around):
    """Raises an error at images that are brighter than 0.5."""

    def __init__(self, error: str) -> None:
        super().__init__(1)
        self.error = error

    def forward(self, x):
        if x.mean() > 0.5:
            raise RuntimeError(self.error)
        return super().forward(x)


def test_crops_go_on_without_memory():
    images = [torch.full((1, 3, 32, 32), level) for level in (0.3, 0.7, 0.2)]
    result = measure_stability(Unlucky('cuFFT error: CUFFT_ALLOC_FAILED'), images, eps=[8], steps=1, device='cpu')
    assert {one.crop.image.name for one in result.crops} == {'image 1', 'image 3'}
    assert set(result.failed) == {'image 2: out of memory; take smaller crops than 32 pixels'}
    with pytest.raises(DeviceError, match='the GPU has failed'):
        measure_stability(Unlucky('CUDA error: unspecified launch failure'), images, eps=[8], steps=1, device='cpu')
