"""Options that are in order: what passes, what is coerced, and which objects come of it."""

import copy

import pytest

from rsr_basicsr.check import check_options
from rsr_basicsr.options.blocks import typed_options
from rsr_basicsr.utils.errors import OptionsError


def test_training_on_pairs_needs_no_pool(opt):
    opt['queue_size'] = 5
    with pytest.raises(OptionsError, match='queue_size: 5 is not a multiple'):
        check_options(opt)
    opt['high_order_degradation'] = False
    del opt['resize_prob']
    check_options(opt)


def test_good_options_pass_and_numbers_are_coerced(opt):
    opt['attack'].update(eps=['2', '8'], steps='3', step_size='1e-0')
    check_options(opt)
    assert opt['attack']['eps'] == [2.0, 8.0] and opt['attack']['steps'] == 3 and opt['attack']['step_size'] == 1.0
    assert opt['train']['classifier_opt'] == {'type': 'ClassifierLoss'}


def test_checked_options_are_there_as_objects(opt):
    opt['attack'].update(eps=['2', '8'], steps='3', objective={'type': 'stability'})
    opt['val'].update(attack={'type': 'PGD', 'eps': '4', 'steps': 1}, panel_freq=None)
    del opt['train']['classifier_opt']
    check_options(opt)
    before = copy.deepcopy(opt)
    options = typed_options(opt)
    assert opt == before
    assert options.attack.eps == [2.0, 8.0] and options.attack.steps == 3 and options.attack.every == 1
    assert options.attack.objective == 'stability' and options.attack.restarts is None
    assert options.train.target == 'ground_truth' and options.train.classifier_opt.type == 'ClassifierLoss'
    assert options.val.attack.eps == 4.0 and options.val.panel_freq is None and options.val.tile_overlap == 16
    assert options.network_g.defense.mask.keep_radius == opt['network_g']['defense']['mask']['keep_radius']
    assert options.attack.plain() == opt['attack']


def test_attack_is_built_without_its_schedule(opt):
    opt['attack'] = {'type': 'PGD', 'eps': [2, 8], 'steps': 3, 'mode': 'mixed', 'share': 0.25, 'warm_start': True}
    check_options(opt)
    attack = typed_options(opt).attack
    assert attack.arguments == dict(type='PGD', eps=8, steps=3, objective='ground_truth_l1', quantize='nearest')
    assert attack.eps_range == (2, 8) and (attack.mode, attack.share, attack.masked) == ('mixed', 0.25, 1)


def test_keys_of_other_models_do_not_stop_a_training(opt):
    check_options(opt)
    opt['train']['calibration'] = 'of the classifier'
    assert typed_options(opt).train.target == 'ground_truth'


def test_a_plain_file_needs_two_blocks_and_two_names_only(opt):
    del opt['train']['optim_classifier'], opt['train']['classifier_opt']
    opt['network_g'] = {k: v for k, v in opt['network_g'].items() if k != 'defense'}
    check_options(opt)
    assert opt['train']['optim_classifier'] == {'type': 'Adam', 'lr': 1e-3}


def test_tiles_that_fit_pass_and_an_empty_overlap_is_the_default(opt):
    opt['network_g'] = dict(
        type='DefendedSwinIR',
        img_size=12,
        window_size=4,
        depths=[1],
        embed_dim=8,
        num_heads=[1],
        upscale=4,
        upsampler='pixelshuffle',
    )
    opt['val'] = {'val_freq': 2, 'save_img': False, 'tile': 8, 'tile_overlap': None, 1: 2}
    check_options(opt)
    assert opt['val']['tile_overlap'] == 16
