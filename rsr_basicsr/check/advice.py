"""Warnings about common mistakes of a training, and what is missing on this machine."""

from __future__ import annotations

import importlib
import os
import os.path as osp
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from basicsr.archs import vgg_arch

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.check.run_file import Checked
from rsr_basicsr.check.training import batch_size, degrades
from rsr_basicsr.models.attack_augmentation import AttackAugmentation
from rsr_basicsr.models.frequency_classifier_model import FrequencyClassifierModel
from rsr_basicsr.options.messages import Problems
from rsr_basicsr.utils.errors import OptionsError
from rsr_basicsr.utils.files import has_writer
from rsr_basicsr.weights.state_dict import entries, load_state, under_own_names, without_wrapper

_HIGHEST_FINETUNING_RATE = 2e-4


def advise(opt: dict[str, Any], checked: Checked, problems: Problems) -> None:
    """Note what is probably not intended, and what is missing on this machine.

    Args:
        opt: options that :func:`~rsr_basicsr.check.run_file.check_all` has checked.
        checked: what it returned.
        problems: where warnings are noted.
    """
    _look_at_folder(opt, problems)
    if not opt['is_train']:
        return
    ours = AttackAugmentation, FrequencyClassifierModel
    if checked.model is not None and not issubclass(checked.model, ours):
        problems.facts.append(
            f'model_type: {checked.model.__name__} attacks nothing; rsr defend makes a defended file of this one'
        )
    for look in (_look_at_validation, _look_at_machine, _look_at_rates, _look_at_logging, _look_at_vgg):
        look(opt, problems)
    if checked.model is not None and degrades(opt, checked.model):
        _look_at_patch(opt, problems)


def describe_weights(opt: dict[str, Any], checked: Checked, problems: Problems) -> None:
    """Note which entry of each weight file is taken, and whether all of it is."""
    for name, net in checked.networks.items():
        where, label = f'path.pretrain_{name}', name[len('network_') :]
        if (
            problems.sound(where, f'path.param_key_{label}', 'path.resume_state')
            and opt['path'].get(f'pretrain_{name}') is not None
            and opt['path'].get('resume_state') is None
        ):
            with problems.noted(f'{where}: '):
                _describe_file(opt, label, net, problems)


def _describe_file(opt: dict[str, Any], label: str, net: torch.nn.Module, problems: Problems) -> None:
    path, wanted = opt['path'][f'pretrain_network_{label}'], opt['path'].get(f'param_key_{label}', 'params')
    strict = opt['path'].get(f'strict_load_{label}', True)
    there = [entry for entry in entries(path) if entry in ('params', 'params_ema', wanted)]
    taken = wanted if wanted in there else 'params' if 'params' in there else None
    problems.facts.append(
        f'path.pretrain_network_{label}: {path} has {" and ".join(there) or "one state dict"}'
        f'{f", {taken} is taken" if len(there) > 1 else ""}'
        f'{f"; it fits {type(net).__name__}" if strict else ""}'
    )
    if not strict:
        _look_at_fit(net, load_state(path, taken), f'path.strict_load_{label}: {path}', problems)
    if taken is not None and taken != wanted:
        problems.warnings.append(
            f'path.param_key_{label}: {wanted} is not in {path}, and BasicSR takes {taken}; write {taken}'
        )
    elif taken == 'params' and 'params_ema' in there:
        average = (
            ', while the moving average begins with params_ema'
            if opt['is_train'] and label == 'g' and opt['train'].get('ema_decay')
            else ''
        )
        problems.warnings.append(
            f'path.param_key_{label}: params is taken{average}; params_ema is there too, and usually the better one'
        )


def _look_at_fit(net: torch.nn.Module, state: Mapping[str, torch.Tensor], where: str, problems: Problems) -> None:
    """With ``strict_load: false`` BasicSR leaves out what does not fit."""
    own, state = net.state_dict(), under_own_names(net, without_wrapper(state))
    fitting = sum(key in own and own[key].shape == value.shape for key, value in state.items())
    sentence = f'{where} has {len(state)} tensors, of which {fitting} fit {type(net).__name__}'
    if not fitting:
        problems.append(f'{sentence}; name the weights of this network')
    elif fitting < len(state):
        problems.warnings.append(f'{sentence}; the others are left out')


def _look_at_folder(opt: dict[str, Any], problems: Problems) -> None:
    """BasicSR renames an existing folder of the same name."""
    if not problems.sound('name', 'path'):
        return
    kind = 'experiments' if opt['is_train'] else 'results'
    folder = opt['path'][f'{kind}_root']
    if has_writer(Path(folder)):
        problems.append(
            f'name: {kind}/{opt["name"]} belongs to a run that still goes on; wait for its end, or write another name'
        )
    elif osp.isdir(folder) and not opt['path'].get('resume_state'):
        remedy = '; write another name, or go on with --auto_resume' if opt['is_train'] else ''
        problems.warnings.append(
            f'name: {kind}/{opt["name"]} exists; BasicSR will rename it to {opt["name"]}_archived_TIME{remedy}'
        )


def _look_at_validation(opt: dict[str, Any], problems: Problems) -> None:
    if not problems.there('datasets', 'val'):
        return
    phases = [phase for phase in opt['datasets'] if str(phase).startswith('val')]
    if not phases and opt.get('val') is None:
        problems.warnings.append(
            'val: there is no validation, so nothing shows the effect on clean images before the end; '
            'add datasets.val and val'
        )
    elif not phases:
        problems.warnings.append('val: there is no data set to validate with; add datasets.val')
    elif opt.get('val') is None:
        problems.warnings.append(f'datasets.{phases[0]}: no block val uses it; add one')
    names = [opt['datasets'][phase].get('name') for phase in phases if problems.there(f'datasets.{phase}')]
    for name in {str(name) for name in names if names.count(name) > 1}:
        problems.warnings.append(
            f'datasets: several data sets have the name {name}, and share their best results; write others'
        )


def _look_at_machine(opt: dict[str, Any], problems: Problems) -> None:
    if problems.sound('num_gpu') and torch.cuda.is_available():
        if opt['num_gpu'] == 0:
            problems.warnings.append('num_gpu: 0 trains on the CPU, and there is a GPU; write auto')
        elif opt['num_gpu'] > torch.cuda.device_count():
            problems.append(f'num_gpu: {opt["num_gpu"]}, but there are {torch.cuda.device_count()} here; write auto')
    where, cores = 'datasets.train.num_worker_per_gpu', os.cpu_count() or 1
    if problems.sound(where, 'datasets.train.type') and opt['datasets']['train']['num_worker_per_gpu'] > cores:
        problems.warnings.append(
            f'{where}: {opt["datasets"]["train"]["num_worker_per_gpu"]} processes for {cores} '
            f'cores; write {cores} or less'
        )


def _look_at_rates(opt: dict[str, Any], problems: Problems) -> None:
    if not problems.there('train'):
        return
    train = opt['train']
    for label in ('g', 'd'):
        if (
            problems.sound(f'train.optim_{label}', 'path')
            and train.get(f'optim_{label}')
            and opt['path'].get(f'pretrain_network_{label}')
            and train[f'optim_{label}']['lr'] > _HIGHEST_FINETUNING_RATE
        ):
            problems.warnings.append(
                f'train.optim_{label}.lr: {train[f"optim_{label}"]["lr"]:g} is high for weights '
                f'that are trained already; {_HIGHEST_FINETUNING_RATE / 2:g} is usual'
            )
    if problems.sound('train.ema_decay') and train.get('ema_decay') == 1:
        problems.warnings.append('train.ema_decay: 1 never lets the moving average move; write 0.999')
    if problems.sound('train.scheduler', 'train.total_iter'):
        late = [
            step
            for step in train['scheduler'].get('milestones') or ()
            if isinstance(step, (int, float)) and step > train['total_iter']
        ]
        if late:
            problems.warnings.append(
                f'train.scheduler.milestones: {late[0]} is never reached, since the training ends '
                f'at {train["total_iter"]}'
            )
    if (
        problems.sound('logger.save_checkpoint_freq', 'logger', 'train.total_iter')
        and opt['logger']['save_checkpoint_freq'] > train['total_iter']
    ):
        problems.warnings.append(
            f'logger.save_checkpoint_freq: {opt["logger"]["save_checkpoint_freq"]} is more than '
            f'total_iter, {train["total_iter"]}: nothing is saved before the end'
        )


def _look_at_logging(opt: dict[str, Any], problems: Problems) -> None:
    """BasicSR imports its loggers only after it made the experiment's folder."""
    if not problems.sound('logger', 'name') or 'debug' in opt['name']:
        return
    project = (opt['logger'].get('wandb') or {}).get('project')
    if opt['logger']['use_tb_logger']:
        _need('torch.utils.tensorboard', 'logger.use_tb_logger: true', 'tensorboard', problems)
    elif project is not None:
        problems.append('logger.wandb: BasicSR wants use_tb_logger: true beside it')
    if project is not None:
        _need('wandb', 'logger.wandb.project', 'wandb', problems)


def _need(module: str, where: str, package: str, problems: Problems) -> None:
    with problems.noted():
        try:
            importlib.import_module(module)
        except Exception as error:  # a broken installation raises anything
            raise OptionsError(
                f'{where} needs the package {package}, which cannot be imported ({error}); run pip '
                f'install {package}, or leave the key out'
            ) from None


def _look_at_vgg(opt: dict[str, Any], problems: Problems) -> None:
    if not problems.sound('train.perceptual_opt') or not opt['train'].get('perceptual_opt'):
        return
    kind = opt['train']['perceptual_opt'].get('vgg_type', 'vgg19')
    if opt['train']['perceptual_opt'].get('type') != 'PerceptualLoss' or osp.isfile(vgg_arch.VGG_PRETRAIN_PATH):
        return
    url = torchvision.models.get_model_weights(kind).DEFAULT.url
    if not osp.isfile(osp.join(torch.hub.get_dir(), 'checkpoints', osp.basename(url))):
        problems.warnings.append(
            f'train.perceptual_opt: {kind} will be downloaded at the start (0.5 GB); where there '
            f'is no internet, put {url} into {osp.join(torch.hub.get_dir(), "checkpoints")}'
        )


def _look_at_patch(opt: dict[str, Any], problems: Problems) -> None:
    if not problems.sound('gt_size', 'datasets.train.type'):
        return
    dataset = opt['datasets']['train']
    if dataset['type'] == 'RealESRGANDataset' and dataset.get('gt_size', opt['gt_size']) != opt['gt_size']:
        problems.warnings.append(
            f'datasets.train.gt_size: {dataset["gt_size"]} is not read; the patches have the '
            f'gt_size of the top level, {opt["gt_size"]}'
        )
    if problems.sound('datasets.train.batch_size_per_gpu', 'num_gpu', 'queue_size') and opt.get(
        'queue_size', 180
    ) < 2 * batch_size(opt):
        problems.warnings.append(
            f'queue_size: {opt.get("queue_size", 180)} holds one batch, whose images share '
            'their degradations; write 180 or so'
        )


def describe_gate(net: DefenseMixin, sketch: DefenseMixin, size: int) -> list[str]:
    """What decides in a defended network, and its masks for an image of size x size pixels.

    Args:
        net: the network.
        sketch: its copy on the device meta.
        size: in pixels.
    """
    defense = net.defense
    threshold = defense.threshold_in_effect.item()
    who = f'; {type(defense.classifier).__name__}, {defense.classifier.origin}, threshold {threshold:.4g}'
    return [f'network_g.defense.gate: {defense.gate}{who if defense.gate in ("classifier", "soft") else ""}'] + [
        f'mask {number}, {place.point}: {place.module or "the image"}, {" x ".join(map(str, place.shape))}'
        for number, place in enumerate(sketch.mask_places(size, size), start=1)
    ]
