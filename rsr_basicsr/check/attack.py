"""Checks of the attack in a training or a validation."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Any, cast

import torch
from basicsr.models.srgan_model import SRGANModel
from basicsr.utils.registry import ARCH_REGISTRY

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.attacks import ATTACKS, Attack, GradientAttack, build_attack
from rsr_basicsr.attacks.objectives import TrainingLoss
from rsr_basicsr.models.attack_augmentation import AttackAugmentation
from rsr_basicsr.options.attack_blocks import SCHEDULE, AttackOptions
from rsr_basicsr.options.blocks import TrainOptions
from rsr_basicsr.options.calls import registered
from rsr_basicsr.options.messages import Problems
from rsr_basicsr.options.networks import check_source
from rsr_basicsr.options.parsing import parse_block, parse_each
from rsr_basicsr.utils.errors import OptionsError


def check_attack(opt: dict[str, Any], model: type, problems: Problems) -> None:
    """Check the attack of a training, in place, and that model and network are defended ones.

    Args:
        opt: options as BasicSR's parser returns them, whose sections were checked.
        model: the class of ``model_type``.
        problems: where it is noted what is wrong.
    """
    if not issubclass(model, AttackAugmentation):
        if opt.get('attack') is not None:
            problems.append(
                f'attack: model_type {opt["model_type"]} does not attack images; write '
                f'model_type: Defended{model.__name__}'
            )
        return
    parse_each(opt['train'], (TrainOptions,), 'train', problems)
    if problems.sound('train.compile') and opt['train'].get('compile') and opt.get('num_gpu') == 0:
        _check_compiler(problems)
    if problems.sound('network_g.type'):
        _check_defended(opt, problems)
    if not problems.there('attack'):
        return
    if 'attack' not in opt:
        problems.append(f'model_type {opt["model_type"]} needs an attack block')
        problems.spoil('attack')
        return
    with problems.noted(part='attack'):
        opt['attack'] = parse_block(opt['attack'], AttackOptions, 'attack')
        built = check_buildable({key: value for key, value in opt['attack'].items() if key not in SCHEDULE}, 'attack')
        if opt['attack']['warm_start'] and not ATTACKS[opt['attack']['type']].takes_start:
            raise OptionsError(f'attack.warm_start: {opt["attack"]["type"]} has a start of its own; leave it out')
        if opt['attack']['first_gradient'] == 'clean_step':
            _check_first_gradient(opt['attack'], built)
        if opt['attack']['attacked_target'] == 'clean_output':
            _check_consistency(model, built)


def _check_compiler(problems: Problems) -> None:
    """Check that torch.compile finds a compiler for the CPU."""
    if os.environ.get('CXX') is None and not any(map(shutil.which, ('g++', 'c++', 'clang++', 'cl'))):
        problems.append('train.compile: torch.compile finds no C++ compiler; install g++, or write compile: false')


def _check_consistency(model: type, built: Attack) -> None:
    """Whether attacked samples can be compared with the network's own output."""
    where = 'attack.attacked_target: clean_output'
    if issubclass(model, SRGANModel):
        raise OptionsError(
            f"{where}: the discriminator of {model.__name__} would take the network's own outputs for real images; "
            'write ground_truth, or train with a pixel loss (DefendedSRModel, DefendedRealESRNetModel)'
        )
    if isinstance(built.objective, TrainingLoss):
        raise OptionsError(
            f'{where}: objective: training_loss attacks the loss against the ground truth, which attacked samples are '
            'then not compared with; write objective: stability'
        )


def _check_first_gradient(attack: dict[str, Any], built: Attack) -> None:
    """Whether the clean step's gradient can be the first one of an attack, which then begins at the clean image."""
    where = 'attack.first_gradient: clean_step'
    if attack['mode'] != 'alternating':
        raise OptionsError(f'{where} needs a step on the clean batch; write mode: alternating, got {attack["mode"]}')
    if attack['warm_start']:
        raise OptionsError(f'{where} is the gradient at the clean image, where warm_start does not begin; drop one')
    if built.compares_samples:
        raise OptionsError(
            f'{where}: {attack["type"]} compares samples by their losses, which the clean step does not '
            'have; take IFGSM, MIFGSM or PGD, without keep_best and restarts'
        )
    if built.seed is not None:
        raise OptionsError(f'{where} and seed exclude each other; leave one out')
    if not isinstance(built, GradientAttack) or float(built.start_radius(torch.ones(()))) != 0:
        raise OptionsError(f'{where} is the gradient at the clean image; write random_start: 0')


def _check_defended(opt: dict[str, Any], problems: Problems) -> None:
    with problems.noted(part='network_g'):
        network = registered(ARCH_REGISTRY, opt['network_g']['type'], 'network_g.type')
        if not issubclass(network, DefenseMixin):
            raise OptionsError(
                f'network_g.type: model_type {opt["model_type"]} trains defended networks; write '
                f'Defended{network.__name__}'
            )


def check_buildable(attack: dict[str, Any], where: str) -> Attack:
    """Check that an attack can be built of a block whose values have their final types, and return it for eps 1.

    Raises:
        OptionsError: it cannot, or its number of steps is missing.
    """
    if not _knows_its_steps(attack):  # each step costs about as much as the training itself
        raise OptionsError(f"{where}: the key 'steps' is missing")
    try:
        return build_attack({**attack, 'eps': 1}, _source)
    except ValueError as error:
        raise OptionsError(f'{where}: {error}') from None


def _source(block: Mapping[str, Any]) -> torch.nn.Module:
    return check_source(cast(dict[str, Any], block))


def _knows_its_steps(attack: Mapping[str, Any], given: bool = False) -> bool:
    """Whether ``steps`` is given for each attack that takes it, inner attacks included."""
    given = given or 'steps' in attack
    if attack['type'] == 'Transfer':
        return _knows_its_steps({'type': 'PGD', **attack.get('attack', {})}, given)
    if attack['type'] == 'WorstOf':
        return all(_knows_its_steps({'type': 'PGD', **inner}, given) for inner in attack.get('attacks', ()))
    return given or 'steps' not in ATTACKS[attack['type']].parameters()
