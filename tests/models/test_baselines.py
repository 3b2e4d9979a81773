"""The baselines of docs/benchmark.md as trainings: what they train on, and their options files."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
import yaml

from rsr_basicsr.attacks import PGD, RandomNoise, build_attack
from rsr_basicsr.options.attack_blocks import AttackOptions
from rsr_basicsr.options.parsing import parse_block
from rsr_basicsr.utils.errors import OptionsError

FILES = sorted((Path(__file__).parents[2] / 'options' / 'baselines').glob('*.yml'))
GREY = torch.full((2, 3, 96, 96), 0.5)


@pytest.fixture
def consistent(model):
    """A model that trains attacked samples for consistency."""
    model.schedule.attacked_target = 'clean_output'
    return model


def clean_output(model, lq):
    with torch.no_grad(), model.net_g.defense.forced(False):
        return model.net_g(lq)


def test_consistency_in_pairs(consistent):
    consistent.schedule.mode = 'paired'
    lq, gt = consistent.lq.clone(), consistent.gt.clone()
    expected = clean_output(consistent, lq)
    next(consistent.attacked_batches(1))
    assert torch.equal(consistent.gt[:4], gt)
    torch.testing.assert_close(consistent.gt[4:], expected)
    assert not consistent.gt.requires_grad


def test_consistency_of_a_share(consistent):
    consistent.schedule.mode, consistent.schedule.share = 'mixed', 0.5
    gt, expected = consistent.gt.clone(), clean_output(consistent, consistent.lq)
    ((labels, _),) = consistent.attacked_batches(1)
    torch.testing.assert_close(consistent.gt, torch.where(labels.view(-1, 1, 1, 1), expected, gt))


def test_consistency_after_the_clean_step(consistent):
    consistent.schedule.mode = 'alternating'
    lq, gt = consistent.lq.clone(), consistent.gt.clone()
    batches = consistent.attacked_batches(1)
    next(batches)
    assert torch.equal(consistent.gt, gt)
    with torch.no_grad():
        for parameter in consistent.net_g.parameters():
            parameter.mul_(0.9)  # as the clean step changes the weights
    expected = clean_output(consistent, lq)
    next(batches)
    torch.testing.assert_close(consistent.gt, expected)


def test_gaussian_noise_is_normal():
    noise = (RandomNoise(eps=8, norm='L2', distribution='gaussian')(torch.nn.Identity(), GREY) - GREY) * 255
    assert scipy.stats.kstest(noise[0].flatten().numpy() / 8, 'norm').pvalue > 0.001
    torch.testing.assert_close(noise.square().mean((1, 2, 3)).sqrt(), torch.full((2,), 8.0), atol=1e-3, rtol=0)


def test_uniform_noise_fills_the_ball():
    noise = (RandomNoise(eps=8, distribution='uniform')(torch.nn.Identity(), GREY) - GREY) * 255
    assert scipy.stats.kstest(noise.flatten().numpy(), 'uniform', (-8, 16)).pvalue > 0.001


def test_gaussian_noise_needs_its_norm():
    with pytest.raises(ValueError, match='gaussian is not bounded by norm: Linf; write norm: L2'):
        RandomNoise(eps=8, distribution='gaussian')


def correlation(image, shift):
    return np.corrcoef(image[:, :, :-shift].ravel(), image[:, :, shift:].ravel())[0, 1]


@pytest.mark.parametrize('coarseness, neighbours', [(1, 0.0), (1.5, 1 / 3), (2, 1 / 2), (4, 3 / 4)])
def test_coarse_start_correlates_neighbours(coarseness, neighbours):
    attack = PGD(eps=14, steps=1, step_size=1e-6, random_start=14, start_coarseness=coarseness)
    start = (attack(torch.nn.Upsample(scale_factor=2), GREY) - GREY)[0].numpy() * 255
    # Of neighbours in blocks of c pixels, (c - 1) / c are in the same block.
    assert correlation(start, 1) == pytest.approx(neighbours, abs=0.05)
    assert abs(correlation(start, 8)) < 0.05
    assert (
        np.abs(start).max() <= 14.01
        and scipy.stats.kstest(start[0, ::4, ::4].ravel(), 'uniform', (-14, 28)).pvalue > 1e-3
    )


def test_coarse_start_in_whole_blocks():
    start = PGD(eps=8, steps=1, step_size=1e-6, random_start=8, start_coarseness=4)(
        torch.nn.Upsample(scale_factor=2), GREY
    )
    blocks = (start - GREY)[0, 0].numpy()
    assert np.ptp(scipy.ndimage.generic_filter(blocks[:4, :4], np.ptp, size=1)) < 1e-6
    np.testing.assert_allclose(blocks[:4, :4], blocks[0, 0], atol=1e-6)


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_files_differ_in_their_blocks_only(path):
    def rest(options):
        shared = {key: value for key, value in options.items() if key not in ('name', 'model_type', 'attack')}
        network = {key: value for key, value in shared['network_g'].items() if key not in ('type', 'defense')}
        train = {key: value for key, value in shared['train'].items() if key not in ('train_classifier', 'pixel_opt')}
        return {**shared, 'network_g': network, 'train': train}

    options = yaml.safe_load(path.read_text())
    assert rest(options) == rest(yaml.safe_load(FILES[0].read_text()))
    assert options['name'] == path.stem
    if 'attack' in options:
        attack = parse_block(options['attack'], AttackOptions, 'attack')
        own = ('mode', 'share', 'attacked_target', 'masked', 'every', 'warmup', 'warm_start', 'first_gradient')
        build_attack({**{key: value for key, value in attack.items() if key not in own}, 'eps': 8})


def test_script_starts_in_a_fresh_process(tmp_path):
    script = Path(__file__).parents[2] / 'scripts' / 'train_baselines.py'
    command = [sys.executable, str(script), '--help']
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0, shown.stderr
    assert all(path.stem.removesuffix('_general_x4v3') in shown.stdout for path in FILES)


def test_files():
    assert len(FILES) == 7
    losses = {path.stem: yaml.safe_load(path.read_text())['train']['pixel_opt']['type'] for path in FILES}
    assert losses.pop('spectrum_general_x4v3') == 'SpectrumL1Loss' and set(losses.values()) == {'L1Loss'}


def test_unknown_target_is_refused():
    with pytest.raises(OptionsError, match='attacked_target: expected .*ground_truth.*clean_output'):
        parse_block({'type': 'PGD', 'eps': 8, 'steps': 2, 'attacked_target': 'own'}, AttackOptions, 'attack')
