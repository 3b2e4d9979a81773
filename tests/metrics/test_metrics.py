"""Metrics against scikit-image, closed forms and definitions, called as in BasicSR's validation."""

import shutil
import sys

import cv2
import numpy as np
import pytest
import scipy.ndimage
import torch
from basicsr.metrics import calculate_metric
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from rsr_basicsr.metrics import calculate_gain, calculate_lpips, calculate_stability, rms_gain

PHOTOS = [data.astronaut()[:160, 130:322], data.coffee()[100:228, 200:392], data.chelsea()[60:220, 100:292]]
SSIM = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)  # of Wang et al. 2004


def distorted(photo, how):
    if how == 'jpeg':
        return cv2.imdecode(cv2.imencode('.jpg', photo, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR)
    if how == 'blur':
        return cv2.GaussianBlur(photo, (0, 0), 1.5)
    noise = np.random.default_rng(0).normal(0, 10, photo.shape)
    return (photo + noise).clip(0, 255).round().astype(np.uint8)


PAIRS = [
    pytest.param(photo[..., ::-1].copy(), distorted(photo[..., ::-1].copy(), how), id=f'{number} {how}')
    for number, (photo, how) in enumerate(zip(PHOTOS, ('jpeg', 'blur', 'noise')))
]


def luma(bgr):
    """Y of BT.601 on its nominal scale of 16 to 235, from the weights of the standard."""
    blue, green, red = (bgr[..., i].astype(np.float64) for i in range(3))
    return 16 + 219 / 255 * (0.299 * red + (1 - 0.299 - 0.114) * green + 0.114 * blue)


def inner(img, border=4):
    return img[border:-border, border:-border]


@pytest.mark.parametrize('img, img2', PAIRS)
def test_psnr_and_ssim_of_the_host(img, img2):
    y, y2 = luma(inner(img)), luma(inner(img2))
    options = {'crop_border': 4, 'test_y_channel': True}
    images = {'img': img, 'img2': img2}
    assert calculate_metric(images, {'type': 'calculate_psnr', **options}) == pytest.approx(
        peak_signal_noise_ratio(y, y2, data_range=255), abs=1e-4
    )
    # Both leave out the 5 pixels at each edge where the window reaches outside.
    assert calculate_metric(images, {'type': 'calculate_ssim', **options}) == pytest.approx(
        structural_similarity(y, y2, **SSIM), abs=1e-6
    )


def zero_padded_ssim(x, y):
    """Mean of the SSIM map, with scipy's filters."""
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(taps, taps) / taps.sum() ** 2

    def mean(values):
        return scipy.ndimage.correlate(values, window, mode='constant', cval=0)

    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = 2.55**2, 7.65**2
    return ((2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean()


@pytest.mark.parametrize('img, img2', PAIRS)
def test_the_published_ssim_is_zero_padded(img, img2):
    found = calculate_metric({'img': img, 'img2': img2}, {'type': 'calculate_ssim_zero_padded'})
    assert found == pytest.approx(zero_padded_ssim(luma(img), luma(img2)), abs=1e-5)
    host = calculate_metric(
        {'img': img, 'img2': img2}, {'type': 'calculate_ssim', 'crop_border': 4, 'test_y_channel': True}
    )
    assert 1e-4 < abs(found - host) <= 0.03
    planes = {'img': img.transpose(2, 0, 1), 'img2': img2.transpose(2, 0, 1)}
    assert calculate_metric(planes, {'type': 'calculate_ssim_zero_padded', 'input_order': 'CHW'}) == found
    assert calculate_metric({'img': img, 'img2': img}, {'type': 'calculate_ssim_zero_padded'}) == pytest.approx(1)
    border = calculate_metric({'img': img, 'img2': img2}, {'type': 'calculate_ssim_zero_padded', 'crop_border': 4})
    assert border == pytest.approx(zero_padded_ssim(luma(inner(img)), luma(inner(img2))), abs=1e-5)
    with pytest.raises(ValueError, match='expected two images of one size'):
        calculate_metric({'img': img, 'img2': img2[1:]}, {'type': 'calculate_ssim_zero_padded'})


@pytest.mark.parametrize('img, img_clean', PAIRS)
def test_stability_by_psnr_and_ssim(img, img_clean):
    images = {'img': img, 'img_clean': img_clean}
    cropped = inner(img), inner(img_clean)
    for options, ours, expected in (
        ({}, 'calculate_stability', peak_signal_noise_ratio(*cropped)),
        ({}, 'calculate_stability_ssim', structural_similarity(*cropped, channel_axis=-1, **SSIM)),
        ({'test_y_channel': True}, 'calculate_stability_ssim', structural_similarity(*map(luma, cropped), **SSIM)),
    ):
        found = calculate_metric(images, {'type': ours, 'crop_border': 4, **options})
        assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize('gain', [0.5, 1, 3])
def test_gain_of_a_linear_network(gain):
    rng = np.random.default_rng(0)
    lq_clean = rng.integers(40, 200, (16, 20, 3), dtype=np.uint8)
    lq = (lq_clean + rng.choice([-8, -2, 2, 8], lq_clean.shape)).astype(np.uint8)
    img, img_clean = (gain * (image.repeat(4, 0).repeat(4, 1) - 128.0) + 128 for image in (lq, lq_clean))
    images = {'img': img, 'img_clean': img_clean, 'lq': lq, 'lq_clean': lq_clean}
    assert calculate_metric(images, {'type': 'calculate_gain'}) == pytest.approx(gain)
    planes = {name: image.transpose(2, 0, 1) for name, image in images.items()}
    assert calculate_metric(planes, {'type': 'calculate_gain', 'input_order': 'CHW'}) == pytest.approx(gain)


def test_gain_of_single_values():
    lq_clean, img_clean = np.full((4, 4, 3), 250, np.uint8), np.zeros((8, 8, 3), np.uint8)
    lq, img, edge = lq_clean.copy(), img_clean.copy(), img_clean.copy()
    lq[0, 0, 0], img[4, 4, 1], edge[0, 0, 0] = 5, 200, 200  # an 8-bit difference would wrap around
    expected = (200 / np.sqrt(8 * 8)) / (245 / np.sqrt(4 * 4))
    assert calculate_gain(img, img_clean, lq, lq_clean) == pytest.approx(expected)
    # Of the 8x8 pixels, the inner 4x4 count.
    assert calculate_gain(img, img_clean, lq, lq_clean, crop_border=2) == pytest.approx(2 * expected)
    assert calculate_gain(edge, img_clean, lq, lq_clean, crop_border=2) == 0
    assert calculate_gain(img, img_clean, lq, lq) == float('inf')
    assert np.isnan(calculate_gain(img, img, lq, lq))


@pytest.mark.parametrize('eps, change', [(8, 8), (8, 12), (2, 1)])
def test_rms_gain_of_a_constant_change(eps, change):
    clean = np.full((16, 16, 3), 100.0)
    stability = calculate_stability(clean + change, clean, crop_border=0)
    assert rms_gain(stability, eps) == pytest.approx(change / eps, rel=1e-5)


def test_rms_gain_of_published_figures():
    # 30.07 - 20 log10 G at eps 8, 42.11 - 20 log10 G at eps 2
    assert rms_gain(30.07 - 6.0206, 8) == pytest.approx(2, rel=1e-3)
    assert rms_gain(42.11 + 6.0206, 2) == pytest.approx(0.5, rel=1e-3)
    assert rms_gain(float('inf'), 8) == 0
    with pytest.raises(ValueError, match='expected eps > 0 in 1/255 units, got 0'):
        rms_gain(30, 0)


def test_gain_exception():
    small, large = np.zeros((4, 4, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r'of one size, got \(8, 8, 3\) and \(4, 4, 3\)'):
        calculate_gain(large, small, small, small)
    with pytest.raises(ValueError, match='crop_border: 4 leaves nothing of an image of 8x8'):
        calculate_gain(large, large, small, small, crop_border=4)


@pytest.fixture(scope='module', params=['random', 'trained'])
def alexnet(request, shared, tmp_path_factory):
    """LPIPS by its definition with weights of AlexNet, and the file of these weights."""
    from lpips_by_hand import alexnet_features, by_definition  # which is skipped without the package lpips

    features = alexnet_features()
    if request.param == 'random':
        path = tmp_path_factory.mktemp('lpips') / 'alexnet.pth'
        torch.save({f'features.{key}': value for key, value in features.state_dict().items()}, path)
    else:
        path = shared / 'weights' / 'lpips_alexnet_features_fp16.pth'
        if not path.is_file():
            pytest.skip(f'{path}, the weights of AlexNet, is not there')
        state = torch.load(path, weights_only=True)
        features.load_state_dict({key: state[f'features.{key}'] for key in features.state_dict()})
    return lambda x, y: by_definition(features, x, y).item(), str(path)


@pytest.mark.parametrize('img, img2', PAIRS)
def test_lpips_against_the_definition(img, img2, alexnet):
    definition, backbone = alexnet
    rgb = [
        torch.from_numpy(cv2.cvtColor(inner(image), cv2.COLOR_BGR2RGB)).permute(2, 0, 1)[None] / 255
        for image in (img, img2)
    ]
    expected = pytest.approx(definition(*rgb), rel=1e-3)
    options = {'type': 'calculate_lpips', 'crop_border': 4, 'backbone': backbone}
    assert calculate_metric({'img': img, 'img2': img2}, options) == expected
    planes = {'img': img.transpose(2, 0, 1), 'img2': img2.transpose(2, 0, 1)}
    assert calculate_metric(planes, {**options, 'input_order': 'CHW'}) == expected
    assert calculate_metric({'img': img, 'img2': img}, options) == 0


def test_lpips_takes_the_smallest_image(alexnet):
    image = PHOTOS[0][:39, :39]
    assert calculate_lpips(image, image[::-1], crop_border=4, backbone=alexnet[1]) > 0


def test_lpips_reads_its_file_once_and_draws_nothing(alexnet, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    shutil.copy(alexnet[1], tmp_path / 'alexnet.pth')
    before = torch.get_rng_state()
    first = calculate_lpips(*PHOTOS[::2], crop_border=0, backbone='~/alexnet.pth')
    assert torch.equal(torch.get_rng_state(), before)
    (tmp_path / 'alexnet.pth').unlink()
    assert calculate_lpips(*PHOTOS[::2], crop_border=0, backbone='~/alexnet.pth') == first > 0


@pytest.mark.parametrize(
    'shape, shape2, message',
    [
        ((38, 60, 3), (38, 60, 3), 'lpips needs at least 31x31 pixels, got 30x52 within crop_border: 4'),
        ((48, 48, 3), (48, 44, 3), r'of one size, got \(48, 48, 3\) and \(48, 44, 3\)'),
        ((48, 48), (48, 48), 'of three channels, got 1'),
        ((8, 48, 3), (8, 48, 3), 'leaves nothing of an image of 8x48'),
    ],
)
def test_lpips_exception(shape, shape2, message):
    with pytest.raises(ValueError, match=message):
        calculate_lpips(np.zeros(shape, np.uint8), np.zeros(shape2, np.uint8), crop_border=4)


def test_lpips_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'lpips', None)
    with pytest.raises(ValueError, match='the measure lpips needs the package lpips; install the extra metrics'):
        calculate_lpips(*PHOTOS[::2], crop_border=0, backbone='never_read.pth')


def test_niqe_of_the_host_finds_noise_unnatural():
    photo = data.astronaut()[:192, 130:322, ::-1]
    clean, noisy = (
        calculate_metric({'img': image}, {'type': 'calculate_niqe', 'crop_border': 0})
        for image in (photo, distorted(photo, 'noise'))
    )
    assert 0 < clean < noisy < 100
