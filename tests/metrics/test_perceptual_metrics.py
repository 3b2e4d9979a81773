"""The perceptual metrics and LR-consistency, called as in BasicSR's validation."""

import cv2
import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_metric
from lpips_by_hand import alexnet_features, save_features
from skimage import data
from skimage.metrics import peak_signal_noise_ratio
from skimage.transform import resize

from rsr_basicsr.data import ReducedImageDataset
from rsr_basicsr.metrics import calculate_lpips, calculate_lr_consistency, calculate_perceptual
from rsr_basicsr.metrics.inputs import calculate, is_higher_better, needs
from rsr_basicsr.options.metrics import check_metric
from rsr_basicsr.utils.errors import OptionsError

piq = pytest.importorskip('piq')
IMG2 = data.astronaut()[40:136, 180:276, ::-1].copy()
IMG = cv2.GaussianBlur(IMG2, (0, 0), 1.5)
PERCEPTUAL = pytest.mark.parametrize(
    'metric, reference', [('calculate_perceptual', 'img2'), ('calculate_perceptual_stability', 'img_clean')]
)


def tensor(bgr):
    return torch.from_numpy(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)).permute(2, 0, 1)[None] / 255


@PERCEPTUAL
def test_value_of_the_package(metric, reference):
    options = {'type': metric, 'measure': 'haarpsi', 'crop_border': 4}
    x, y = (tensor(image[4:-4, 4:-4].copy()) for image in (IMG, IMG2))
    expected = pytest.approx(1 - piq.haarpsi(x, y).item(), abs=1e-6)
    assert calculate_metric({'img': IMG, reference: IMG2}, options) == expected
    planes = {'img': IMG.transpose(2, 0, 1), reference: IMG2.transpose(2, 0, 1)}
    assert calculate_metric(planes, {**options, 'input_order': 'CHW'}) == expected
    assert calculate_metric({'img': IMG, reference: IMG}, options) == 0


@PERCEPTUAL
def test_inputs_and_direction(metric, reference):
    options = {'type': metric, 'measure': 'gmsd', 'crop_border': 0}
    assert needs(options) == ('img', reference) and not is_higher_better(options)
    assert calculate(options, {'img': IMG}) is None
    assert calculate(options, {'img': IMG, reference: IMG2}) > 0


def test_lpips_by_either_name(tmp_path):
    pytest.importorskip('lpips')
    backbone = save_features(alexnet_features(), tmp_path / 'alexnet.pth')
    expected = calculate_lpips(IMG, IMG2, 4, backbone=backbone)
    assert expected > 0
    for measure in ('lpips', 'auto'):
        assert calculate_perceptual(IMG, IMG2, 4, measure=measure, backbone=str(backbone)) == expected


@pytest.mark.parametrize(
    'side, measure, message',
    [
        (23, 'haarpsi', 'haarpsi needs at least 16x16 pixels, got 15x15 within crop_border: 4'),
        (48, 'vif', 'vif needs at least 41x41 pixels, got 40x40'),
        (48, 'hearpsi', "no perceptual measure 'hearpsi'; did you mean 'haarpsi'"),
    ],
)
def test_perceptual_exception(side, measure, message):
    with pytest.raises(ValueError, match=message):
        calculate_perceptual(IMG[:side, :side], IMG[:side, :side], 4, measure=measure)


def test_checked_options_name_the_measure(tmp_path):
    pytest.importorskip('lpips')
    backbone = str(save_features(alexnet_features(), tmp_path / 'alexnet.pth'))
    metric = {'type': 'calculate_perceptual', 'crop_border': 4, 'backbone': backbone}
    check_metric(metric, 'metrics.distance')
    assert metric['measure'] == 'lpips'
    for wrong, message in (
        ({'measure': 'lpip'}, "metrics.distance: there is no perceptual measure 'lpip'; did you mean 'lpips'?"),
        ({'measure': 'vif', 'backbone': backbone}, 'is for lpips and lpips_squeeze; vif has no weights'),
        ({'measure': 'lpips', 'backbone': 'gone.pth'}, 'metrics.distance: gone.pth does not exist'),
        ({'mesure': 'vif'}, "unknown key 'mesure'; did you mean 'measure'?"),
    ):
        with pytest.raises(OptionsError) as error:
            check_metric({'type': 'calculate_perceptual', 'crop_border': 4, **wrong}, 'metrics.distance')
        assert message in str(error.value)


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    """A high-resolution image and its reduction by ReducedImageDataset, BGR uint8."""
    folder = tmp_path_factory.mktemp('hr')
    cv2.imwrite(str(folder / 'a.png'), IMG2)
    item = ReducedImageDataset({'dataroot_gt': str(folder), 'io_backend': {'type': 'disk'}, 'scale': 4})[0]
    return IMG2, (item['lq'].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)[..., ::-1].copy()


def test_consistency_of_the_original_is_perfect(pair):
    img, lq = pair
    assert calculate_lr_consistency(img, lq, crop_border=4) == float('inf')


def test_consistency_of_a_known_offset(pair):
    img, lq = np.full((32, 32, 3), 100, np.uint8), np.full((8, 8, 3), 104, np.uint8)
    assert calculate_lr_consistency(img, lq, 0) == pytest.approx(20 * np.log10(255 / 4))
    lq[0], lq[:, 0] = 0, 0
    assert calculate_lr_consistency(img, lq, 4, scale=4) == pytest.approx(20 * np.log10(255 / 4))
    assert calculate_lr_consistency(img, lq, 0) < 20


def test_consistency_against_another_reduction(pair):
    img, lq = pair
    blurred = cv2.GaussianBlur(img, (0, 0), 4)
    # Skimage's antialiasing is a Gaussian blur: close, not the same.
    small = np.rint(resize(blurred / 255, lq.shape[:2], order=3, anti_aliasing=True) * 255)
    expected = peak_signal_noise_ratio(small[1:-1, 1:-1], lq[1:-1, 1:-1].astype(float), data_range=255)
    options = {'type': 'calculate_lr_consistency', 'crop_border': 4}
    found = calculate_metric({'img': blurred, 'lq': lq}, options)
    assert found == pytest.approx(expected, abs=0.5)
    planes = {'img': blurred.transpose(2, 0, 1), 'lq': lq.transpose(2, 0, 1)}
    assert calculate_metric(planes, {**options, 'input_order': 'CHW'}) == found
    assert is_higher_better(options) and needs(options) == ('img', 'lq')


@pytest.mark.parametrize(
    'size, options, message',
    [
        ((30, 32, 3), {}, 'an output 3 times as large as the input, got 30x32 of 8x8'),
        ((32, 32, 3), {'scale': 2}, 'an output 2 times as large as the input, got 32x32 of 8x8'),
        ((32, 32, 3), {'crop_border': 16}, 'crop_border: 16 leaves nothing of an image of 32x32'),
    ],
)
def test_consistency_exception(size, options, message):
    with pytest.raises(ValueError, match=message):
        calculate_lr_consistency(
            np.zeros(size, np.uint8), np.zeros((8, 8, 3), np.uint8), **{'crop_border': 0, **options}
        )
