"""Presets of the defence, which ``rsr defend`` adds to an options file as commented blocks of YAML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rsr_basicsr.archs.defended_arch import POINTS


class Preset(NamedTuple):
    """How a defended network is trained.

    Args:
        attack: the block ``attack:``; ``warmup`` is shortened for short trainings.
        mask: the block ``network_g: defense: mask:``; None for a training without masks.
        classifier: the block ``network_g: defense: classifier:``, likewise.
    """

    attack: Mapping[str, Any]
    mask: Mapping[str, Any] | None = None
    classifier: Mapping[str, Any] | None = None


_KEEP_RADIUS = [0.43, 0.5]
_MASK = {'keep_radius': _KEEP_RADIUS, 'per_sample': True}
_CLASSIFIER = {'type': 'ensemble', 'weights': 'builtin'}

_ADVERSARIAL = {
    'type': 'PGD',
    'eps': [1, 8],
    'warmup': 5000,
    'steps': 2,
    'random_start': 1,
    'objective': 'ground_truth_l1',
    'quantize': 'nearest',
    'precision': 'fp32',
    'mode': 'mixed',
    'share': 0.5,
    'masked': 0,
    'every': 1,
}

#: docs/options.md gives their costs
PRESETS = {
    # That of options/finetune: adversarial training alone, which no masks have beaten at equal sharpness. The batch
    # stays as large as it was, and half of it is attacked. PGD, since its two steps do more than those of I-FGSM.
    'light': Preset(_ADVERSARIAL),
    # Every image clean and attacked, with enough steps to move along the border of the ball.
    'strong': Preset(
        {**{key: value for key, value in _ADVERSARIAL.items() if key != 'share'}, 'steps': 4, 'mode': 'paired'}
    ),
    # Attacked samples are compared with the clean output, as in options/baselines: steadier than `light`, and closer to
    # the original under attack, at equal sharpness. A discriminator would be taught that outputs are real.
    'consistency': Preset(
        {
            **{key: value for key, value in _ADVERSARIAL.items() if key not in ('random_start', 'share')},
            'objective': 'stability',
            'mode': 'paired',
            'attacked_target': 'clean_output',
        }
    ),
    # Masks and detector beside the training of `light`.
    'masks': Preset({**_ADVERSARIAL, 'masked': 0.5}, _MASK, _CLASSIFIER),
    # The published training of Yue et al. 2021, as in options/train/train_cdc_realsr_x4_paper.yml: one strength, three
    # passes per batch, and the paper's classifier, trained jointly.
    'paper': Preset(
        {
            'type': 'IFGSM',
            'eps': 8,
            'steps': 2,
            'step_size': 16,
            'random_start': 0,
            'objective': 'training_loss',
            'first_gradient': 'clean_step',
            'quantize': 'none',
            'clamp': False,
            'mode': 'alternating',
        },
        {'keep_radius': _KEEP_RADIUS},
        {'type': 'paper', 'weights': 'untrained', 'threshold': 0.9},
    ),
}
#: Largest share of a training's iterations over which eps rises
_WARMUP_SHARE = 0.1

_ATTACK_COMMENTS = {
    'type': 'any attack of docs/attacks.md',
    'eps': 'budget in 1/255, L-inf; [low, high] is drawn from for each sample',
    'warmup': 'iterations over which eps rises to that',
    'steps': 'gradient steps; each costs a forward and an input-gradient pass',
    'step_size': 'in 1/255; 2 eps puts every value on the face of the ball',
    'random_start': 'radius of the uniform start in 1/255',
    'objective': 'what is maximised: ground_truth | ground_truth_l1 | stability | training_loss, the whole loss',
    'first_gradient': 'clean_step: that of the step on the clean batch, at no cost | own',
    'clamp': 'false: inside the ball, but not inside [0, 1]',
    'quantize': 'nearest | floor | none: whether attacked images are rounded to 8 bit, as the clean ones are',
    'precision': "of the attack's passes: bf16 is faster on recent GPUs",
    'mode': 'mixed: a share of the batch is attacked | paired: all of it, and clean too | alternating',
    'share': 'of the batch, in mode mixed',
    'masked': 'share of the attacked images that are masked; the others train for missed detections',
    'attacked_target': 'ground_truth | clean_output: consistency with the output for the clean image',
    'every': 'attack every n-th iteration only',
}
_DEFENSE_COMMENTS = {
    'keep_radius': 'coefficients nearer to DC than this share of the diagonal always stay',
    'per_sample': 'one mask per image; false: one per batch, as in the published code',
    'points': 'where masks sit',
    'type': 'ensemble | statistics | residual | paper, see docs/detector.md',
    'weights': 'what comes with the package (builtin) | untrained | a file',
    'threshold': 'an image counts as attacked when P(clean) is below this',
    'gate': 'what decides when to mask: classifier | soft | always | never, no masks',
}
_VALIDATION_COMMENTS = {
    'panel_freq': 'an image of the first sample: input and output, clean and attacked',
    'guard': 'warn when clean PSNR falls this many dB below that of the weights at the start',
    'attack': 'the metrics under it are logged as SET_attacked, with the stability',
    'eps': 'in 1/255',
    'seed': 'the same attack on the same image every time',
}


def defense_block(preset: Preset, network: str, points: Sequence[str]) -> str:
    """``defense:`` as YAML.

    Args:
        preset: one of :data:`PRESETS`.
        network: the plain architecture.
        points: all mask points of its defended version.
    """
    block: dict[str, Any] = {'gate': 'never'}
    if preset.mask is not None:
        block = {
            'mask': preset.mask,
            'points': list(POINTS.get(network, points)),
            'classifier': preset.classifier,
            'gate': 'classifier',
        }
    return _written({'defense': block}, _DEFENSE_COMMENTS)


def attack_block(preset: Preset, total_iter: int | None) -> str:
    """``attack:`` of a training as YAML; ``total_iter`` is None where unknown."""
    attack = dict(preset.attack)
    if total_iter and 'warmup' in attack:
        attack['warmup'] = min(attack['warmup'], int(_WARMUP_SHARE * total_iter))
    heading = '# ----------------- attack augmentation ----------------- #\n'
    return heading + _written({'attack': attack}, _ATTACK_COMMENTS)


def validation_block(stage: str, panel_freq: int | None, guard: float | None) -> str:
    """The additions to ``val:`` as YAML, without keys that are None. A test takes more steps than a training."""
    block = {'panel_freq': panel_freq, 'guard': guard}
    block = {key: value for key, value in block.items() if value is not None}
    attack = {'type': 'PGD', 'eps': 8, 'steps': 5 if stage == 'train' else 10, 'seed': 0}
    return _written({**block, 'attack': attack}, _VALIDATION_COMMENTS)


def _written(block: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """A block as YAML, indented by two, with its comments in one column."""
    lines = [(line, comments.get(key)) for key, line in _lines(block, '')]
    width = max(len(line) for line, comment in lines if comment)
    return '\n'.join(f'{line:<{width}}  # {comment}' if comment else line for line, comment in lines)


def _lines(block: Mapping[str, Any], indent: str) -> Iterator[tuple[str, str]]:
    for key, value in block.items():
        if isinstance(value, Mapping):
            yield key, f'{indent}{key}:'
            yield from _lines(value, f'{indent}  ')
        else:
            yield key, f'{indent}{key}: {_inline(value)}'


def _inline(value: Any) -> str:
    if isinstance(value, list):
        return f'[{", ".join(map(str, value))}]'
    return str(value).lower() if isinstance(value, bool) else str(value)
