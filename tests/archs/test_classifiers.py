"""The classifiers beyond the paper, and the calibration stored with the weights."""

import math

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rsr_basicsr.archs import (
    EnsembleClassifier,
    FrequencyClassifier,
    ResidualClassifier,
    RRDBFrequencyClassifier,
    StatisticsClassifier,
    noise_statistics,
)
from rsr_basicsr.archs.classifier import log_odds
from rsr_basicsr.archs.defense import CLASSIFIERS, build_classifier
from rsr_basicsr.archs.noise_statistics import FLAT, LAGS, residual_statistics
from rsr_basicsr.utils.errors import WeightsError

ALL = [EnsembleClassifier, StatisticsClassifier, ResidualClassifier, FrequencyClassifier]
LOCAL = ALL[:3]  # those that work at native resolution


@pytest.mark.parametrize('cls', ALL)
def test_at_most_a_million_parameters(cls):
    assert sum(p.numel() for p in cls().parameters()) <= 1_000_000


@pytest.mark.parametrize('size', [(1, 1), (5, 40), (17, 16), (64, 48)])
@pytest.mark.parametrize('cls', [*ALL, RRDBFrequencyClassifier])
def test_any_size(cls, size):
    logits = cls().eval()(torch.rand(2, 3, *size))
    assert logits.shape == (2, 2) and logits.isfinite().all()


@pytest.mark.parametrize('at_once', [1, 2**15, 2**24])
@pytest.mark.parametrize('size, stride', [(8, 4), (4, 2)])
def test_histograms_are_those_of_the_dct_of_blocks(size, stride, at_once, monkeypatch):
    monkeypatch.setitem(noise_statistics.AT_ONCE, 'cpu', at_once)
    image = np.random.default_rng(0).integers(0, 256, (3, 24, 32)).astype(float)
    red, green, blue = image
    axes = [image.mean(axis=0), (red - green) / 2, (blue - green) / 2]
    bins = np.zeros((3, size * size, 8))
    corners = [(top, left) for top in range(0, 24 - size + 1, stride) for left in range(0, 32 - size + 1, stride)]
    for axis, plane in enumerate(axes):
        for top, left in corners:
            block = scipy.fft.dctn(plane[top : top + size, left : left + size], norm='ortho').ravel()
            level = np.log2(np.abs(block) + 0.25) + 2
            for k in range(8):  # triangles one bin wide; all beyond the last one counts in it
                bins[axis, :, k] += np.clip(1 - np.abs(np.minimum(level, 7) - k), 0, 1)
    expected = np.sqrt(bins[:, 1:] / len(corners) + 1e-4).ravel()
    start = 0 if size == 8 else 3 * 63 * 8
    features = StatisticsClassifier().features(torch.from_numpy(image).float()[None] / 255)[0]
    np.testing.assert_allclose(features[start : start + expected.size].numpy(), expected, atol=2e-4)


def _in_flat_parts(image):
    """Residuals of an image (3, 44, 36) in grey levels, with a margin of four, and its flat parts."""
    red, green, blue = image
    planes = [image.mean(axis=0), (red - green) / 2, (blue - green) / 2, red, green, blue]
    filters = [
        [[0, 0, 0], [0, -1, 1], [0, 0, 0]],
        [[0, 0, 0], [0, -1, 0], [0, 1, 0]],
        [[1, -2, 1], [-2, 4, -2], [1, -2, 1]],
        [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
    ]
    filters = [np.array(each) / max(1, np.abs(each).max()) for each in filters]
    # First differences are not scaled, the two second differences are divided by four.
    residuals = np.stack(
        [[scipy.ndimage.correlate(np.pad(plane, 4, mode='reflect'), each) for each in filters] for plane in planes]
    )
    means = np.array([[image[:, 4 * i : 4 * i + 8, 4 * j : 4 * j + 8].mean() for j in range(8)] for i in range(10)])
    activity = scipy.ndimage.maximum_filter(means, 3) - scipy.ndimage.minimum_filter(means, 3)
    where = []
    for share in FLAT:
        limit = np.sort(activity.ravel())[int(share * (activity.size - 1))]
        where.append(
            [
                (2 + 4 * i + y, 2 + 4 * j + x)
                for i in range(10)
                for j in range(8)
                if activity[i, j] <= limit
                for y in range(4)
                for x in range(4)
            ]
        )
    return residuals, [tuple(np.array(places).T) for places in where]


@pytest.mark.parametrize('at_once', [1, 2**13, 2**24])
def test_residual_statistics_are_those_of_the_flat_parts(at_once, monkeypatch):
    monkeypatch.setitem(noise_statistics.AT_ONCE, 'cpu', at_once)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 40, (3, 44, 36)) + 100.0
    image[:, :20] += scipy.ndimage.zoom(rng.uniform(-90, 90, (3, 5, 9)), (1, 4, 4), order=1)
    residuals, (flattest, flat) = _in_flat_parts(image)
    expected = []
    for plane in residuals:
        for residual in plane:
            for rows, columns in (flattest, flat):
                values = np.minimum(6 * np.log2(1 + np.abs(residual[rows + 4, columns + 4]) / 8), 19)
                shares = [np.clip(1 - np.abs(values - k), 0, 1).mean() for k in range(20)]
                expected += list(np.sqrt(np.array(shares) + 1e-4))
    rows, columns = (each + 4 for each in flattest)
    pairs = [
        [(plane[3][rows, columns], plane[3][rows + dy, columns + dx]) for plane in residuals[:3]] for dy, dx in LAGS
    ]
    colours = [
        [(residuals[3 + i, k][rows, columns], residuals[3 + j, k][rows, columns]) for k in range(4)]
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    for groups in (pairs, colours):
        both = [pair for group in groups for pair in group]
        expected += [(a * b).mean() / np.sqrt((a**2).mean() * (b**2).mean()) for a, b in both]
        expected += [np.corrcoef(np.abs(a), np.abs(b))[0, 1] for a, b in both]
    found = residual_statistics(torch.from_numpy(image)[None] / 255, 2**18)[0]
    assert found.numel() == len(expected)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-3)


class Operations(TorchDispatchMode):
    """Counts what is called on tensors."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_built_in_classifier_takes_few_operations(monkeypatch):
    net, counts = build_classifier({}).eval(), []
    for at_once in (1, noise_statistics.AT_ONCE['cuda']):
        monkeypatch.setitem(noise_statistics.AT_ONCE, 'cpu', at_once)
        net(torch.rand(1, 3, 64, 64))  # fills the caches
        with torch.no_grad(), Operations() as operations:
            net(torch.rand(1, 3, 64, 64))
        counts.append(operations.count)
    assert counts[1] < 350 < counts[0]


@pytest.mark.parametrize('cls', LOCAL)
def test_bands_of_a_large_image_are_equivalent(cls):
    net, x = cls().eval(), torch.rand(2, 3, 301, 210)
    with torch.no_grad():
        whole = net(x)
        for band in (2**12, 2**14):
            net.band = band
            torch.testing.assert_close(net(x), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize('cls', ALL)
def test_gradient_is_a_finite_difference(cls):
    net = cls().double().eval()
    x = torch.rand(1, 3, 24, 20, dtype=torch.float64).requires_grad_()
    direction = torch.randn_like(x)
    (gradient,) = torch.autograd.grad(log_odds(net(x)).sum(), x)
    step = 1e-7
    with torch.no_grad():
        ahead, behind = (log_odds(net(x + sign * step * direction)).item() for sign in (1, -1))
    assert (gradient * direction).sum().item() == pytest.approx((ahead - behind) / (2 * step), rel=2e-3, abs=1e-6)


@pytest.mark.parametrize('cls', LOCAL)
def test_mirrored_copy_hardly_changes_the_logits(cls):
    # Logits of a classifier at native resolution must not depend on the amount of the same content.
    net = cls().eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        once, twice = (log_odds(net(y)).item() for y in (x, torch.cat([x, x.flip(-1)], dim=-1)))
    assert once == pytest.approx(twice, abs=0.1)


def test_ensemble_is_the_mean_and_members_train_separately():
    net, x = EnsembleClassifier(), torch.rand(6, 3, 32, 32)
    net.eval()
    statistics, residual = net.members
    torch.testing.assert_close(net(x), (statistics(x) + residual(x)) / 2)
    net.train()
    torch.manual_seed(0)
    logits = net(x)
    torch.manual_seed(0)
    torch.testing.assert_close(logits[::2], statistics(x[::2]))
    torch.testing.assert_close(logits[1::2], residual(x[1::2]))


def test_moving_average_copies_batch_norm_statistics():
    net = ResidualClassifier().train()
    before = {name: value.clone() for name, value in net.named_parameters() if 'running' in name}
    assert len(before) == 6 and not any('running' in name for name, _ in net.named_buffers())
    net(torch.rand(4, 3, 32, 32))
    for name, value in before.items():
        assert not net.get_parameter(name).requires_grad and not torch.equal(net.get_parameter(name), value)


def test_preparation_centres_the_features():
    net, x = StatisticsClassifier(), torch.rand(40, 3, 32, 32)
    net.prepare(x.split(16))
    standard = (net.features(x) - net.mean) / net.spread
    assert standard.mean(dim=0).abs().max() < 1e-3 and standard.std(dim=0).max() < 1


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('cls', [StatisticsClassifier, FrequencyClassifier])  # convolutions would take long
def test_half_precision_on_a_large_image(cls, dtype):
    net, x = cls().eval(), torch.rand(1, 3, 512, 512)
    with torch.no_grad():
        expected = log_odds(net(x))
        assert (log_odds(net.to(dtype)(x.to(dtype).float())) - expected).abs() < 0.15


def test_temperature_and_threshold_are_saved_with_the_weights(tmp_path):
    net, x = ResidualClassifier().eval(), torch.rand(3, 3, 32, 32)
    before = log_odds(net(x))
    net.temperature.fill_(2.5)
    net.threshold.fill_(0.37)
    torch.testing.assert_close(log_odds(net(x)), before / 2.5)
    torch.save(net.state_dict(), tmp_path / 'c.pth')
    again = build_classifier({'type': 'residual', 'weights': str(tmp_path / 'c.pth')}).eval()
    assert again.threshold.item() == pytest.approx(0.37) and torch.equal(again(x), net(x))


def test_frozen_classifier_has_no_dropout():
    net, x = StatisticsClassifier(), torch.rand(2, 3, 32, 32)
    assert not torch.equal(net(x), net(x))
    net.requires_grad_(False)
    net.train()
    assert not net.training and torch.equal(net(x), net(x))


def test_files_without_a_calibration_load(tmp_path):
    state = FrequencyClassifier().state_dict()
    torch.save({key: value for key, value in state.items() if key.startswith('body.')}, tmp_path / 'plain.pth')
    net = build_classifier({'type': 'paper', 'weights': str(tmp_path / 'plain.pth')})
    assert torch.equal(net.body[0].weight, state['body.0.weight']) and net.threshold.item() == pytest.approx(0.9)


def test_weights_of_another_classifier_are_refused(tmp_path):
    torch.save(FrequencyClassifier().state_dict(), tmp_path / 'paper.pth')
    with pytest.raises(WeightsError, match='weights of another classifier than EnsembleClassifier'):
        build_classifier({'weights': str(tmp_path / 'paper.pth')})
    known = 'ensemble, statistics, residual, paper, paper_rrdb'
    with pytest.raises(ValueError, match=f"there is no classifier of type 'cnn'; known are {known}"):
        build_classifier({'type': 'cnn'})


def test_builtin_weights_are_small_and_the_default(photo):
    files = [cls.builtin_weights() for cls in CLASSIFIERS.values() if cls.builtin_weights().is_file()]
    assert files and sum(file.stat().st_size for file in files) <= 2_000_000
    net, named = build_classifier({}), build_classifier({'type': 'ensemble', 'weights': 'builtin'})
    assert torch.equal(net.eval()(photo), named.eval()(photo))
    assert 0 < net.threshold < 1 and not math.isclose(net.threshold.item(), 0.9, abs_tol=1e-4)
