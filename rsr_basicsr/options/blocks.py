"""Every key that this package adds to a BasicSR options file: its type, range, unit, default and meaning.

Attacks are in :mod:`rsr_basicsr.options.attack_blocks`. docs/options.md and the JSON schema for editors are generated
from these models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from rsr_basicsr.archs.defense import CLASSIFIERS, DECISIONS
from rsr_basicsr.archs.frequency_classifier_arch import POOL_BY
from rsr_basicsr.attacks.problem import ATTACK_PRECISIONS
from rsr_basicsr.catalog.choices import BUILTIN, DEFAULT_CLASSIFIER, GATES, UNTRAINED
from rsr_basicsr.ops.tiled import OVERLAP
from rsr_basicsr.options.attack_blocks import DIAGONAL, PIXELS, AttackOptions, ValAttackOptions
from rsr_basicsr.options.parsing import Block, OpenBlock, key, typed
from rsr_basicsr.options.types import (
    Count,
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
    Range,
    Share,
    ShareRange,
)

TARGETS = ('ground_truth', 'pretrained')


class MaskOptions(Block):
    """``network_g: defense: mask:``."""

    keep_radius: ShareRange | None = key(
        'the radius within which every DCT coefficient stays is drawn from this interval',
        unit=DIAGONAL,
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
        by_default='`all`; of SRVGGNetCompact `input`',
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
    precision: Annotated[str, OneOf(ATTACK_PRECISIONS)] = key(
        "of the network's forward pass in the training step, by autocast, and of the attack's passes unless `attack: "
        'precision` says otherwise; weights, losses and optimizer stay in fp32',
        'fp32',
    )
    channels_last: Flag = key(
        'whether network and images are laid out channels last, which tensor cores and AMX prefer', False
    )
    compile: Flag = key(
        "whether torch.compile compiles the network's passes, the attack's too; it needs a C++ compiler, and minutes "
        'for the first iterations',
        False,
    )
    resume_from: Annotated[str, OneOf(('state', 'options'))] = key(
        'where a resumed training takes learning rates and schedule from. BasicSR always takes those of the training '
        'state; a warning says where the options have others',
        'state',
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
        unit=PIXELS,
        by_default='none',
    )
    tile_overlap: Natural = key('what the network sees around each tile', OVERLAP, unit=PIXELS)
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


class TrainerOptions(OpenBlock):
    """What our model classes read of the options of a training or a test."""

    attack: AttackOptions | None = key('attack augmentation of a training')
    network_g: NetworkOptions = key('the network', NetworkOptions)
    train: TrainOptions = key('the training', TrainOptions)
    val: ValOptions = key('the validation', ValOptions)


class RunTrainOptions(TrainOptions, ClassifierTrainOptions):
    """Our keys of ``train:``, of any model."""


class RunOptions(TrainerOptions):
    """Our blocks of the options file of a training or a test, of any model."""

    train: RunTrainOptions = key('the training', RunTrainOptions)


def typed_options(opt: Mapping[str, Any]) -> TrainerOptions:
    """Our blocks of checked options as objects: ``typed_options(opt).train.target``.

    Args:
        opt: options that :func:`rsr_basicsr.check.check_options` has checked; they stay as they are.
    """
    return typed(TrainerOptions, opt)
