"""The losses of CDC against scipy and explicit sums."""

import numpy as np
import pytest
import scipy.ndimage
import torch
from basicsr.losses import build_loss
from skimage import data

from rsr_basicsr.archs.cdc_arch import CDCOutput
from rsr_basicsr.losses.component_loss import gradient_weighted_l1, region_maps


def harris_regions(luma):
    """Flat, edge and corner by the Harris response, computed with scipy."""
    dx, dy = (scipy.ndimage.sobel(luma, axis=axis, mode='mirror') for axis in (1, 0))
    xx, yy, xy = (9 * scipy.ndimage.uniform_filter(p, 3, mode='mirror') for p in (dx * dx, dy * dy, dx * dy))
    response = xx * yy - xy * xy - 0.04 * (xx + yy) ** 2
    corner, edge = response > 0.01 * response.max(), response < -0.001 * response.max()
    return np.stack([~corner & ~edge, edge, corner])


def test_regions_against_scipy():
    photo = data.astronaut()[:128, 100:228] / 255
    luma = photo @ np.array([65.481, 128.553, 24.966]) + 16
    ours = region_maps(torch.from_numpy(photo).permute(2, 0, 1)[None].float())[0].numpy().astype(bool)
    assert (ours == harris_regions(luma)).mean() > 0.999
    assert (ours.mean(axis=(1, 2)) > 0.01).all()


def test_regions_of_the_published_luma():
    photo = data.astronaut() / 255
    x = torch.from_numpy(photo).permute(2, 0, 1)[None].float()
    published = region_maps(x, luma='published')[0].numpy().astype(bool)
    expected = harris_regions(255 * photo @ np.array([0.257, 0.564, 0.098]) + 16)
    assert (published == expected).all(axis=0).mean() > 0.9995
    differ = (published != region_maps(x)[0].numpy().astype(bool)).any(axis=0).mean()
    assert 0.0005 < differ < 0.003
    with pytest.raises(ValueError, match="luma must be one of bt601, published, got 'rec709'"):
        region_maps(x, luma='rec709')


def test_component_loss_takes_the_published_luma():
    hr = torch.from_numpy(data.astronaut()[:256, 100:356] / 255).permute(2, 0, 1)[None].float()
    output = CDCOutput(*torch.rand(4, 1, 3, 256, 256))
    losses = {}
    for luma in ('bt601', 'published'):
        losses[luma] = build_loss({'type': 'ComponentLoss', 'luma': luma, 'fused_weight': 0})(output, hr).item()
        regions = region_maps(hr, luma)
        expected = sum(
            weight * (image - hr).abs().mul(region).mean()
            for weight, image, region in zip((1, 2, 5), output, regions.unbind(1))
        )
        assert losses[luma] == pytest.approx(expected.item(), rel=1e-5)
    assert losses['bt601'] != losses['published'] and build_loss({'type': 'ComponentLoss'}).luma == 'bt601'
    with pytest.raises(ValueError, match="luma must be one of bt601, published, got 'y'"):
        build_loss({'type': 'ComponentLoss', 'luma': 'y'})


def test_regions_of_a_square():
    x = torch.zeros(2, 3, 32, 32)
    x[1, :, 8:24, 8:24] = 1
    flat, edge, corner = region_maps(x).unbind(dim=1)
    assert torch.equal(flat + edge + corner, torch.ones_like(flat))
    assert flat[0].all()  # an image of one colour
    assert corner[1, 8, 8] and corner[1, 23, 23] and edge[1, 16, 8] and edge[1, 8, 16] and flat[1, 16, 16]


def test_gradient_weighted_l1_against_reference():
    sr, hr = torch.rand(2, 1, 3, 9, 11, dtype=torch.float64).unbind()
    total = []
    for channel in range(3):
        a, b = sr[0, channel].numpy(), hr[0, channel].numpy()
        dx, dy = (
            np.abs(
                scipy.ndimage.sobel(a, axis=axis, mode='constant') - scipy.ndimage.sobel(b, axis=axis, mode='constant')
            )
            for axis in (1, 0)
        )
        total.append((1 + 4 * dx) * (1 + 4 * dy) * np.abs(a - b))
    assert gradient_weighted_l1(sr, hr).item() == pytest.approx(np.mean(total))


def test_component_loss_against_reference():
    hr = torch.zeros(1, 3, 32, 32)
    hr[..., 8:24, 8:24] = 1
    images = [hr + offset for offset in (0.1, 0.2, -0.3)]
    loss = build_loss({'type': 'ComponentLoss', 'component_weights': [1, 2, 5], 'fused_weight': 0})
    shares = region_maps(hr).mean(dim=(0, 2, 3))
    expected = 1 * 0.1 * shares[0] + 2 * 0.2 * shares[1] + 5 * 0.3 * shares[2]
    assert loss(CDCOutput(*images, hr), hr).item() == pytest.approx(expected.item(), rel=1e-4)
    fused = build_loss({'type': 'ComponentLoss', 'component_weights': [0, 0, 0]})
    assert fused(CDCOutput(*images, hr + 0.1), hr).item() == pytest.approx(gradient_weighted_l1(hr + 0.1, hr).item())


def test_gradients_reach_all_four_images():
    images = [torch.rand(1, 3, 16, 16, requires_grad=True) for _ in range(4)]
    hr = torch.rand(1, 3, 16, 16)
    build_loss({'type': 'ComponentLoss'})(CDCOutput(*images), hr).backward()
    assert all(p.grad.abs().sum() > 0 for p in images)
