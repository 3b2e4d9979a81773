"""The block plane: of a benchmark, and what is wrong with it."""

from __future__ import annotations

import pytest

from benchmark_plane import LOST_EDGES
from rsr_basicsr.benchmark.options import check_benchmark
from rsr_basicsr.utils.errors import OptionsError


@pytest.fixture
def plane(options):
    options['metrics'] = {'edges': dict(LOST_EDGES), 'psnr': {'type': 'calculate_psnr', 'crop_border': 4}}
    options['plane'] = {'measure': 'edges'}
    return options


def test_defaults_are_filled_in(plane):
    plane['plane']['alphas'] = [0.25, 0.5]
    assert check_benchmark(plane)[0]['plane'] == {
        'measure': 'edges',
        'reference': 'plain',  # the first that is no interpolation
        'match': True,
        'alphas': {'plain': [0.25, 0.5]},
        'dataset': 'photos',
    }
    del plane['plane']
    assert 'plane' not in check_benchmark(plane)[0]


@pytest.mark.parametrize(
    'block, message',
    [
        ({}, r'there is no metric of type calculate_perceptual or calculate_lpips; add one'),
        ({'measure': 'edgs'}, r"plane.measure: 'edgs' is not one of the metrics; did you mean 'edges'"),
        ({'measure': 'psnr'}, r'plane.measure: of psnr higher values are better; name a distance'),
        ({'measure': 'stability'}, r'plane.measure: stability does not compare the output with the original'),
        ({'measure': 'edges', 'reference': 'plan'}, r"plane.reference: 'plan' is not one of .* did you mean 'plain'"),
        (
            {'measure': 'edges', 'reference': 'hard'},
            r'hard is measured behind defences only; add none to networks.hard',
        ),
        (
            {'measure': 'edges', 'alphas': [-0.1]},
            r'plane.alphas: expected a number of at least 0 and at most 10, got -0',
        ),
        ({'measure': 'edges', 'alphas': 0.5}, r'plane.alphas: expected a list in brackets, got 0.5'),
        (
            {'measure': 'edges', 'alphas': {'plain': [11]}},
            r'plane.alphas.plain: expected a number .* at most 10, got 11',
        ),
        (
            {'measure': 'edges', 'alphas': {'plin': [1.2]}},
            r"plane.alphas: 'plin' is not one of .* did you mean 'plain'",
        ),
        ({'measure': 'edges', 'alpha': [0.5]}, r"plane: unknown key 'alpha'; did you mean 'alphas'"),
        ({'measure': 'edges', 'match': 'yes'}, r"plane.match: expected true or false, got 'yes'"),
        ({'measure': 'edges', 'alphas': [0.5]}, r'defenses.blend 0.5: plane gives this name to .*another name'),
        (3, r'plane: 3 is not a block of keys; it takes measure, reference, match, alphas'),
    ],
    ids=str,
)
def test_wrong_block_is_one_sentence(plane, block, message):
    plane['plane'] = block
    plane['networks']['hard'] = {**plane['networks']['plain'], 'defenses': ['bits']}
    if isinstance(block, dict) and block.get('alphas') == [0.5]:
        plane['defenses']['blend 0.5'] = {'type': 'JPEG'}
    with pytest.raises(OptionsError, match=message) as error:
        check_benchmark(plane)
    assert '\n' not in str(error.value)


def test_some_data_set_needs_a_ground_truth(plane, pairs):
    blind = {'type': 'SingleImageDataset', 'dataroot_lq': str(pairs / 'lq'), 'num_images': 1}
    plane['datasets'] = {'blind': blind, **plane['datasets']}
    assert check_benchmark(plane)[0]['plane']['dataset'] == 'photos'
    plane['datasets'] = {'blind': blind}
    with pytest.raises(OptionsError, match='plane: no data set has a ground truth'):
        check_benchmark(plane)


def test_blend_of_the_user_may_have_the_same_name(plane):
    plane['plane']['alphas'] = [0.5]
    plane['defenses']['blend 0.5'] = {'type': 'Blend', 'alpha': 0.5}
    assert check_benchmark(plane)[0]['plane']['alphas'] == {'plain': [0.5]}
