"""Results at equal sharpness, from records with known numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from benchmark_plane import known_records, plane_results, records_of
from benchmark_records import interval
from rsr_basicsr.benchmark.plane import NO_BLEND, NOT_REACHED, Plane
from rsr_basicsr.benchmark.summary import Subject


def plane_of(records, **plane):
    return Plane.of(plane_results(records, **plane))


def test_level_result_is_numpys_interpolation():
    found = plane_of(known_records())
    curve = found.curve('Set6', 'old')
    assert [point.alpha for point in curve] == [0, 0.25, 0.5, 1]
    for level in np.linspace(0.36, 0.59, 12):
        result = found.at_level('Set6', 'old', 8, level)
        clean = [point.clean for point in curve][::-1]
        for metric, values in (('lpips', [0.50, 0.52, 0.55, 0.61]), ('stability', [15, 20, 26, 30])):
            assert result.estimate(metric).mean == pytest.approx(np.interp(level, clean, values))
        assert result.alpha == pytest.approx(np.interp(level, clean, [1, 0.5, 0.25, 0]))


def test_level_result_of_two_points_by_hand():
    records = known_records()
    found = plane_of(records)
    assert found.level('Set6') == pytest.approx(0.35)
    result = found.at_level('Set6', 'new', 8)  # half way between 0.40 and 0.30
    own = {
        defense: [r.values['lpips'][0] for r in records if (r.network, r.defense, r.attack, r.eps) == where]
        for defense in ('none', 'blend 0.8')
        for where in [('new', defense, 'strong', 8)]
    }
    by_hand = [(a + b) / 2 for a, b in zip(own['none'], own['blend 0.8'])]
    assert list(result.values['lpips'].values()) == pytest.approx(by_hand)
    estimate = result.estimate('lpips')
    assert (estimate.mean, estimate.count) == (pytest.approx(0.42), 6)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(interval(by_hand)))
    assert result.alpha == pytest.approx(0.9) and result.problem == ''
    assert found.at_level('Set6', 'new', 2).estimate('stability').mean == pytest.approx((18 + 24) / 2 + 12)
    assert found.at_level('Set6', 'new', 0).estimate('lpips').mean == pytest.approx(0.35)


def test_difference_is_paired():
    found = plane_of(known_records())
    mine, other = (found.at_level('Set6', network, 8) for network in ('new', 'old'))
    difference = mine.difference('lpips', other.values['lpips'])
    pairs = [mine.values['lpips'][image] - other.values['lpips'][image] for image in sorted(mine.values['lpips'])]
    assert difference.mean == pytest.approx(0.42 - 0.50)
    assert (difference.low, difference.high) == pytest.approx(tuple(interval(pairs)))


def test_reference_is_taken_as_it_is():
    oversharp = records_of('old', 'blend 0.9', 0.34, 0.1, 40)  # a blend that is sharper still
    result = plane_of([*known_records(), *oversharp]).at_level('Set6', 'old', 8)
    assert (result.alpha, result.estimate('lpips').mean) == (1, pytest.approx(0.50))


@pytest.mark.parametrize(
    'clean, alpha, problem',
    [
        ((0.36, 0.40), None, NOT_REACHED),
        ((0.3534, 0.40), 1, ''),  # within 1 %
        ((0.3536, 0.40), None, NOT_REACHED),
        ((0.30, 0.3466), 0.5, ''),
        ((0.30, 0.34), None, NO_BLEND),
        ((0.30, 0.36), 0.5 + 0.5 * (0.36 - 0.35) / 0.06, ''),
        ((0.36, 0.30), None, NO_BLEND),  # beyond the minimum: sharper already at the smaller alpha
    ],
)
def test_reaching_the_level(clean, alpha, problem):
    own, blend = clean
    records = [
        *records_of('old', 'none', 0.35, 0.5, 15),
        *records_of('other', 'none', own, 0.5, 15),
        *records_of('other', 'blend 0.5', blend, 0.5, 15),
    ]
    result = plane_of(records).at_level('Set6', 'other', 8)
    assert (result.alpha, result.problem) == (alpha if alpha is None else pytest.approx(alpha), problem)
    assert (result.estimate('lpips') is None) == (alpha is None)


def test_bicubic_upscaling_ends_every_curve():
    records = [
        *records_of('old', 'none', 0.35, 0.5, 15),
        *records_of('other', 'none', 0.30, 0.4, 15),
        *records_of('cubic', 'none', 0.60, 0.6, 30, type='Interpolation'),
    ]
    result = plane_of(records).at_level('Set6', 'other', 8)
    assert result.alpha == pytest.approx(np.interp(0.35, [0.3, 0.6], [1, 0]))
    assert result.estimate('stability').mean == pytest.approx(np.interp(0.35, [0.3, 0.6], [15, 30]))
    other = plane_results(records)
    other.options['networks']['cubic']['mode'] = 'nearest'
    assert Plane.of(other).at_level('Set6', 'other', 8).problem == NO_BLEND


def test_unfinished_blend_is_left_out():
    started = records_of('new', 'blend 0.85', 0.36, 0.9, 5, images=2)
    result = plane_of([*known_records(), *started]).at_level('Set6', 'new', 8)
    assert (result.alpha, result.estimate('lpips').count) == (pytest.approx(0.9), 6)


def test_failed_image_is_missing_at_every_point():
    records = known_records()
    broken = [
        dataclasses.replace(r, error='x', values={})
        if (r.network, r.defense, r.image) == ('new', 'none', 'image 3')
        else r
        for r in records
    ]
    found = plane_of(broken)
    values = found.at_level('Set6', 'new', 8).values['lpips']
    assert len(values) == 5 and 'image 3' not in values
    clean = [found.values('Set6', Subject('new', 'blend 0.8'), 0, 'lpips')[image] for image in values]
    assert next(p.clean for p in found.curve('Set6', 'new') if p.alpha == 0.8) == pytest.approx(np.mean(clean))


def test_subject_is_compared_with_blends_as_sharp():
    found = plane_of(known_records())
    assert {subject.label for subject in found.points('Set6')} == {'old + jpeg', 'new', 'bad', 'blurry'}
    blend = found.against_blends('Set6', Subject('old', 'jpeg'), 8)
    assert blend.level == pytest.approx(0.46)
    assert blend.estimate('lpips').mean == pytest.approx(np.interp(0.46, [0.42, 0.50], [0.52, 0.55]))


def test_data_sets_have_levels_of_their_own():
    second = [
        *records_of('old', 'none', 0.20, 0.5, 15, dataset='other'),
        *records_of('new', 'none', 0.10, 0.5, 15, dataset='other'),
        *records_of('new', 'blend 0.8', 0.30, 0.5, 15, dataset='other'),
    ]
    blind = [
        dataclasses.replace(r, values={k: v for k, v in r.values.items() if k != 'lpips'})
        for r in records_of('old', 'none', 0.20, 0.5, 15, dataset='blind')
    ]
    found = plane_of([*known_records(), *second, *blind])
    assert found.datasets == ['Set6', 'other']
    assert (found.level('Set6'), found.level('other')) == (pytest.approx(0.35), pytest.approx(0.20))
    assert found.at_level('other', 'new', 8).alpha == pytest.approx(0.9)


def test_measure_that_prefers_blur_tells_no_sharpness():
    assert plane_of(known_records()).tells_sharpness('Set6')
    assert not plane_of(known_records(), bicubic=0.34).tells_sharpness('Set6')
    blind = [
        *records_of('old', 'none', 0.35, 0.5, 15),
        *records_of('cubic', 'none', 0.3, 0.5, 30, type='Interpolation'),
    ]
    assert not plane_of(blind).tells_sharpness('Set6')


def test_no_plane_without_its_block():
    results = plane_results(known_records())
    del results.options['plane']
    assert Plane.of(results) is None
