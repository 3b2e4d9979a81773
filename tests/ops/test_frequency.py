"""The DCT against scipy, its gradient against finite differences."""

import numpy as np
import pytest
import scipy.fft
import torch

from rsr_basicsr.ops import frequency
from rsr_basicsr.ops.caching import for_any_size
from rsr_basicsr.ops.frequency import dct2, filter_dct, idct2, log_spectrum, radial_distance

SHAPES = [(1, 1), (1, 64), (48, 48), (37, 91), (2, 3, 5, 8), (770, 9), (9, 769), (800, 901)]


@pytest.mark.parametrize('shape', SHAPES)
def test_dct2_is_scipys(shape):
    x = torch.rand(shape, dtype=torch.float64)
    expected = scipy.fft.dctn(x.numpy(), axes=(-2, -1), norm='ortho')
    np.testing.assert_allclose(dct2(x).numpy(), expected, atol=1e-11)
    np.testing.assert_allclose(dct2(x.float()).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize('shape', SHAPES)
def test_idct2_is_scipys(shape):
    X = torch.rand(shape, dtype=torch.float64)
    np.testing.assert_allclose(idct2(X).numpy(), scipy.fft.idctn(X.numpy(), axes=(-2, -1), norm='ortho'), atol=1e-11)


@pytest.mark.parametrize('largest_matrix', [0, 4, 768], ids=['fft', 'mixed', 'matrix'])
@pytest.mark.parametrize('transform', [dct2, idct2])
def test_gradcheck(transform, largest_matrix, monkeypatch):
    monkeypatch.setattr(frequency, '_LARGEST_MATRIX', largest_matrix)
    x = torch.rand(2, 3, 4, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(transform, (x,))


@pytest.mark.parametrize('shape', [(2, 3, 37, 91), (1, 2, 1, 64), (1, 1, 800, 30)])
def test_filter_is_scipys(shape):
    x, weight = torch.rand(shape, dtype=torch.float64), torch.rand(shape[0], 1, *shape[2:], dtype=torch.float64)
    spectrum = scipy.fft.dctn(x.numpy(), axes=(-2, -1), norm='ortho')
    expected = scipy.fft.idctn(spectrum * weight.numpy(), axes=(-2, -1), norm='ortho')
    np.testing.assert_allclose(filter_dct(x, weight).numpy(), expected, atol=1e-11)
    # Inputs may be views: neither contiguous nor writable in place.
    flipped = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    np.testing.assert_allclose(filter_dct(flipped, weight).numpy(), expected, atol=1e-11)


@pytest.mark.parametrize('largest_matrix', [0, 768], ids=['fft', 'matrix'])
def test_filter_has_first_and_second_derivatives(largest_matrix, monkeypatch):
    monkeypatch.setattr(frequency, '_LARGEST_MATRIX', largest_matrix)
    x, weight = torch.rand(2, 2, 4, 7, dtype=torch.float64, requires_grad=True), torch.rand(2, 1, 4, 7).double()
    assert torch.autograd.gradcheck(lambda x: filter_dct(x, weight), (x,))
    assert torch.autograd.gradgradcheck(lambda x: filter_dct(x, weight).square(), (x,))


def test_half_precision_and_autocast_compute_in_float32():
    x = torch.rand(1, 3, 16, 16)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert dct2(x).dtype == torch.float32
        torch.testing.assert_close(dct2(x), dct2(x.double()).float(), atol=1e-5, rtol=0)
    assert dct2(x.half()).dtype == torch.float32


def test_matrices_cached_without_gradients_can_train_later():
    with torch.inference_mode():
        dct2(torch.rand(1, 1, 29, 31))
    x = torch.rand(1, 1, 29, 31, requires_grad=True)
    dct2(x).square().sum().backward()
    # Parseval: the transform is orthonormal, so the gradient of the energy is 2x.
    torch.testing.assert_close(x.grad, 2 * x.detach(), atol=1e-4, rtol=1e-4)


def test_radial_distance():
    distance = radial_distance(4, 5)
    assert distance.shape == (4, 5)
    assert distance[0, 0] == 0 and distance[3, 4] == 5 and distance[0, 4] == 4


SIZES = [(1, 1), (8, 8), (48, 48), (50, 70), (300, 1000), (1080, 1920)]
FLOOR = np.log(1e-6)


@pytest.mark.parametrize('colours', [(0, 0, 0), (1, 1, 1), (128 / 255,) * 3, (0.1, 0.7, 0.9)], ids=str)
@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_log_spectrum_of_a_flat_image_is_the_floor_off_dc(size, colours, dtype):
    x = torch.tensor(colours, dtype=dtype).view(1, 3, 1, 1).expand(1, 3, *size)
    expected = np.full(size, FLOOR)
    expected[0, 0] = np.log(max(np.mean(colours) * np.sqrt(size[0] * size[1]), 1e-6))
    found = log_spectrum(x)
    assert found.dtype == dtype
    np.testing.assert_allclose(found[0].numpy(), expected, atol=2e-6)
    with for_any_size():
        np.testing.assert_allclose(log_spectrum(x[..., :300, :300])[0, 1:].numpy(), FLOOR, atol=2e-6)


@pytest.mark.parametrize('size', SIZES[2:5], ids=str)
@pytest.mark.parametrize('dtype, atol', [(torch.float32, 2e-7), (torch.float64, 1e-12)], ids=str)
def test_log_spectrum_is_scipys_above_the_floor(size, dtype, atol):
    x = np.random.default_rng(0).random((3, *size))
    x[:, :, size[1] // 2 :] = [[[0.9]], [[0.2]], [[0.4]]]  # half of it flat: coefficients of every magnitude
    expected = np.abs(scipy.fft.dctn(x, axes=(1, 2), norm='ortho').mean(axis=0))
    found = log_spectrum(torch.from_numpy(x).to(dtype)[None])[0].double().exp().numpy()
    # Rounding grows with the norm of the image.
    np.testing.assert_allclose(found, np.maximum(expected, 1e-6), atol=atol * np.linalg.norm(x), rtol=1e-5)


@pytest.mark.parametrize('largest_matrix', [0, 768], ids=['fft', 'matrix'])
def test_gradient_of_the_log_spectrum(largest_matrix, monkeypatch):
    monkeypatch.setattr(frequency, '_LARGEST_MATRIX', largest_matrix)
    x = torch.rand(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log_spectrum, (x,))
    flat = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(log_spectrum(flat).sum(), flat)
    # Only the DC coefficient, 8 times the mean of the channels, is above the floor: d log(8 m) / d x = 1 / (m 3 64).
    torch.testing.assert_close(gradient, torch.full_like(gradient, 1 / (0.5 * 3 * 64)))
