"""The block ``attack``: every kind of attack, and what is refused in it."""

import copy

import pytest
from attack_blocks import ATTACK_BLOCKS, set_attack

from rsr_basicsr.check import check_options
from rsr_basicsr.utils.errors import OptionsError


def test_small_steps_are_not_taken_for_fractions(opt):
    opt['attack'].update(eps=2, steps=10, step_size=0.2, random_start=0.1)
    check_options(opt)
    assert opt['attack']['step_size'] == 0.2


@pytest.mark.parametrize('attack', ATTACK_BLOCKS, ids=str)
def test_every_attack_can_be_asked_for(opt, attack, real_weights):
    set_attack(opt, real_weights, **copy.deepcopy(attack))
    check_options(opt)
    assert opt['attack']['quantize'] == 'nearest'


def test_values_of_a_source_are_coerced(opt, real_weights, monkeypatch):
    monkeypatch.setenv('HOME', str(real_weights.parent))
    set_attack(
        opt,
        f'~/{real_weights.name}',
        type='Transfer',
        steps=2,
        source={'type': 'DefendedSRVGGNetCompact', 'defense': {'mask_samples': '2'}},
    )
    check_options(opt)
    source = opt['attack']['source']
    assert source['defense']['mask_samples'] == 2 and source['weights'] == str(real_weights)


@pytest.mark.parametrize(
    'attack, message',
    [
        (dict(type='WorstOf', steps=2, decay=1, attacks=[{'type': 'PGD'}]), "WorstOf: no attack inside has 'decay'"),
        (dict(type='WorstOf', attacks=[{'type': 'PGD', 'eps': 2}]), "attack.attacks, number 1: unknown key 'eps'"),
        (dict(type='FGSM', steps=2), "attack: FGSM has no argument 'steps'"),
        (dict(type='APGD'), "attack: the key 'steps' is missing"),
        (dict(type='Transfer', attack={'type': 'MIFGSM'}), "attack: the key 'steps' is missing"),
        (dict(type='WorstOf', attacks=[{'type': 'FGSM'}, {'restarts': 2}]), "attack: the key 'steps' is missing"),
        (dict(type='PGD', steps=2, objective='target'), 'attack.objective: expected one of'),
        (dict(type='PGD', steps=2, decay=1), "attack: PGD has no argument 'decay'"),
        (dict(type='BandLimited', steps=2, band=[0.5, 0.2]), 'attack.band: expected [low, high] with low <= high'),
        (dict(type='WorstOf', attacks=[]), 'attack.attacks: expected a list in brackets, got []'),
        (
            dict(type='WorstOf', attacks=[{'type': 'PGD', 'stepz': 2}]),
            "attack.attacks, number 1: unknown key 'stepz'; did you mean 'steps'?",
        ),
        (dict(type='Transfer', steps=2, source={'weights': 'gone.pth'}), 'attack.source.weights: no such file, got'),
        (dict(type='Transfer', steps=2, source={'num_conv': 4}), 'attack.source.weights: '),
        (
            dict(type='Transfer', steps=2, source={'type': 'RRDBNett'}),
            "attack.source.type: 'RRDBNett' is not registered",
        ),
        (dict(type='Transfer', steps=2, source={'num_convs': 16}), "attack.source: unknown key 'num_convs'"),
    ],
    ids=str,
)
def test_wrong_attacks_are_named(opt, attack, message, real_weights):
    set_attack(opt, real_weights, **copy.deepcopy(attack))
    with pytest.raises(OptionsError) as error:
        check_options(opt)
    assert message in str(error.value) and '\n' not in str(error.value)


def test_eps_as_a_fraction_is_caught(opt):
    opt['attack']['eps'] = 0.031
    with pytest.raises(OptionsError, match=r'did you mean 7\.9'):
        check_options(opt)


@pytest.mark.parametrize(
    'attack',
    [
        {'type': 'DetectorAware', 'steps': 2},
        {'type': 'WorstOf', 'attacks': [{'type': 'PGD', 'steps': 2}, {'type': 'DetectorAware', 'steps': 2}]},
    ],
)
def test_a_detector_without_a_gradient_is_not_to_be_evaded(opt, attack):
    opt['network_g']['defense'] = {'classifier': {'type': 'paper_rrdb'}, 'decision': 'majority', 'seed': 0}
    check_options(copy.deepcopy(opt))
    for where in ('attack', 'val.attack'):
        wrong = copy.deepcopy(opt)
        if where == 'attack':
            wrong['attack'] = {'eps': 8, **attack}
        else:
            wrong['val']['attack'] = {'eps': 8, **attack}
        with pytest.raises(OptionsError, match=f'^{where}: DetectorAware: the detector of .*, a RRDBFreq.*, has no '):
            check_options(wrong)
        wrong['network_g']['defense'] = {'classifier': {'type': 'paper', 'weights': 'untrained'}}
        check_options(wrong)


def test_warm_start_is_for_attacks_that_have_a_start(opt):
    opt['attack'] = {'type': 'Square', 'eps': 8, 'queries': 3, 'warm_start': True}
    with pytest.raises(OptionsError, match='attack.warm_start: Square has a start of its own'):
        check_options(opt)


CONSISTENT = {'type': 'PGD', 'eps': 8, 'steps': 2, 'attacked_target': 'clean_output'}


def test_consistency_passes_with_a_pixel_loss(opt):
    opt['attack'] = {**CONSISTENT, 'objective': 'stability'}
    check_options(opt)


def test_no_consistency_before_a_discriminator(opt):
    opt['attack'] = {**CONSISTENT, 'objective': 'stability'}
    opt['model_type'] = 'DefendedESRGANModel'
    with pytest.raises(OptionsError, match='clean_output: the discriminator of DefendedESRGANModel .* write ground_'):
        check_options(opt)


def test_no_consistency_under_the_training_loss(opt):
    opt['attack'] = {**CONSISTENT, 'objective': 'training_loss'}
    with pytest.raises(OptionsError, match='^attack.attacked_target: clean_output: .* write objective: stability$'):
        check_options(opt)
