"""The random frequency mask against the closed form of its distribution."""

import math

import numpy as np
import pytest
import torch
from basicsr.archs import build_network

from rsr_basicsr.archs import RandomFrequencyMask
from rsr_basicsr.ops.frequency import idct2


def kept_share(height, width, low=0.43, high=0.50):
    """P(a coefficient stays), (height, width): P(D <= rR) + P(D > rR) (1 - D / max D)."""
    distance = np.hypot(*np.mgrid[:height, :width])
    inside = np.clip((high - distance / math.hypot(height, width)) / (high - low), 0, 1)
    return inside + (1 - inside) * (1 - distance / max(distance.max(), 1)), distance


@pytest.mark.parametrize('size', [(48, 48), (37, 91), (1, 64)])
def test_share_kept_by_radius(size):
    draws = 2000
    masks = RandomFrequencyMask().draw(torch.zeros(draws, 1, *size))[:, 0].double().numpy()
    expected, distance = kept_share(*size)
    ring = np.minimum((distance / distance.max() * 10).astype(int), 9)
    for index in range(10):
        inside = ring == index
        shares = masks[:, inside].mean(axis=1)  # one number a draw: the coefficients of a draw share their radius
        error = shares.std(ddof=1) / math.sqrt(draws)
        assert abs(shares.mean() - expected[inside].mean()) <= 3 * error + 1e-9


def test_energy_removed_from_white_noise():
    x = torch.randn(400, 1, 48, 48)
    removed = 1 - RandomFrequencyMask()(x).square().sum() / x.square().sum()
    assert removed.item() == pytest.approx(0.432, abs=0.01)


def test_low_frequencies_are_unchanged():
    spectrum = torch.randn(8, 3, 40, 56)
    distance = torch.from_numpy(np.hypot(*np.mgrid[:40, :56]))
    x = idct2(spectrum * (distance <= 0.43 * math.hypot(40, 56)))
    torch.testing.assert_close(RandomFrequencyMask()(x), x, atol=1e-5, rtol=0)


def test_mask_per_sample_shared_by_channels():
    noise = torch.randn(1, 1, 32, 32).expand(2, 3, 32, 32)
    masked = RandomFrequencyMask()(noise)
    assert not torch.equal(masked[0], masked[1])
    torch.testing.assert_close(masked[:, 0], masked[:, 2])
    whole_batch = RandomFrequencyMask(per_sample=False)(noise)
    torch.testing.assert_close(whole_batch[0], whole_batch[1])


def test_redrawn_at_every_call_and_repeatable_with_a_generator():
    mask, x = RandomFrequencyMask(), torch.randn(2, 3, 24, 24)
    assert not torch.equal(mask(x), mask(x))
    first, second = (mask(x, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)


def test_generator_per_sample_is_independent_of_the_batch():
    mask, x = RandomFrequencyMask(), torch.randn(3, 3, 24, 24)
    together = mask(x, [torch.Generator().manual_seed(seed) for seed in (1, 2, 3)])
    alone = mask(x[1:2], [torch.Generator().manual_seed(2)])
    torch.testing.assert_close(together[1:2], alone, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match='one generator per sample, got 1 for 3'):
        mask(x, [torch.Generator()])


def test_gradient_is_the_mask_itself():
    # The mask is a symmetric linear map: the gradient of <mask(x), v> is mask(v) under the same draw.
    mask, v = RandomFrequencyMask(), torch.randn(1, 2, 9, 12, dtype=torch.float64)
    x = torch.randn_like(v).requires_grad_()
    (mask(x, torch.Generator().manual_seed(1)) * v).sum().backward()
    torch.testing.assert_close(x.grad, mask(v, torch.Generator().manual_seed(1)))


def test_keeps_dtype_and_needs_no_parameters():
    mask = build_network({'type': 'RandomFrequencyMask'})
    assert mask(torch.rand(1, 3, 8, 8).half()).dtype == torch.float16
    assert not list(mask.state_dict())


@pytest.mark.parametrize('keep_radius', [(0.5, 0.43), (-0.1, 0.5), (0.5, 1.1)])
def test_wrong_radius_is_refused(keep_radius):
    with pytest.raises(ValueError, match='keep_radius'):
        RandomFrequencyMask(keep_radius)
