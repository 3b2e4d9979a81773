"""The adversarial sample classifier."""

import numpy as np
import pytest
import scipy.fft
import scipy.special
import torch
from basicsr.archs import build_network

from rsr_basicsr.archs import FrequencyClassifier
from rsr_basicsr.archs.defense import build_classifier
from rsr_basicsr.utils.errors import WeightsError


def test_parameter_count_of_the_paper():
    net = build_network({'type': 'FrequencyClassifier'})
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == 263_426


@pytest.mark.parametrize('size', [(48, 48), (64, 64), (30, 200)])
def test_shape(size):
    assert FrequencyClassifier()(torch.rand(2, 3, *size)).shape == (2, 2)


def test_features_are_the_pooled_log_spectrum():
    x = np.random.default_rng(0).random((3, 96, 96))
    spectrum = np.log(np.abs(scipy.fft.dctn(x, axes=(1, 2), norm='ortho').mean(axis=0)))
    expected = spectrum.reshape(16, 6, 16, 6).mean(axis=(1, 3)).ravel()
    features = FrequencyClassifier().features(torch.from_numpy(x).float()[None])
    np.testing.assert_allclose(features[0].numpy(), expected, atol=2e-3)


def test_features_of_a_grey_image_do_not_depend_on_the_precision():
    net, grey = FrequencyClassifier(), torch.full((1, 3, 48, 48), 128 / 255)
    expected = np.full((16, 16), np.log(1e-6))
    expected[0, 0] += (np.log(48 * 128 / 255) - np.log(1e-6)) / 9
    for x in (grey, grey.double()):
        np.testing.assert_allclose(net.features(x).view(16, 16).numpy(), expected, atol=1e-5)


def test_logits_written_out():
    net, x = FrequencyClassifier(), torch.rand(2, 3, 48, 48)
    values = ((net.features(x) + 4.3) / 1.43).double().numpy()
    for name in ('0', '2', '4'):
        weight, bias = (net.body.state_dict()[f'{name}.{kind}'].double().numpy() for kind in ('weight', 'bias'))
        values = values @ weight.T + bias
        if name != '4':
            values = np.where(values > 0, values, 0.01 * values)
    np.testing.assert_allclose(net(x).detach().numpy(), values, atol=1e-5)


def test_weights_of_the_earlier_slope_are_refused(tmp_path):
    state = FrequencyClassifier().state_dict()
    torch.save(state, tmp_path / 'now.pth')
    state._metadata['']['version'] = 1
    torch.save(state, tmp_path / 'before.pth')
    load = [
        lambda path: FrequencyClassifier(weights=str(path)),
        lambda path: build_classifier({'type': 'paper', 'weights': str(path)}),
        lambda path: FrequencyClassifier().load_state_dict(torch.load(path, weights_only=True)),
    ]
    for each in load:
        each(tmp_path / 'now.pth')
        with pytest.raises(WeightsError, match='slope 0.2, now 0.01'):
            each(tmp_path / 'before.pth')


def test_probability_is_the_softmax_of_class_0():
    net, x = FrequencyClassifier(), torch.rand(4, 3, 48, 48)
    logits = net(x).detach().double().numpy()
    expected = scipy.special.softmax(logits, axis=1)[:, 0]
    np.testing.assert_allclose(net.clean_probability(x).detach(), expected, rtol=1e-5)


def test_pooling_by_height_refuses_48xW():
    by_height, by_size = FrequencyClassifier(pool_by='height'), FrequencyClassifier()
    for size in ((48, 48), (40, 48), (96, 60)):
        assert torch.equal(by_height.features(torch.ones(1, 3, *size)), by_size.features(torch.ones(1, 3, *size)))
    assert by_size(torch.rand(1, 3, 48, 60)).shape == (1, 2)
    with pytest.raises(ValueError, match='does not pool images of 48x60; write pool_by: size'):
        by_height(torch.rand(1, 3, 48, 60))
    with pytest.raises(ValueError, match="pool_by must be one of size, height, got 'width'"):
        FrequencyClassifier(pool_by='width')


def test_float32_under_autocast():
    net, x = FrequencyClassifier(), torch.rand(2, 3, 48, 48)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(net(x), FrequencyClassifier.forward(net, x)) and net(x).dtype == torch.float32
    with torch.autocast('cpu', dtype=torch.bfloat16):
        under_autocast = net(x)
    torch.testing.assert_close(under_autocast, net(x))


def test_learns_to_distinguish_noise_from_smooth_images():
    net = FrequencyClassifier()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    smooth = torch.nn.functional.interpolate(torch.rand(32, 3, 6, 6), size=48, mode='bicubic').clamp(0, 1)
    x = torch.cat([smooth, (smooth + 8 / 255 * torch.randn_like(smooth).sign()).clamp(0, 1)])
    labels = torch.arange(64) // 32
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(net(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (net(x).argmax(1) == labels).float().mean() > 0.95
