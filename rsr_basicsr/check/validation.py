"""Checks of a validation or a test: metrics, an attack, tiles, and the weights compared with."""

from __future__ import annotations

from typing import Any

from rsr_basicsr.check.attack import check_buildable
from rsr_basicsr.metrics.inputs import needs
from rsr_basicsr.models.attack_augmentation import AttackAugmentation
from rsr_basicsr.models.frequency_classifier_model import FrequencyClassifierModel
from rsr_basicsr.options.blocks import ValOptions
from rsr_basicsr.options.host_blocks import TILES
from rsr_basicsr.options.messages import Problems
from rsr_basicsr.options.metrics import check_metric
from rsr_basicsr.options.parsing import parse_each
from rsr_basicsr.utils.errors import OptionsError


def check_validation(opt: dict[str, Any], model: type | None, problems: Problems) -> None:
    """Check the block ``val``, in place.

    Args:
        opt: options as BasicSR's parser returns them, whose sections were checked.
        model: the class of ``model_type``; None skips what depends on it.
        problems: where it is noted what is wrong.
    """
    if not problems.there('val') or opt.get('val') is None:
        return
    val = opt['val']
    metrics = _sound_metrics(val, problems)
    if model is None:
        return
    if (
        not opt['is_train']
        and val.get('save_img') is True
        and 'suffix' not in val
        and problems.there('val.suffix')
        and not issubclass(model, FrequencyClassifierModel)
    ):
        problems.append(
            "val: the key 'suffix' is missing, which BasicSR asks for where it saves images; write "
            'suffix: ~ for the name of the test'
        )
    if issubclass(model, AttackAugmentation):
        _check_ours(opt, metrics, problems)
    else:
        for key in ('attack', 'panel_freq', 'guard'):
            if val.get(key) is not None:
                problems.append(
                    f'val.{key}: model_type {opt["model_type"]} does not know it; write model_type: '
                    f'Defended{model.__name__}'
                )
    for name, metric in metrics.items():
        with problems.noted():
            _check_given(opt, model, f'val.metrics.{name}', metric)


def _sound_metrics(val: dict[str, Any], problems: Problems) -> dict[str, Any]:
    """Check each metric, and return the valid ones."""
    metrics = (val.get('metrics') or {}) if problems.there('val.metrics') else {}
    for name, metric in metrics.items():
        if problems.sound(f'val.metrics.{name}'):
            with problems.noted(part=f'val.metrics.{name}'):
                check_metric(metric, f'val.metrics.{name}')
    return {name: metric for name, metric in metrics.items() if problems.sound(f'val.metrics.{name}')}


def _check_given(opt: dict[str, Any], model: type, where: str, metric: dict[str, Any]) -> None:
    """Check that the validation has the images that a metric compares."""
    if 'img2' in needs(metric):
        _check_originals(opt, where, metric['type'])
    if set(needs(metric)) <= {'img', 'img2'}:
        return
    where = f'{where}: {metric["type"]} is for attacked images'
    if not issubclass(model, AttackAugmentation):
        raise OptionsError(
            f'{where}, which model_type {opt["model_type"]} does not make; write model_type: '
            f'Defended{model.__name__}, or leave it out'
        )
    if opt['val'].get('attack') is None:
        raise OptionsError(f'{where}; add a block val.attack, or leave it out')


def _check_originals(opt: dict[str, Any], where: str, metric: str) -> None:
    """Refuse a comparison with the original for a data set that has low-resolution images alone."""
    datasets = opt.get('datasets')
    for phase, dataset in datasets.items() if isinstance(datasets, dict) else ():
        if phase != 'train' and isinstance(dataset, dict) and dataset.get('type') == 'SingleImageDataset':
            raise OptionsError(
                f'{where}: {metric} compares with the original, and datasets.{phase} is a SingleImageDataset, which '
                'has none; write a PairedImageDataset, or a metric without one, such as calculate_niqe'
            )


def _check_ours(opt: dict[str, Any], metrics: dict[str, Any], problems: Problems) -> None:
    val = opt['val']
    for theirs, ours in TILES.items():
        if theirs in val:
            problems.append(f'val: unknown key {theirs!r}; did you mean {ours!r}?')
    parse_each(val, (ValOptions,), 'val', problems)
    # None: unknown, since some are broken.
    types = [metric['type'] for metric in metrics.values()] if problems.sound('val.metrics') else None
    with problems.noted(part='val.attack'):
        if val.get('attack') is not None and problems.sound('val.attack'):
            check_buildable(val['attack'], 'val.attack')
            if types == []:
                raise OptionsError('val.attack: there are no val.metrics to measure the attacked images by')
            if 'stability' in metrics:
                raise OptionsError(
                    'val.metrics: stability is measured under val.attack anyway; give yours another name'
                )
    if not opt['is_train']:
        return
    with problems.noted(part='val.guard'):
        if val.get('guard') is not None and problems.sound('val.guard'):
            _check_guard(opt, types, problems)
    # --debug has a val_freq of its own
    if (
        problems.sound('val.panel_freq', 'val.val_freq', 'name')
        and 'debug' not in opt['name']
        and (val.get('panel_freq') or 0) % val['val_freq']
    ):
        problems.append(
            f'val.panel_freq: {val["panel_freq"]} is not a multiple of val_freq, {val["val_freq"]}; '
            'panels are made when the validation runs'
        )


def _check_guard(opt: dict[str, Any], types: list[str] | None, problems: Problems) -> None:
    if types is not None and 'calculate_psnr' not in types:
        raise OptionsError('val.guard: it watches the first of val.metrics of type calculate_psnr, and there is none')
    if problems.sound('path') and opt['path'].get('pretrain_network_g') is None:
        raise OptionsError(
            'val.guard: it compares with the weights that the training begins with; name them in '
            'path.pretrain_network_g'
        )
