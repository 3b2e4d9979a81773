"""The keys of blocks that describe an attack: of a training, a validation, a benchmark and an adversarial set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Tag, model_validator

from rsr_basicsr.attacks import ATTACKS, OBJECTIVES, QUANTIZE
from rsr_basicsr.attacks.blackbox import NOISES
from rsr_basicsr.attacks.constraints import NORMS
from rsr_basicsr.attacks.gradient_base import SCHEDULES
from rsr_basicsr.attacks.objectives import DEFAULT_MEASURE, PERCEPTUAL_TO
from rsr_basicsr.attacks.problem import ATTACK_GATES, ATTACK_PRECISIONS
from rsr_basicsr.attacks.restrictions import ZERO_MEANS
from rsr_basicsr.ops.perceptual import AUTO, MEASURES, available_measure
from rsr_basicsr.options.parsing import Block, key
from rsr_basicsr.options.types import (
    BLOCK,
    ONE,
    Count,
    Distance,
    Eps,
    EpsRange,
    ExistingFile,
    Flag,
    Keys,
    Listed,
    Natural,
    NonNegative,
    OneOf,
    OrWord,
    Positive,
    PositiveEpsRange,
    PositiveShare,
    Range,
    Share,
    ShareRange,
)
from rsr_basicsr.utils.errors import WeightsError

ATTACK_MODES = ('paired', 'mixed', 'alternating')
FIRST_GRADIENTS = ('own', 'clean_step')
ATTACKED_TARGETS = ('ground_truth', 'clean_output')
LEVELS, PIXELS, DIAGONAL = '1/255', 'pixels of the input', 'share of the diagonal'

#: ``target`` needs an image of the attacker's choice, ``training_loss`` the step of a training
_OBJECTIVES = tuple(name for name in OBJECTIVES if name not in ('target', 'training_loss'))
_OBJECTIVE = (
    "what is maximised: absolute or squared error to the ground truth, squared error or LPIPS to the network's own "
    'clean output. A block `{type: perceptual, measure: NAME, to: ground_truth, backbone: FILE}` takes another measure '
    '(of `calculate_perceptual`, see benchmark.md), the distance to the ground truth, and the weights of the network '
    'of LPIPS, which are downloaded otherwise'
)
_QUANTIZE = (
    'round attacked images to 8 bit, still inside the ball; `floor`, as the published code does, darkens them by '
    'about 0.4 of a level'
)
_TYPE = 'the attack; a class of `rsr_basicsr.attacks`'


class ObjectiveOptions(Block):
    """An objective with arguments; which type takes which is checked when the attack is built."""

    type: Annotated[str, OneOf(_OBJECTIVES)] = key('what is maximised', ...)
    measure: Annotated[str, OneOf((*MEASURES, AUTO))] | None = key(
        "`perceptual`: the distance; `auto` is this machine's best", by_default=f'`{DEFAULT_MEASURE}`'
    )
    backbone: ExistingFile | None = key('`perceptual`: weights of the network of LPIPS', values='file')
    to: Annotated[str, OneOf(PERCEPTUAL_TO)] | None = key(
        '`perceptual`: what the output is compared with', by_default=f'`{PERCEPTUAL_TO[0]}`'
    )

    @model_validator(mode='after')
    def _measure_of_this_machine(self) -> ObjectiveOptions:
        """Results say what was measured, wherever they are read."""
        if self.type == 'perceptual' and self.measure == AUTO:
            try:
                self.measure = available_measure(self.backbone)
            except WeightsError as error:
                raise ValueError(str(error)) from error
        return self

    def plain(self) -> Any:
        """The block, or its type alone where there is nothing else."""
        block = super().plain()
        return self.type if len(block) == 1 else block


class TrainingObjectiveOptions(ObjectiveOptions):
    """An objective of ``attack:``."""

    type: Annotated[str, OneOf((*_OBJECTIVES, 'training_loss'))] = key('what is maximised', ...)


class BlindObjectiveOptions(ObjectiveOptions):
    """An objective without a ground truth."""

    type: Annotated[str, OneOf(('stability', 'perceptual'))] = key('what is maximised', ...)
    to: Annotated[str, OneOf(('clean_output',))] | None = key(
        '`perceptual`: there is no ground truth', by_default='`clean_output`'
    )


_word_or_block = Discriminator(lambda value: BLOCK if isinstance(value, (Mapping, Block)) else ONE)
_Objective = Annotated[
    Annotated[str, OneOf(_OBJECTIVES), Tag(ONE)] | Annotated[ObjectiveOptions, Tag(BLOCK)], _word_or_block
]
_TrainingObjective = Annotated[
    Annotated[str, OneOf((*_OBJECTIVES, 'training_loss')), Tag(ONE)] | Annotated[TrainingObjectiveOptions, Tag(BLOCK)],
    _word_or_block,
]
_BlindObjective = Annotated[
    Annotated[str, OneOf(('stability', 'perceptual')), Tag(ONE)] | Annotated[BlindObjectiveOptions, Tag(BLOCK)],
    _word_or_block,
]


class AnyAttackOptions(Block):
    """What any attack takes, wherever its block stands; which type takes which key is checked when it is built."""

    type: Annotated[str, OneOf(ATTACKS.keys())] | None = key(_TYPE)
    norm: Annotated[str, OneOf(tuple(NORMS))] | None = key(
        'the ball; of `L2` eps is the root mean square', by_default='`Linf`'
    )
    steps: Count | None = key('gradient steps; each costs a forward pass and a backward pass to the input')
    step_size: Distance | None = key(
        'length of the first step; where it is given, all steps are as long, unless `schedule` says otherwise',
        unit=LEVELS,
        by_default='`IFGSM`: eps / steps; `PGD`: 2 eps, falling',
    )
    schedule: Annotated[str, OneOf(SCHEDULES)] | None = key(
        '`PGD`, `BandLimited`, `DetectorAware`, `Universal`: steps fall linearly to 0, by default from 2 eps, or are '
        'all as long, by default 2.5 eps / steps. `APGD`: beside its halvings steps fall linearly, or not, as '
        'published',
        by_default='`linear`; `constant` where `step_size` is given',
    )
    random_start: Distance | None = key(
        'radius of the random start',
        unit=LEVELS,
        by_default='`IFGSM`: none, or half a step for `stability`; `PGD`, `APGD`: eps / 4, with `schedule: constant` '
        'eps / 20',
    )
    start_coarseness: Annotated[float, Range(ge=1)] | None = key(
        'side of the blocks over which the random start is constant: a perturbation correlated in space, as in '
        'Castillo et al. 2021, who take 1.5',
        unit=PIXELS,
        by_default='1',
    )
    restarts: Count | None = key('independent starts; the best of each sample is kept', by_default='1')
    keep_best: Flag | None = key(
        'return the strongest image met instead of the last one, for one more pass', by_default='false'
    )
    clamp: Annotated[bool | str, OrWord(('end',), Flag)] | None = key(
        "keep attacked images inside [0, 1]; `end`, as in the published code's evaluation, only when the attack is "
        'over; false, as in its training, needs `quantize: none`',
        values='true, false, `end`',
        by_default='true',
    )
    region: Annotated[list[Share], Listed()] | None = key(
        'attack a part of the image only; outside, attacked and clean image are equal bit by bit',
        values='[top, left, height, width], shares of the image',
        by_default='all of it',
    )
    zero_mean: Annotated[str, OneOf(ZERO_MEANS)] | None = key(
        'each channel of the perturbation, or all of it, has mean zero: no shift of colour or brightness',
        by_default='none',
    )
    gate: Annotated[str, OneOf(ATTACK_GATES)] | None = key(
        'how the attack sees the gate; without it, attacked images are made through the masks'
    )
    eot_samples: Count | None = key('passes over which gradients are averaged', by_default='1')
    tile: Count | None = key("tiles of the attack's passes", unit=PIXELS, by_default='none')
    overlap: Natural | None = key('what the network sees around each tile', unit=PIXELS, by_default='16')
    memory: Positive | None = key('the memory that chooses the tiles', unit='GiB', by_default='none')
    precision: Annotated[str, OneOf(ATTACK_PRECISIONS)] | None = key(
        "of the attack's passes", by_default='`fp32`; in training that of `train: precision`'
    )
    cuda_graph: Flag | None = key(
        "on a GPU, record the network's passes and repeat them as a CUDA graph: saves launches, and keeps the memory "
        'of a pass. With `masked` 0 or 1, or a forced gate; without `tile` and `memory`',
        by_default='false',
    )
    seed: Natural | None = key('repeatable attacks, image by image', by_default='none')
    decay: NonNegative | None = key('`MIFGSM`: of the momentum', by_default='1')
    momentum: Share | None = key('`APGD`: weight of the new step against the last one', by_default='0.75')
    rho: Share | None = key('`APGD`: share of the steps that must gain for the step size to stay', by_default='0.75')
    band: ShareRange | None = key('`BandLimited`: frequencies of the DCT', unit=DIAGONAL, by_default='[0, 0.43]')
    distribution: Annotated[str, OneOf(NOISES)] | None = key(
        '`RandomNoise`: of each value. `gaussian` has eps as its standard deviation and needs `norm: L2`',
        by_default='`Linf`: `sign`; `L2`: `uniform`',
    )
    weights: Annotated[list[NonNegative], Listed()] | None = key(
        "`DetectorAware`: weights of the detector's gradient against that of the loss",
        values='list of numbers',
        by_default='[0, 0.1, 0.3, 1, 3, 10]',
    )
    margin: NonNegative | None = key(
        "`DetectorAware`: how far past the detector's threshold the attack follows its gradient",
        unit='of the logit',
        by_default='0.5',
    )
    size: Count | None = key('`Universal`: of the pattern', unit=PIXELS, by_default='64')
    queries: Annotated[int, Range(ge=2)] | None = key('`Square`: forward passes', by_default='1000')
    area: PositiveShare | None = key('`Square`: of the first squares', unit='share of the image', by_default='0.3')


class InnerAttackOptions(AnyAttackOptions):
    """An attack inside an attack, which takes from the outer block what it does not say; eps is that of the outer."""

    objective: _Objective | None = key(_OBJECTIVE)
    quantize: Annotated[str, OneOf(QUANTIZE)] | None = key(_QUANTIZE)
    source: Keys | None = key(
        '`Transfer`: the network that is attacked: a block as `network_g`, and `weights`, its file', values='block'
    )
    attack: InnerAttackOptions | None = key(
        '`Transfer`: how the source is attacked', values='block', by_default='`PGD`'
    )
    attacks: Annotated[list[InnerAttackOptions], Listed()] | None = key(
        '`WorstOf`: each takes from the outer block what it does not say; eps is always that of the outer one',
        values='list of blocks',
    )


#: Keys of ``attack:`` that belong to the training, not to the attack
SCHEDULE = ('mode', 'share', 'attacked_target', 'masked', 'every', 'warmup', 'warm_start', 'first_gradient')


class AttackOptions(InnerAttackOptions):
    """``attack:`` at the top level: an attack, and when it is used in the training."""

    type: Annotated[str, OneOf(ATTACKS.keys())] = key(_TYPE, ...)
    eps: EpsRange = key(
        'radius of the ball; of an interval each sample draws its own',
        ...,
        unit=LEVELS,
        values='number, or [low, high]',
    )
    objective: _TrainingObjective = key(
        f"{_OBJECTIVE}. `training_loss` is the sum of all losses of the trainer's own step (one number per batch: for "
        '`IFGSM`, `MIFGSM`, `PGD`, `BandLimited`, without `keep_best`, `restarts`, `tile`, `memory`, `seed`)',
        'ground_truth_l1',
    )
    # The classifier must not learn to tell 8-bit images from others.
    quantize: Annotated[str, OneOf(QUANTIZE)] = key(_QUANTIZE, 'nearest')
    mode: Annotated[str, OneOf(ATTACK_MODES)] = key(
        'every image clean and attacked in one step (which sees twice the batch); a share of the batch attacked; or a '
        "step on the clean batch, then one on the same batch attacked (the paper's)",
        'paired',
    )
    share: PositiveShare = key('in mode `mixed`', 0.5, unit='share of the batch')
    attacked_target: Annotated[str, OneOf(ATTACKED_TARGETS)] = key(
        "what the attacked samples are compared with in training. `clean_output` is the network's own output for the "
        'clean image, unmasked and without a gradient: training for consistency, as TRADES (Zhang et al. 2019)',
        'ground_truth',
    )
    masked: Share = key(
        'share of the attacked samples that pass the masks; the others are attacked and trained unmasked', 1.0
    )
    every: Count = key('attack in every n-th iteration only; the others train on clean images', 1, unit='iterations')
    warmup: Natural = key('iterations over which eps rises to its value', 0, unit='iterations')
    warm_start: Flag = key(
        'begin at the perturbation of the last batch; of attacks that follow a gradient image by image', False
    )
    first_gradient: Annotated[str, OneOf(FIRST_GRADIENTS)] = key(
        'in mode `alternating`: `clean_step` takes the gradient of the input from the step on the clean batch, before '
        'its update and without masks, as the published code does; the first of `steps` then costs no pass. It needs '
        '`random_start: 0`',
        'own',
    )

    @property
    def eps_range(self) -> tuple[float, float]:
        """The smallest and the largest radius of a sample, in 1/255."""
        low, high = self.eps if isinstance(self.eps, list) else (self.eps, self.eps)
        return low, high

    @property
    def arguments(self) -> dict[str, Any]:
        """What builds the attack, with the largest radius."""
        block = {name: value for name, value in self.plain().items() if name not in SCHEDULE}
        return {**block, 'eps': self.eps_range[1]}


class MeasuredAttackOptions(InnerAttackOptions):
    """An attack that measures a network."""

    objective: _Objective = key(_OBJECTIVE, 'stability')
    quantize: Annotated[str, OneOf(QUANTIZE)] = key(_QUANTIZE, 'nearest')


class ValAttackOptions(MeasuredAttackOptions):
    """``val: attack:``."""

    type: Annotated[str, OneOf(ATTACKS.keys())] = key(_TYPE, ...)
    eps: Eps = key('radius of the ball', ..., unit=LEVELS)


class SetAttackOptions(AnyAttackOptions):
    """One attack of ``rsr adversarial-set``."""

    type: Annotated[str, OneOf([name for name in ATTACKS.keys() if name not in ('Transfer', 'WorstOf')])] = key(
        _TYPE, ...
    )
    share: Positive | None = key('how often it is used, against the others', by_default='1')
    eps: PositiveEpsRange | None = key(
        'radius of the ball', unit=LEVELS, values='number, or [low, high]', by_default='that of the set'
    )
    objective: _BlindObjective | None = key('what is maximised; there is no ground truth')  # of the set
