"""Every key that this package adds to a BasicSR options file. docs/options.md explains them to users."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rsr_basicsr.archs.classifier import BUILTIN
from rsr_basicsr.archs.defense import CLASSIFIERS, DECISIONS, DEFAULT_CLASSIFIER, GATES, UNTRAINED
from rsr_basicsr.archs.frequency_classifier_arch import POOL_BY
from rsr_basicsr.attacks import ATTACKS, OBJECTIVES, QUANTIZE
from rsr_basicsr.attacks.constraints import NORMS
from rsr_basicsr.attacks.gradient_base import SCHEDULES
from rsr_basicsr.attacks.problem import ATTACK_GATES, ATTACK_PRECISIONS
from rsr_basicsr.attacks.restrictions import ZERO_MEANS
from rsr_basicsr.ops.tiled import OVERLAP
from rsr_basicsr.options.types import (
    Key,
    block,
    boolean,
    distance,
    either,
    eps,
    existing_file,
    integer,
    interval,
    list_of,
    names,
    number,
    one_of,
    pair,
    parse_block,
    some_eps,
    word_or,
)

ATTACK_MODES = ('paired', 'mixed', 'alternating')
FIRST_GRADIENTS = ('own', 'clean_step')
TARGETS = ('ground_truth', 'pretrained')

#: ``network_g: defense:``
DEFENSE = {
    'mask': {
        'keep_radius': Key(interval(number(0, 1))),  # share of the diagonal
        'per_sample': Key(boolean),
    },
    'points': Key(names),
    'classifier': {
        'type': Key(one_of(tuple(CLASSIFIERS)), default=DEFAULT_CLASSIFIER),
        'weights': Key(word_or((BUILTIN, UNTRAINED), existing_file)),
        'threshold': Key(number(0, 1)),  # P(clean) below it means attacked
        'num_feat': Key(integer(1)),
        'pool_by': Key(one_of(POOL_BY)),
    },
    'gate': Key(one_of(GATES)),
    'decision': Key(one_of(DECISIONS)),
    'mask_samples': Key(integer(1)),
    'seed': Key(integer(0)),
}

#: What any attack takes, wherever its block stands; which type takes what is the business of ``build_attack``
_ANY_ATTACK = {
    'steps': Key(integer(1)),
    'step_size': Key(distance),  # 1/255
    'schedule': Key(one_of(SCHEDULES)),
    'random_start': Key(distance),  # 1/255
    'restarts': Key(integer(1)),
    'keep_best': Key(boolean),
    'norm': Key(one_of(tuple(NORMS))),
    'clamp': Key(word_or(('end',), boolean)),
    'region': Key(list_of(number(0, 1))),  # top, left, height, width: shares of the image
    'zero_mean': Key(one_of(ZERO_MEANS)),
    'gate': Key(one_of(ATTACK_GATES)),
    'eot_samples': Key(integer(1)),
    'tile': Key(integer(1)),  # pixels of the input
    'memory': Key(number(0, above=True)),  # GiB
    'overlap': Key(integer(0)),  # pixels of the input
    'precision': Key(one_of(ATTACK_PRECISIONS)),
    'seed': Key(integer(0)),
    'decay': Key(number(0)),
    'momentum': Key(number(0, 1)),
    'rho': Key(number(0, 1)),
    'band': Key(interval(number(0, 1))),  # share of the diagonal of the DCT
    'weights': Key(list_of(number(0))),  # of the detector's gradient against that of the loss
    'margin': Key(number(0)),
    'size': Key(integer(1)),  # pixels of the input
    'queries': Key(integer(2)),
    'area': Key(number(0, 1, above=True)),  # share of the image
}
#: ``target`` needs an image of the attacker's choice, ``training_loss`` the step of a training
_OBJECTIVES = tuple(name for name in OBJECTIVES if name not in ('target', 'training_loss'))


def _objective(words: Iterable[str], where: str) -> Callable[[Any], Any]:
    """What an attack maximises: one of some words, or a block with that word as ``type`` and a file as ``backbone``.

    Which type takes a backbone is the business of ``build_attack``.

    Args:
        words: what is allowed.
        where: the block that the key ``objective`` stands in.
    """

    def parse(value):
        if not isinstance(value, Mapping):
            return one_of(words)(value)
        schema = {'type': Key(one_of(words), required=True), 'backbone': Key(existing_file)}
        parsed = parse_block(value, schema, f'{where}.objective')
        return parsed if len(parsed) > 1 else parsed['type']

    return parse


def _attack_block(value):
    where = 'an attack inside the attack'
    return parse_block(
        value,
        {
            'type': Key(one_of(tuple(ATTACKS))),  # eps is that of the training
            'objective': Key(_objective(_OBJECTIVES, where)),
            'quantize': Key(one_of(QUANTIZE)),
            **_ANY_ATTACK,
            **_OTHERS,
        },
        where,
    )


#: What attacks are made of that consist of others
_OTHERS = {
    'source': Key(block),  # as network_g, and weights
    'attack': Key(_attack_block),
    'attacks': Key(list_of(_attack_block)),
}

#: ``attack:`` at the top level
ATTACK = {
    'type': Key(one_of(tuple(ATTACKS)), required=True),
    'eps': Key(either(eps, interval(eps)), required=True),  # 1/255; [low, high] is drawn from for each sample
    'objective': Key(_objective((*_OBJECTIVES, 'training_loss'), 'attack'), default='ground_truth_l1'),
    # The classifier must not learn to tell 8-bit images from others.
    'quantize': Key(one_of(QUANTIZE), default='nearest'),
    **_ANY_ATTACK,
    **_OTHERS,
    'mode': Key(one_of(ATTACK_MODES), default='paired'),
    'share': Key(number(0, 1, above=True), default=0.5),  # of the batch, in mode mixed
    'masked': Key(number(0, 1), default=1.0),  # share of the attacked samples that pass through the masks
    'every': Key(integer(1), default=1),  # iterations
    'warmup': Key(integer(0), default=0),  # iterations
    'warm_start': Key(boolean, default=False),
    'first_gradient': Key(one_of(FIRST_GRADIENTS), default='own'),  # of mode alternating
}


def adversarial_attack(value):
    """One attack of ``rsr adversarial-set``."""
    where = 'an attack of the set'
    return parse_block(
        value,
        {
            'type': Key(one_of(tuple(name for name in ATTACKS if name not in ('Transfer', 'WorstOf'))), required=True),
            'share': Key(number(0, above=True)),
            'eps': Key(either(some_eps, interval(some_eps))),
            'objective': Key(_objective(('stability', 'perceptual'), where)),  # there is no ground truth
            **_ANY_ATTACK,
        },
        where,
    )


#: Of ``train:``, beside the blocks below
TRAIN = {
    'train_classifier': Key(boolean),
    'target': Key(one_of(TARGETS), default='ground_truth'),
}

#: ``val: attack:``
VAL_ATTACK = {
    'type': Key(one_of(tuple(ATTACKS)), required=True),
    'eps': Key(eps, required=True),  # 1/255
    'objective': Key(_objective(_OBJECTIVES, 'val.attack'), default='stability'),
    'quantize': Key(one_of(QUANTIZE), default='nearest'),
    **_ANY_ATTACK,
    **_OTHERS,
}

#: Of ``val:``
VAL = {
    'tile': Key(integer(1)),  # pixels of the input
    'tile_overlap': Key(integer(0), default=OVERLAP),
    'attack': Key(lambda value: parse_block(value, VAL_ATTACK, 'val.attack')),
    'panel_freq': Key(integer(1)),  # iterations
    'guard': Key(number(0)),  # dB
}

#: ``train: optim_classifier:``
OPTIM_CLASSIFIER = {
    'type': Key(one_of(('Adam',)), default='Adam'),
    'lr': Key(number(0), default=1e-3),
    'weight_decay': Key(number(0)),
    'betas': Key(pair(number(0, 0.999999))),
}

#: ``train: classifier_opt:``
CLASSIFIER_OPT = {
    'type': Key(one_of(('ClassifierLoss',)), default='ClassifierLoss'),
    'loss_weight': Key(number(0)),
    'label_smoothing': Key(number(0, 1)),
}

#: Of ``train:`` of FrequencyClassifierModel
CLASSIFIER_TRAIN = {
    'clip_gradient': Key(number(0, above=True)),
    'calibration': Key(
        lambda value: parse_block(
            value,
            {
                'datasets': Key(list_of(block), required=True),  # of pairs, and of more clean images
                'false_alarms': Key(number(0, 1), default=0.005),
            },
            'train.calibration',
        )
    ),
}
