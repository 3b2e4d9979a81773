"""The DCT against scipy, its gradient against finite differences."""

import numpy as np
import pytest
import scipy.fft
import torch

from rsr_basicsr import frequency
from rsr_basicsr.frequency import dct2, filter_dct, idct2, log_spectrum, radial_distance

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
    # Pictures may come as views: neither contiguous nor writable in place.
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


def test_matrices_first_met_without_gradients_can_train_later():
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


def test_log_spectrum_of_zeros_is_the_floor():
    x = torch.full((1, 3, 8, 8), 0.5)
    spectrum = log_spectrum(x)
    assert spectrum[0, 0, 0] == pytest.approx(np.log(0.5 * 8), abs=1e-5)
    assert torch.isfinite(log_spectrum(torch.zeros(1, 3, 8, 8))).all()
    assert log_spectrum(torch.zeros(1, 3, 8, 8)).max() == pytest.approx(np.log(1e-6), abs=1e-5)
