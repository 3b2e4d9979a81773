"""Turns an options file of BasicSR or Real-ESRGAN into that of a defended network, by additions only."""

from __future__ import annotations

import copy
import difflib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from basicsr.models.sr_model import SRModel
from basicsr.models.srgan_model import SRGANModel
from basicsr.models.video_base_model import VideoBaseModel
from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY, Registry

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.catalog.choices import DEFAULT_PRESET, DEFAULT_PRESET_GAN
from rsr_basicsr.defend_file.presets import PRESETS, attack_block, defense_block, validation_block
from rsr_basicsr.defend_file.yaml_text import YamlText
from rsr_basicsr.models.attack_augmentation import AttackAugmentation
from rsr_basicsr.options import host
from rsr_basicsr.options.calls import registered
from rsr_basicsr.options.messages import Problems
from rsr_basicsr.options.networks import check_network
from rsr_basicsr.utils.errors import OptionsError
from rsr_basicsr.utils.files import read_text, remove_leftovers, resolved, write_whole
from rsr_basicsr.utils.hints import nearest

PREFIX = 'Defended'
#: Prefix of the experiment's name, so that ``--auto_resume`` does not find the undefended one
NAME_PREFIX = 'defended_'
_CHANNELS = ('num_in_ch', 'in_chans')  # names that architectures use
#: Old keys of ``path:`` that BasicSR now ignores silently, and their new names
_OLD_PATHS = {
    'pretrain_model_g': 'pretrain_network_g',
    'pretrain_model_d': 'pretrain_network_d',
    'strict_load': 'strict_load_g',
}


class Defended(NamedTuple):
    """A defended options file.

    Args:
        before: the original.
        text: the same with additions.
        stage: ``train`` or ``test``.
        notes: sentences about what the user still has to do.
    """

    before: str
    text: str
    stage: str
    notes: list[str]


def defend_file(path: Path, preset: str | None = None) -> Defended:
    """Read an options file and defend it; nothing is written.

    Args:
        path: of the options file, UTF-8.
        preset: one of :data:`rsr_basicsr.defend_file.presets.PRESETS`; None takes the one that the evidence speaks for,
            by whether the model has a discriminator.

    Raises:
        OptionsError: it cannot be read, or cannot be defended; one sentence that begins with the file.
    """
    try:
        return defend_text(read_text(path), preset)
    except OSError as error:
        raise OptionsError(f'{path}: {error.strerror}') from None
    except UnicodeDecodeError:
        raise OptionsError(f'{path}: it is not in UTF-8') from None
    except OptionsError as error:
        raise OptionsError(f'{path}: {error}') from None


def write_defended(defended: Defended, path: Path, overwrite: bool) -> None:
    """Write the file, whole or not at all.

    Raises:
        OptionsError: it exists and ``overwrite`` is not set, or it cannot be written.
    """
    try:
        if path.exists() and not overwrite:
            raise OptionsError(f'-o {path}: it is there already; give --overwrite to replace it')
        remove_leftovers(resolved(path).parent)
        write_whole(resolved(path), defended.text.encode('utf-8'))
    except OSError as error:
        raise OptionsError(f'-o {path}: {error.strerror}') from None


def difference(before: str, after: str, name_before: str, name_after: str) -> str:
    """The changes as a unified diff that ``patch`` takes."""
    old, new = (list(io.StringIO(text, newline='\n')) for text in (before, after))
    lines = difflib.unified_diff(old, new, name_before, name_after)
    return ''.join(line if line.endswith('\n') else f'{line}\n\\ No newline at end of file\n' for line in lines)


def defend_text(text: str, preset: str | None = None) -> Defended:
    """Defend the text of an options file, as :func:`defend_file` does.

    Raises:
        OptionsError: one sentence that says what cannot be defended, and why.
    """
    file = YamlText(text)
    opt = file.data
    _check_mappable(opt)
    model = MODEL_REGISTRY.get(f'{PREFIX}{opt["model_type"]}')
    chosen = PRESETS[preset or (DEFAULT_PRESET_GAN if issubclass(model, SRGANModel) else DEFAULT_PRESET)]
    stage = 'train' if 'train' in opt else 'test'
    points = ARCH_REGISTRY.get(f'{PREFIX}{opt["network_g"]["type"]}').chosen_points()
    if isinstance(opt.get('name'), str):
        file.prefix(('name',), NAME_PREFIX)
    file.prefix(('model_type',), PREFIX)
    file.prefix(('network_g', 'type'), PREFIX)
    file.add(('network_g',), defense_block(chosen, opt['network_g']['type'], points))
    if stage == 'train':
        file.add((), attack_block(chosen, _number(opt['train'], 'total_iter')), before='datasets')
    if _can_validate(opt):
        file.add(('val',), _validation(opt, stage), before='metrics')
    return Defended(text, file.result(), stage, list(_notes(opt, file.meant, stage)))


def _check_mappable(opt: Mapping[str, Any]) -> None:
    if isinstance(opt.get('network_g'), Mapping) and 'model_type' not in opt:
        raise OptionsError(
            'there is no model_type, so this is no file of BasicSR; of a trainer such as traiNNer-redux or neosr, put '
            'attack_batch into its training step (docs/training.md, "Your own trainer")'
        )
    if (
        not isinstance(opt.get('model_type'), str)
        or not isinstance(opt.get('network_g'), Mapping)
        or not isinstance(opt['network_g'].get('type'), str)
    ):
        raise OptionsError(
            'there is no model_type, or no network_g with a type; this is not an options file of a training or a test'
        )
    _check_model(opt['model_type'])
    _check_network(opt['network_g'])
    for where, block, key in (('', opt, 'attack'), ('network_g.', opt['network_g'], 'defense')):
        if key in block:
            raise OptionsError(
                f'{where}{key}: this block is there already, so the file is defended in part; finish it '
                'by hand, docs/options.md has the keys'
            )


def _check_model(name: str) -> None:
    if f'{PREFIX}{name}' in MODEL_REGISTRY:
        return
    cls, where = _found(MODEL_REGISTRY, name), f'model_type: {name}'
    if cls is None:
        raise OptionsError(
            f"{where} is none of BasicSR's{_meant(name, MODEL_REGISTRY)}; of a trainer of single "
            'images, name a module that registers its defended version with --import, or call attack_batch in its '
            'training step (docs/training.md, "Your own trainer")'
        )
    if issubclass(cls, AttackAugmentation):
        raise OptionsError(f'{where} is defended already')
    if issubclass(cls, VideoBaseModel):
        raise OptionsError(f'{where} works on video; the defence is for single images')
    if not issubclass(cls, SRModel):
        raise OptionsError(f'{where} is not derived from SRModel; the defence is for networks that upscale images')
    raise OptionsError(
        f"{where} has no defended version; if its training step is one of SRModel's kind, register "
        f'defend_model({name}) in a module of yours (docs/training.md) and name it with --import'
    )


def _check_network(network: Mapping[str, Any]) -> None:
    name = network['type']
    where = f'network_g.type: {name}'
    if f'{PREFIX}{name}' not in ARCH_REGISTRY:
        cls = _found(ARCH_REGISTRY, name)
        if cls is not None and issubclass(cls, DefenseMixin):
            raise OptionsError(f'{where} is defended already')
        known = ', '.join(_defended_names(ARCH_REGISTRY))
        raise OptionsError(
            f'{where} has no defended version{_meant(name, ARCH_REGISTRY)}; there is one of {known}, and '
            'of what you register with register_defended (docs/training.md) in a module that you name with '
            '--import'
        )
    for key in _CHANNELS:
        if network.get(key, 3) != 3:
            raise OptionsError(
                f'network_g.{key}: {network[key]}, but the defence is for colour images: its '
                'classifier takes three channels'
            )


def _found(registry: Registry, name: str) -> Any:
    try:
        return registered(registry, name, '')
    except OptionsError:
        return None


def _meant(name: str, registry: Registry) -> str:
    close = nearest(name, _defended_names(registry), 0.85)
    # A name with letters in front, such as ESRModel, is that of another class.
    return f' (did you mean {close}?)' if close and not name.lower().endswith(close.lower()) else ''


def _defended_names(registry: Registry) -> list[str]:
    return sorted(key[len(PREFIX) :] for key in registry.keys() if key.startswith(PREFIX))


def _can_validate(opt: Mapping[str, Any]) -> bool:
    val = opt.get('val')
    if not isinstance(val, Mapping) or 'attack' in val:
        return False
    return isinstance(val.get('metrics'), Mapping) and bool(val['metrics'])


def _validation(opt: Mapping[str, Any], stage: str) -> str:
    """The additions to ``val:``, without keys that it has."""
    val, path = opt['val'], opt.get('path')
    path = path if isinstance(path, Mapping) else {}
    panel_freq = guard = None
    if stage == 'train':
        panel_freq = _number(val, 'val_freq')
        types = [metric.get('type') for metric in val['metrics'].values() if isinstance(metric, Mapping)]
        # Weights that fit only in part are no baseline.
        if path.get('pretrain_network_g') and path.get('strict_load_g', True) and 'calculate_psnr' in types:
            guard = 0.5
    return validation_block(stage, None if 'panel_freq' in val else panel_freq, None if 'guard' in val else guard)


def _number(block: Any, key: str) -> int | None:
    """A whole number of a block; None where there is none."""
    value = block.get(key) if isinstance(block, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if value >= 1 and float(value).is_integer() else None


def _notes(before: Mapping[str, Any], after: dict[str, Any], stage: str) -> Iterator[str]:
    gpus, path = _number(before, 'num_gpu') or 0, before.get('path')
    path = path if isinstance(path, Mapping) else {}
    if gpus > 1:
        yield (
            f'num_gpu: {gpus} needs one process per GPU: torchrun --nproc_per_node={gpus} -m rsr_basicsr.{stage} -opt '
            'FILE --launcher pytorch'
        )
    if not _can_validate(before):
        yield (
            'nothing will be measured under attack, since there is no val block with metrics; add one, with a data '
            'set for it, to the original, and defend that again'
        )
    if stage == 'test' and path.get('pretrain_network_g'):
        yield (
            f'path.pretrain_network_g: {path["pretrain_network_g"]} stays; put the weights of your defended '
            'training there, since plain ones are masked, but not trained for it'
        )
    if path.get('resume_state'):
        yield (
            f'path.resume_state: {path["resume_state"]} is a state of the undefended training, which a '
            'defended one cannot resume; write ~'
        )
    for old, new in _OLD_PATHS.items():
        if path.get(old) is not None and new not in path:
            yield f'path.{old} is an old name that this BasicSR does not read; write {new}'
    for problem in _refused(copy.deepcopy(after), stage):
        yield f'rsr {stage} refuses it as it is: {problem}'


def _refused(opt: dict[str, Any], stage: str) -> Problems:
    """The problems that the check before a run would report, without folders, weights and the machine."""
    problems = Problems()
    with problems.noted():
        host.check_sections(opt, stage)
    with problems.noted():
        check_network(opt, 'network_g')
    return problems
