"""Checks of what only a training has: model, attack, losses, optimizers, schedulers."""

from __future__ import annotations

import math
from typing import Any

import torch
from basicsr.models import lr_scheduler
from basicsr.models.srgan_model import SRGANModel
from basicsr.utils.registry import LOSS_REGISTRY

from rsr_basicsr.check.attack import check_attack
from rsr_basicsr.check.datasets import CROP, Images, check_dataset
from rsr_basicsr.check.step_memory import unfilled_vgg
from rsr_basicsr.models.frequency_classifier_model import FrequencyClassifierModel
from rsr_basicsr.options import host, host_blocks
from rsr_basicsr.options.blocks import ClassifierTrainOptions
from rsr_basicsr.options.calls import check_call, registered
from rsr_basicsr.options.messages import Problems
from rsr_basicsr.options.parsing import parse_each, parse_keys, parse_open
from rsr_basicsr.options.types import Keys, Positive, shown
from rsr_basicsr.utils.errors import OptionsError, in_one_line


def check_training(opt: dict[str, Any], model: type | None, images: dict[str, Images], problems: Problems) -> None:
    """Check what only a training has, in place.

    Args:
        opt: options as BasicSR's parser returns them, whose sections were checked.
        model: the class of ``model_type``; None skips what depends on it.
        images: of the data sets, by phase.
        problems: where it is noted what is wrong.
    """
    if problems.there('datasets') and 'train' not in opt['datasets'] and problems.there('datasets.train'):
        problems.append('datasets: there is no train block')
        problems.spoil('datasets.train')
    if not problems.there('train'):
        return
    if model is not None:
        _check_host_model(opt, model, problems)
        check_attack(opt, model, problems)
    _check_losses(opt['train'], problems)
    _check_optimizers(opt['train'], problems)
    if model is not None and issubclass(model, FrequencyClassifierModel):
        _check_classifier_training(opt['train'], problems)
    elif not any(opt['train'].get(key) for key in ('pixel_opt', 'perceptual_opt')) and problems.there(
        'train.pixel_opt', 'train.perceptual_opt'
    ):
        problems.append('train: there is neither pixel_opt nor perceptual_opt')
    if 'train' in images:
        _check_enough(opt, len(images['train'].entries), problems)
    _check_loader(opt, problems)


def real_esrgan_kinds(model: type | None) -> set[str]:
    """Which of Real-ESRGAN's two model classes a model is; by name, since the package realesrgan has its own."""
    names = {cls.__name__ for cls in model.__mro__} if model is not None else set()
    return names & {'RealESRNetModel', 'RealESRGANModel'}


def degrades(opt: dict[str, Any], model: type | None) -> bool:
    """Whether the model makes its low-resolution images itself, with Real-ESRGAN's degradations."""
    return bool(real_esrgan_kinds(model)) and bool(opt.get('high_order_degradation', True))


def gt_size(opt: dict[str, Any], model: type | None) -> Any:
    """Height and width in pixels of the high-resolution training patches; None where unknown."""
    if degrades(opt, model):
        return opt.get('gt_size')
    return opt['datasets'].get('train', {}).get('gt_size')


def batch_size(opt: dict[str, Any]) -> int:
    """Images of a batch in one process."""
    return opt['datasets']['train']['batch_size_per_gpu'] * (1 if opt.get('dist') else max(1, opt['num_gpu']))


def _check_host_model(opt: dict[str, Any], model: type, problems: Problems) -> None:
    """Check keys that BasicSR's model classes read without a default."""
    if issubclass(model, SRGANModel):
        parse_keys(opt, ('network_d',), Keys, '', problems, required=True)
        parse_keys(opt['train'], ('optim_d', 'gan_opt'), Keys, 'train', problems, required=True)
    kinds = real_esrgan_kinds(model)
    if 'RealESRGANModel' in kinds:
        parse_each(opt, (host_blocks.UsmOfGan,), '', problems)
    if degrades(opt, model):
        parse_each(opt, (host_blocks.DegradationsOfTraining,), '', problems)
        if 'RealESRNetModel' in kinds:
            parse_each(opt, (host_blocks.UsmOfNet,), '', problems)
        if problems.sound('datasets.train.batch_size_per_gpu', 'num_gpu', 'queue_size') and opt.get(
            'queue_size', 180
        ) % batch_size(opt):
            problems.append(
                f'queue_size: {opt.get("queue_size", 180)} is not a multiple of the batch size {batch_size(opt)}'
            )


def check_patches(opt: dict[str, Any], model: type, problems: Problems) -> None:
    """Check that patches of low and high resolution fit each other."""
    own = degrades(opt, model)
    where = 'gt_size' if own else 'datasets.train.gt_size'
    if not problems.sound(where, 'scale', 'datasets.train.type'):
        return
    size, scale = gt_size(opt, model), opt['scale']
    if isinstance(size, int) and size % scale:
        problems.append(
            f'{where}: {size} is not a multiple of the scale, {scale}; write {max(size // scale, 1) * scale}'
        )
        problems.spoil(where)
    if own and opt['datasets']['train']['type'] == 'RealESRGANDataset':
        if size > CROP:
            problems.append(
                f'gt_size: RealESRGANDataset cuts its images to {CROP}x{CROP}, which has no patch of '
                f'{size}; write {CROP} or less'
            )
        if CROP % scale:
            problems.append(f'scale: RealESRGANDataset cuts its images to {CROP}x{CROP}, which {scale} does not divide')


def _check_losses(train: dict[str, Any], problems: Problems) -> None:
    for key in [key for key, value in train.items() if str(key).endswith('_opt') and value is not None]:
        where = f'train.{key}'
        if not problems.there(where):
            continue
        with problems.noted(part=where):
            parse_keys(train, (key,), Keys, 'train')
            parse_open(train[key], host_blocks.Typed, where)
            loss = registered(LOSS_REGISTRY, train[key]['type'], f'{where}.type')
            check_call(loss, train[key], where)
            if loss.__module__.split('.')[0] in ('basicsr', 'rsr_basicsr'):  # others may download what they need
                with unfilled_vgg(), torch.device('meta'):
                    _check_built(loss, train[key], where)


def _check_built(cls: type, options: dict[str, Any], where: str, *given: Any) -> None:
    """Check that a class can be constructed from a block."""
    try:
        cls(*given, **{key: value for key, value in options.items() if key != 'type'})
    except Exception as error:  # constructors raise anything on wrong values
        raise OptionsError(f'{where}: {cls.__name__} cannot be built: {in_one_line(error)}') from error


def _check_optimizers(train: dict[str, Any], problems: Problems) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    if problems.sound('train.optim_g', 'train.optim_d') and train.get('optim_d') is train['optim_g']:
        problems.append('train.optim_d: an alias of optim_g, which BasicSR changes when it reads it; write it out')
    for key in [key for key in ('optim_g', 'optim_d') if key in train]:
        if problems.sound(f'train.{key}'):
            with problems.noted(part=f'train.{key}'):
                check_call(torch.optim.Adam, train[key], f'train.{key}', given=1)
                _check_built(torch.optim.Adam, train[key], f'train.{key}', [parameter])
    if not problems.sound('train.scheduler'):
        return
    scheduler = train['scheduler']
    with problems.noted(part='train.scheduler'):
        # BasicSR replaces the first name by the second.
        cls = getattr(lr_scheduler, scheduler['type'].replace('MultiStepLR', 'MultiStepRestartLR'))
        check_call(cls, scheduler, 'train.scheduler', given=1)
        periods, weights = scheduler.get('periods'), scheduler.get('restart_weights', (1,))
        if isinstance(periods, list) and isinstance(weights, (list, tuple)) and len(periods) != len(weights):
            raise OptionsError(
                f'train.scheduler.restart_weights: {len(weights)} for {len(periods)} periods; there is one for each'
            )
        _check_built(cls, scheduler, 'train.scheduler', torch.optim.Adam([parameter], lr=1e-4))
        if periods is not None and problems.sound('train.total_iter') and sum(periods) < train['total_iter'] - 1:
            raise OptionsError(
                f'train.scheduler.periods: they end after {sum(periods)} iterations, and the training '
                f'after {train["total_iter"]} (train.total_iter)'
            )


def _check_classifier_training(train: dict[str, Any], problems: Problems) -> None:
    with problems.noted(part='train.calibration'):
        parse_open(train, ClassifierTrainOptions, 'train')
        calibration = train.get('calibration')
        for number, dataset in enumerate(calibration['datasets'] if calibration else (), start=1):
            where = f'train.calibration.datasets, number {number}'
            host.check_dataset({**dataset, 'name': 'calibration'}, where, 'val', problems)
            if problems.sound(where):
                with problems.noted(part=where):
                    check_dataset(dataset, where, problems)


def _check_enough(opt: dict[str, Any], count: int, problems: Problems) -> None:
    """BasicSR drops a last batch that is not full; without another one the training ends silently."""
    where, dataset = 'datasets.train.dataset_enlarge_ratio', dict(opt['datasets']['train'])
    if 'dataset_enlarge_ratio' in dataset:
        parse_keys(dataset, ('dataset_enlarge_ratio',), Positive, 'datasets.train', problems, required=True)
    if not problems.sound(where, 'datasets.train.batch_size_per_gpu', 'num_gpu'):
        return
    ratio = dataset.get('dataset_enlarge_ratio', 1)
    if math.ceil(count * ratio) < batch_size(opt):
        problems.append(
            f'{where}: {count} images, each {ratio:g} times, do not fill one batch of {batch_size(opt)}, '
            f'and nothing would be trained; write {math.ceil(batch_size(opt) / count)} or more'
        )
    elif problems.sound('train.total_iter'):
        # BasicSR counts epochs by rounded-up batches, and an epoch ends with the last full one.
        wanted, batches = int(opt['train']['total_iter']), math.ceil(count * ratio) / batch_size(opt)
        reached = (math.ceil(wanted / math.ceil(batches)) + 1) * math.floor(batches)
        if reached < wanted:
            problems.warnings.append(
                f'train.total_iter: the training ends after {reached:,} of {wanted:,} iterations: {count} images, each '
                f'{ratio:g} times, fill {batches:.1f} batches, of which BasicSR counts {math.ceil(batches)} and takes '
                f'{math.floor(batches)} per epoch; raise dataset_enlarge_ratio'
            )


def _check_loader(opt: dict[str, Any], problems: Problems) -> None:
    """Check what BasicSR's trainer checks only after everything is built."""
    if not problems.there('datasets.train'):
        return
    dataset = opt['datasets']['train']
    where, mode = 'datasets.train.prefetch_mode', dataset.get('prefetch_mode')
    if mode not in (None, 'cpu', 'cuda'):
        problems.append(f'{where}: expected cpu, cuda or ~, got {shown(mode)}')
    elif mode == 'cuda' and dataset.get('pin_memory') is not True:
        problems.append(f'{where}: cuda needs pin_memory: true beside it')
