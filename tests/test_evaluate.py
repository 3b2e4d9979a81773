"""The measurement, on networks whose numbers are known in closed form."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch import nn
from torch.nn import functional as F

from rsr_basicsr import defend
from rsr_basicsr.attacks import IFGSM, PGD, RandomNoise, Transfer, worst_of
from rsr_basicsr.benchmark.evaluate import CROP_BORDER, evaluate
from rsr_basicsr.data import write_evaluation_pairs, write_training_photos
from rsr_basicsr.metrics import calculate_stability


class Nearest(nn.Module):
    """Nearest-neighbour enlargement by 4; the parameter only tells where the network lives."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return F.interpolate(x, scale_factor=4, mode='nearest') * self.one


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return {name: {'lq': rng.integers(40, 200, (16, 16, 3), dtype=np.uint8),
                   'gt': rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)} for name in ('one', 'two')}


def test_psnr_and_stability_of_a_linear_network(pictures):
    clean, attacked = evaluate('nearest', Nearest(), pictures, [IFGSM(eps=8, steps=10, quantize='nearest')])
    for result in clean:
        enlarged = pictures[result.picture]['lq'].repeat(4, 0).repeat(4, 1)
        assert np.array_equal(result.sr, enlarged) and result.stability is None and result.detected is None
        inner = np.s_[CROP_BORDER:-CROP_BORDER, CROP_BORDER:-CROP_BORDER]
        assert result.psnr == pytest.approx(peak_signal_noise_ratio(pictures[result.picture]['gt'][inner],
                                                                    enlarged[inner]))
    for result in attacked:
        # Every pixel ends on the face of the ball: the output moves by 8 levels everywhere.
        assert (np.abs(result.lq.astype(int) - pictures[result.picture]['lq']) == 8).all()
        assert result.stability == pytest.approx(20 * np.log10(255 / 8), abs=1e-6)


def test_defended_network_reports_the_gate(pictures):
    torch.manual_seed(1)
    net = defend(Nearest)(defense={'classifier': {'threshold': 1.0}}).eval()
    clean, attacked = evaluate('defended', net, pictures, [IFGSM(eps=4, steps=2, quantize='nearest')])
    assert [r.detected for r in clean + attacked] == [True] * 4
    net.defense.threshold = 0.0
    clean, attacked = evaluate('defended', net, pictures, [IFGSM(eps=4, steps=2, quantize='nearest')])
    assert [r.detected for r in clean + attacked] == [False] * 4
    assert all(r.eps == 4 and r.stability < 60 for r in attacked)


def test_attacks_that_know_no_gate_are_run_once(pictures):
    net = defend(Nearest)().eval()
    attacks = [Transfer(source=Nearest(), eps=4, steps=1), RandomNoise(eps=4), worst_of([
        PGD(eps=4, steps=1), Transfer(source=Nearest(), eps=4, steps=1)])]
    _, *attacked = evaluate('defended', net, pictures, attacks)
    assert len(attacked) == 3 and all(result.stability < 60 for batch in attacked for result in batch)


def test_the_ground_truth_is_the_target_of_attacks_that_ask_for_it(pictures):
    _, attacked = evaluate('nearest', Nearest(), pictures, [
        PGD(eps=8, steps=10, objective='ground_truth', quantize='nearest')])
    clean, = [batch for batch in evaluate('nearest', Nearest(), pictures, [])]
    assert all(worse.psnr < better.psnr for worse, better in zip(attacked, clean))


def test_worst_gate_is_kept(pictures):
    # With the gate shut by the threshold, an attack made with the gate shut is the strongest: the closed form again.
    net = defend(Nearest)(defense={'classifier': {'threshold': 0.0}}).eval()
    _, attacked = evaluate('defended', net, pictures, [IFGSM(eps=8, steps=10, quantize='nearest')])
    assert [r.stability for r in attacked] == pytest.approx([20 * np.log10(255 / 8)] * 2, abs=1e-6)


def test_repeatable(pictures):
    net = defend(Nearest)(defense={'gate': 'always'}).eval()
    runs = [[r.sr for batch in evaluate('d', net, pictures, [IFGSM(eps=4, steps=2)], seed=3) for r in batch]
            for _ in range(2)]
    assert all(np.array_equal(a, b) for a, b in zip(*runs))


def test_stability_metric_against_scikit_image():
    a, b = np.random.default_rng(1).integers(0, 256, (2, 20, 24, 3), dtype=np.uint8)
    expected = peak_signal_noise_ratio(b[2:-2, 2:-2], a[2:-2, 2:-2])
    assert calculate_stability(a, b, crop_border=2) == pytest.approx(expected)


def test_sample_photos(tmp_path):
    meta_info = write_training_photos(tmp_path / 'train')
    assert all((tmp_path / 'train' / name).is_file() for name in meta_info.read_text().split())
    names = write_evaluation_pairs(tmp_path / 'gt', tmp_path / 'lq')
    import cv2
    shapes = {cv2.imread(str(tmp_path / kind / f'{name}.png')).shape for kind in ('gt', 'lq') for name in names}
    assert shapes == {(256, 256, 3), (64, 64, 3)}
    assert not {n.split('_')[0] for n in names} & {n.split('_')[0].split('.')[0] for n in meta_info.read_text().split()}
