"""Every key that this package adds to a BasicSR options file: its type, range, unit, default and meaning.

docs/options.md and the JSON schema for editors are generated from these models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from rsr_basicsr.archs.classifier import BUILTIN
from rsr_basicsr.archs.defense import CLASSIFIERS, DECISIONS, DEFAULT_CLASSIFIER, GATES, UNTRAINED
from rsr_basicsr.archs.frequency_classifier_arch import POOL_BY
from rsr_basicsr.attacks import ATTACKS, OBJECTIVES, QUANTIZE
from rsr_basicsr.attacks.constraints import NORMS
from rsr_basicsr.attacks.gradient_base import SCHEDULES
from rsr_basicsr.attacks.problem import ATTACK_GATES, ATTACK_PRECISIONS
from rsr_basicsr.attacks.restrictions import ZERO_MEANS
from rsr_basicsr.ops.tiled import OVERLAP
from rsr_basicsr.options.parsing import Block, OpenBlock, key, typed
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
    Names,
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

ATTACK_MODES = ('paired', 'mixed', 'alternating')
FIRST_GRADIENTS = ('own', 'clean_step')
TARGETS = ('ground_truth', 'pretrained')
_LEVELS, _PIXELS, _DIAGONAL = '1/255', 'pixels of the input', 'share of the diagonal'


class MaskOptions(Block):
    """``network_g: defense: mask:``."""

    keep_radius: ShareRange | None = key(
        'the radius within which every DCT coefficient stays is drawn from this interval',
        unit=_DIAGONAL,
        by_default='[0.43, 0.50]',
    )
    per_sample: Flag | None = key('one mask per image, or one per batch as in the published code', by_default='true')


class ClassifierOptions(Block):
    """``network_g: defense: classifier:``."""

    type: Annotated[str, OneOf(CLASSIFIERS)] = key(
        'which classifier decides; [detector.md](detector.md) says what each of them reaches', DEFAULT_CLASSIFIER
    )
    weights: Annotated[str, OrWord((BUILTIN, UNTRAINED), ExistingFile)] | None = key(
        'those that come with the package, none, or a state dict of your own',
        values='`builtin`, `untrained`, file',
        by_default='`builtin`',
    )
    threshold: Share | None = key(
        'an image counts as attacked when P(clean) is below it. Weights keep the one they were calibrated to; '
        "0.9, the paper's, where they were not, and 0.5, the arg-max, of `paper_rrdb`",
        by_default='that of the weights',
    )
    num_feat: Count | None = key(
        'width, of a classifier of your own', by_default='`ensemble` and `statistics` 96, `residual` 24'
    )
    pool_by: Annotated[str, OneOf(POOL_BY)] | None = key(
        '`paper` and `paper_rrdb`: pool every spectrum that is not 48x48, or only those that are not 48 high, as the '
        'published code does (an image of 48xW then has no answer)',
        by_default='`size`',
    )


class DefenseOptions(Block):
    """``network_g: defense:``."""

    mask: MaskOptions = key('where masks are drawn from', MaskOptions)
    points: Names | None = key(
        'where masks sit. `all` is what the paper has for CDC and RRDBNet; `features` all but the image. The points '
        'are `input`, `trunk`, `upsampler` (the image, the input of the last trunk convolution, the tensor that enters '
        'the upsampler), of CDC `input`, `hourglass`, `inner`',
        values='`all`, `features`, or a list of points',
        by_default='`all`',
    )
    classifier: ClassifierOptions = key('the adversarial sample classifier', ClassifierOptions)
    gate: Annotated[str, OneOf(GATES)] | None = key(
        'what decides whether an image is masked; `soft` blends the masked and the unmasked tensor by P(attacked) at '
        'every point',
        by_default='`classifier`',
    )
    decision: Annotated[str, OneOf(DECISIONS)] | None = key(
        'what the classifier decides on; `batch` as the published code does, by the mean of P(clean); `majority` as '
        'the published RRDB does: all are masked if more than half count as attacked (`gate: soft` blends by the '
        'median P(clean)); `tile` where images are processed in tiles, with masks of the tile, which makes seams',
        by_default='`image`',
    )
    mask_samples: Count | None = key('at inference, the outputs of this many mask samples are averaged', by_default='1')
    seed: Natural | None = key(
        'at inference, masks that depend on this number, their place and their size only: an image gives the same '
        'output every time and, unless `decision` is `batch` or `majority`, in any batch, to the last bit on a CPU. '
        'An attacker who knows the number knows the masks',
        by_default='none',
    )


#: ``target`` needs an image of the attacker's choice, ``training_loss`` the step of a training
_OBJECTIVES = tuple(name for name in OBJECTIVES if name not in ('target', 'training_loss'))
_OBJECTIVE = (
    "what is maximised: absolute or squared error to the ground truth, squared error or LPIPS to the network's own "
    "clean output. The file of a block `{type: perceptual, backbone: FILE}` has the weights of torchvision's AlexNet, "
    'which are downloaded otherwise'
)
_QUANTIZE = (
    'round attacked images to 8 bit, still inside the ball; `floor`, as the published code does, darkens them by '
    'about 0.4 of a level'
)
_TYPE = 'the attack; a class of `rsr_basicsr.attacks`'


class ObjectiveOptions(Block):
    """An objective with arguments; which type takes a backbone is checked when the attack is built."""

    type: Annotated[str, OneOf(_OBJECTIVES)] = key('what is maximised', ...)
    backbone: ExistingFile | None = key('`perceptual`: weights of AlexNet', values='file')

    def plain(self) -> Any:
        """The block, or its type alone where there is nothing else."""
        return self.type if self.backbone is None else super().plain()


class TrainingObjectiveOptions(ObjectiveOptions):
    """An objective of ``attack:``."""

    type: Annotated[str, OneOf((*_OBJECTIVES, 'training_loss'))] = key('what is maximised', ...)


class BlindObjectiveOptions(ObjectiveOptions):
    """An objective without a ground truth."""

    type: Annotated[str, OneOf(('stability', 'perceptual'))] = key('what is maximised', ...)


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
        unit=_LEVELS,
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
        unit=_LEVELS,
        by_default='`IFGSM`: none, or half a step for `stability`; `PGD`, `APGD`: eps / 4, with `schedule: constant` '
        'eps / 20',
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
    tile: Count | None = key("tiles of the attack's passes", unit=_PIXELS, by_default='none')
    overlap: Natural | None = key('what the network sees around each tile', unit=_PIXELS, by_default='16')
    memory: Positive | None = key('the memory that chooses the tiles', unit='GiB', by_default='none')
    precision: Annotated[str, OneOf(ATTACK_PRECISIONS)] | None = key("of the attack's passes", by_default='`fp32`')
    seed: Natural | None = key('repeatable attacks, image by image', by_default='none')
    decay: NonNegative | None = key('`MIFGSM`: of the momentum', by_default='1')
    momentum: Share | None = key('`APGD`: weight of the new step against the last one', by_default='0.75')
    rho: Share | None = key('`APGD`: share of the steps that must gain for the step size to stay', by_default='0.75')
    band: ShareRange | None = key('`BandLimited`: frequencies of the DCT', unit=_DIAGONAL, by_default='[0, 0.43]')
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
    size: Count | None = key('`Universal`: of the pattern', unit=_PIXELS, by_default='64')
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


class AttackOptions(InnerAttackOptions):
    """``attack:`` at the top level."""

    type: Annotated[str, OneOf(ATTACKS.keys())] = key(_TYPE, ...)
    eps: EpsRange = key(
        'radius of the ball; of an interval each sample draws its own',
        ...,
        unit=_LEVELS,
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


class MeasuredAttackOptions(InnerAttackOptions):
    """An attack that measures a network."""

    objective: _Objective = key(_OBJECTIVE, 'stability')
    quantize: Annotated[str, OneOf(QUANTIZE)] = key(_QUANTIZE, 'nearest')


class ValAttackOptions(MeasuredAttackOptions):
    """``val: attack:``."""

    type: Annotated[str, OneOf(ATTACKS.keys())] = key(_TYPE, ...)
    eps: Eps = key('radius of the ball', ..., unit=_LEVELS)


class SetAttackOptions(AnyAttackOptions):
    """One attack of ``rsr adversarial-set``."""

    type: Annotated[str, OneOf([name for name in ATTACKS.keys() if name not in ('Transfer', 'WorstOf')])] = key(
        _TYPE, ...
    )
    share: Positive | None = key('how often it is used, against the others', by_default='1')
    eps: PositiveEpsRange | None = key(
        'radius of the ball', unit=_LEVELS, values='number, or [low, high]', by_default='that of the set'
    )
    objective: _BlindObjective | None = key('what is maximised; there is no ground truth')  # of the set


class ClassifierOptimOptions(Block):
    """``train: optim_classifier:``."""

    type: Annotated[str, OneOf(('Adam',))] = key("the classifier's own optimizer", 'Adam')
    lr: NonNegative = key('its learning rate', 1e-3)
    weight_decay: NonNegative | None = key('of Adam', by_default='0')
    betas: Annotated[list[Annotated[float, Range(ge=0, le=0.999999)]], Listed(pair=True)] | None = key(
        'of Adam', values='two numbers', by_default='[0.9, 0.999]'
    )


class ClassifierLossOptions(Block):
    """``train: classifier_opt:``."""

    type: Annotated[str, OneOf(('ClassifierLoss',))] = key("the classifier's own loss", 'ClassifierLoss')
    loss_weight: NonNegative | None = key('its weight', by_default='1')
    label_smoothing: Share | None = key('how far labels are from 0 and 1', by_default='0')


class TrainOptions(OpenBlock):
    """Our keys of ``train:``."""

    train_classifier: Flag | None = key(
        'whether the classifier learns along with the network, from the one attack of this training; that undoes a '
        'calibration. false leaves it as it is, as the published code does; its loss and accuracy are logged all the '
        'same',
        by_default='false for builtin weights, else true',
    )
    target: Annotated[str, OneOf(TARGETS)] = key(
        'what all losses of the step compare with; `pretrained` is the output that the weights in `path: '
        'pretrain_network_g` gave for the clean image',
        'ground_truth',
    )
    optim_classifier: ClassifierOptimOptions = key("the classifier's own optimizer", ClassifierOptimOptions)
    classifier_opt: ClassifierLossOptions = key("the classifier's own loss", ClassifierLossOptions)


class CalibrationOptions(Block):
    """``train: calibration:`` of FrequencyClassifierModel."""

    datasets: Annotated[list[Keys], Listed()] = key(
        'before weights are saved, their temperature and threshold are set by these data sets of pairs, and of more '
        'clean images',
        ...,
        values='list of blocks as in `datasets`',
    )
    false_alarms: Share = key('this share of the clean images lies beyond the threshold', 0.005)


class ClassifierTrainOptions(OpenBlock):
    """Our keys of ``train:`` of FrequencyClassifierModel."""

    calibration: CalibrationOptions | None = key('how the classifier is calibrated')
    clip_gradient: Positive | None = key('the norm that gradients are scaled down to', by_default='none')


class ValOptions(OpenBlock):
    """Our keys of ``val:``."""

    tile: Count | None = key(
        'upscale larger images in tiles of this size, under one decision and masks of the whole image '
        '([how](upscale.md#tiles)); for SwinIR a multiple of its window, as `tile_overlap`',
        unit=_PIXELS,
        by_default='none',
    )
    tile_overlap: Natural = key('what the network sees around each tile', OVERLAP, unit=_PIXELS)
    attack: ValAttackOptions | None = key(
        'validate under this attack too; `seed: 0` gives the same attack every time. The masks are drawn from this '
        'seed, too (from 0 without one), so that figures of two iterations can be compared; the attack does not know '
        'them. Logged as the name of the data set with `_attacked`, with the `stability`',
        values='block: `type`, `eps`, `objective` (`stability`), `quantize` (`nearest`), and what the attack takes',
    )
    panel_freq: Count | None = key(
        'show input and output of the first image, clean and attacked, in TensorBoard and as a PNG; a multiple of '
        '`val_freq`',
        unit='iterations',
        by_default='none',
    )
    guard: NonNegative | None = key(
        'warn when clean PSNR (the first of `metrics` of type `calculate_psnr`) falls this much below that of the '
        'weights in `path: pretrain_network_g`',
        unit='dB',
        by_default='none',
    )


class NetworkOptions(OpenBlock):
    """Our key of ``network_g:``."""

    defense: DefenseOptions | None = key('the defence of a Defended network')


class RunTrainOptions(TrainOptions, ClassifierTrainOptions):
    """Our keys of ``train:``, of any model."""


class RunOptions(OpenBlock):
    """Our blocks of the options file of a training or a test."""

    attack: AttackOptions | None = key('attack augmentation of a training')
    network_g: NetworkOptions = key('the network', NetworkOptions)
    train: RunTrainOptions = key('the training', RunTrainOptions)
    val: ValOptions = key('the validation', ValOptions)


def typed_options(opt: Mapping[str, Any]) -> RunOptions:
    """Our blocks of checked options as objects: ``typed_options(opt).train.target``.

    Args:
        opt: options that :func:`rsr_basicsr.check.check_options` has checked; they stay as they are.
    """
    return typed(RunOptions, opt)
