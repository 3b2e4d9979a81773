"""Detector metrics against closed forms and scipy's distributions."""

import numpy as np
import pytest
import scipy.stats

from rsr_basicsr.metrics.detection import ScoredImage, best_temperature, error_table, rates, roc_auc, roc_curve


@pytest.fixture
def normal():
    rng = np.random.default_rng(0)
    return rng.normal(-1, 2, 4000), rng.normal(1, 2, 3000)


def test_auc_of_two_normal_distributions(normal):
    assert roc_auc(*normal) == pytest.approx(scipy.stats.norm.cdf(2 / np.hypot(2, 2)), abs=0.02)
    assert roc_auc([0, 1], [1, 2]) == pytest.approx((1 + 1 + 0.5 + 1) / 4)  # a tie counts half


def test_area_under_the_curve_is_the_auc(normal):
    alarms, found = roc_curve(*normal)
    assert (alarms[0], found[0], alarms[-1], found[-1]) == (0, 0, 1, 1)
    assert (np.diff(alarms) >= 0).all() and (np.diff(found) >= 0).all()
    area = ((alarms[1:] - alarms[:-1]) * (found[1:] + found[:-1]) / 2).sum()
    assert area == pytest.approx(roc_auc(*normal), abs=1e-9)
    at_zero = np.interp(np.mean(normal[0] > 0), alarms, found)
    assert at_zero == pytest.approx(np.mean(normal[1] > 0), abs=1e-9)


def test_temperature_turns_scores_into_log_odds(normal):
    # The log odds of N(1, 2^2) against N(-1, 2^2) at x are x / 2.
    assert best_temperature(*normal) == pytest.approx(2, rel=0.1)
    assert best_temperature(*(0.2 * scores for scores in normal)) == pytest.approx(0.4, rel=0.1)


def test_temperature_of_separable_scores_is_finite():
    # With one image in n + 2 taken to be mislabelled, log(n + 1) is as certain as it gets (Platt 1999).
    for n in (10, 1000):
        factor = best_temperature(np.full(n, -50.0), np.full(n, 50.0))
        assert 50 / factor == pytest.approx(np.log(n + 1), rel=0.01)


def test_rates_and_their_table():
    clean = [
        ScoredImage(score, score > 0, False, {'source': source})
        for score, source in ((-2, 'a'), (-1, 'a'), (1, 'b'), (-3, 'b'))
    ]
    attacked = [
        ScoredImage(score, score > 0, True, {'eps': eps, 'network': 'n', 'attack': 'PGD', 'source': 'a'})
        for score, eps in ((2, 8), (-0.5, 1.1), (3, 7.5))
    ]
    found = rates(clean + attacked)
    assert found == pytest.approx(
        {'auc': 11 / 12, 'false_alarms': 1 / 4, 'misses': 1 / 3, 'accuracy': 1 - (1 / 4 + 1 / 3) / 2}
    )
    rows = {(row.group, row.name): row for row in error_table(clean + attacked)}
    assert rows['source', 'b'].error == 0.5 and rows['source', 'a'].error == 0
    assert rows['eps', '8'].error == 0 and rows['eps', '8'].images == 2 and rows['eps', '1'].error == 1
    assert rates(clean) == {'false_alarms': 0.25} and 'misses' in rates(attacked)
