"""The check of a whole options file, before anything is built or written."""

from __future__ import annotations

import inspect
import os.path as osp
import re
from typing import Mapping

import torch
import yaml
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.compat import SafeOrderedLoader
from rsr_basicsr.errors import OptionsError
from rsr_basicsr.models.attack_augmentation import AttackAugmentation
from rsr_basicsr.options.blocks import ATTACK, CLASSIFIER_OPT, DEFENSE, OPTIM_CLASSIFIER
from rsr_basicsr.options.schema import nearest, parse_block
from rsr_basicsr.weights import WEIGHTS, load_state

_REQUIRED = ('name', 'model_type', 'num_gpu', 'datasets', 'network_g', 'path')
_REQUIRED_STAGE = {'train': ('train', 'logger'), 'test': ('val',)}


def read_options(path: str, stage: str) -> dict:
    """Read an options file far enough to know that BasicSR can parse it.

    Raises:
        OptionsError: no such file, not YAML, a tag that would run code, or a section missing.
    """
    if not osp.isfile(path):
        raise OptionsError(f'-opt {path}: no such file')
    try:
        with open(path, encoding='utf-8') as file:
            opt = yaml.load(file, Loader=SafeOrderedLoader)
    except yaml.constructor.ConstructorError as error:
        raise OptionsError(f'-opt {path}: {error.problem}; only plain YAML values are read') from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionsError(f'-opt {path} is not a YAML file: {" ".join(str(error).split())}') from None
    if not isinstance(opt, Mapping):
        raise OptionsError(f'-opt {path} holds no options')
    for section in (*_REQUIRED, *_REQUIRED_STAGE[stage]):
        if section not in opt:
            raise OptionsError(f'-opt {path}: the key {section!r} is missing{_near_miss(section, opt)}')
    for section in ('datasets', 'network_g', 'path', *_REQUIRED_STAGE[stage]):
        if not isinstance(opt[section], Mapping):
            raise OptionsError(f'-opt {path}: {section} must be a block of keys, got {opt[section]!r}')
    return opt


def check_options(opt: dict) -> None:
    """Check parsed BasicSR options and put our blocks into their final types, in place.

    Raises:
        OptionsError: one sentence with the key, the value and the remedy.
    """
    _check_run(opt)
    model = _registered(MODEL_REGISTRY, opt['model_type'], 'model_type')
    for name in [key for key in opt if key.startswith('network_')]:
        _check_network(opt, name)
    for phase, dataset in opt['datasets'].items():
        _check_dataset(dataset, f'datasets.{phase}')
    if opt['is_train']:
        _check_training(opt, model)
    _check_weights(opt)


def _check_run(opt):
    if not re.fullmatch(r'[^/\\]+', str(opt['name'])) or opt['name'] in ('.', '..'):
        raise OptionsError(f'name: {opt["name"]!r} must be a plain name, it becomes a folder of experiments/')
    if not isinstance(opt['num_gpu'], int) or opt['num_gpu'] < 0:
        raise OptionsError(f'num_gpu: expected auto or a whole number, got {opt["num_gpu"]!r}')
    if opt['num_gpu'] > 0 and not torch.cuda.is_available():
        raise OptionsError(f'num_gpu: {opt["num_gpu"]}, but torch sees no GPU here; write num_gpu: auto or 0')
    for name, metric in ((opt.get('val') or {}).get('metrics') or {}).items():
        _registered(METRIC_REGISTRY, metric.get('type'), f'val.metrics.{name}.type')


def _check_network(opt, name):
    options = opt[name]
    cls = _registered(ARCH_REGISTRY, options.get('type'), f'{name}.type')
    defended = issubclass(cls, DefenseMixin)
    backbone = cls.__mro__[2] if defended else cls
    parameters = list(inspect.signature(backbone).parameters.values())
    known = [p.name for p in parameters] + ['type'] + (['defense'] if defended else [])
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for key in options:
        if key == 'defense' and not defended:
            raise OptionsError(f'{name}: {cls.__name__} takes no defense; write type: Defended{cls.__name__}')
        if key not in known and not takes_any:
            raise OptionsError(f'{name}: unknown key {key!r}{nearest(key, known)}')
    if defended:
        options['defense'] = parse_block(options.get('defense'), DEFENSE, f'{name}.defense')
        try:
            cls.chosen_points(options['defense'].get('points'))
        except ValueError as error:
            raise OptionsError(f'{name}.defense.points: {error}') from None


def _check_dataset(dataset, where):
    _registered(DATASET_REGISTRY, dataset.get('type'), f'{where}.type')
    for key in ('dataroot_gt', 'dataroot_lq', 'dataroot'):
        if dataset.get(key) is not None and not osp.isdir(osp.expanduser(dataset[key])):
            raise OptionsError(f'{where}.{key}: no such folder: {dataset[key]}')
    for key in ('meta_info', 'meta_info_file'):
        if dataset.get(key) is not None and not osp.isfile(dataset[key]):
            raise OptionsError(f'{where}.{key}: no such file: {dataset[key]}')
    if dataset.get('meta_info') is not None and (dataset.get('io_backend') or {}).get('type') == 'disk':
        with open(dataset['meta_info'], encoding='utf-8') as file:
            listed = [line.strip().split(' ')[0] for line in file if line.strip()]
        missing = next((p for p in listed if not osp.isfile(osp.join(dataset['dataroot_gt'], p))), None)
        if missing is not None or not listed:
            raise OptionsError(f'{where}.meta_info: {dataset["meta_info"]} lists '
                               + (f'{missing}, which is not in {dataset["dataroot_gt"]}' if listed else 'no picture'))


def _check_training(opt, model):
    train = opt['train']
    for key, value in train.items():
        if key.endswith('_opt') and isinstance(value, Mapping):
            _registered(LOSS_REGISTRY, value.get('type', 'ClassifierLoss'), f'train.{key}.type')
    if 'train' not in opt['datasets']:
        raise OptionsError('datasets: there is no train block')
    batch = opt['datasets']['train'].get('batch_size_per_gpu', 1) * max(1, 1 if opt['dist'] else opt['num_gpu'])
    if 'RealESR' in model.__name__ and opt.get('queue_size', 180) % batch:
        raise OptionsError(f'queue_size: {opt.get("queue_size", 180)} is not a multiple of the batch size {batch}')

    if not issubclass(model, AttackAugmentation):
        if 'attack' in opt:
            raise OptionsError(f'attack: model_type {opt["model_type"]} does not attack its pictures; write '
                               f'model_type: Defended{model.__name__}')
        return
    if 'attack' not in opt:
        raise OptionsError(f'model_type {opt["model_type"]} needs an attack block{_near_miss("attack", opt)}')
    opt['attack'] = parse_block(opt['attack'], ATTACK, 'attack')
    if not issubclass(ARCH_REGISTRY.get(opt['network_g']['type']), DefenseMixin):
        raise OptionsError(f'network_g.type: model_type {opt["model_type"]} trains defended networks; write '
                           f'Defended{opt["network_g"]["type"]}')
    train['optim_classifier'] = parse_block(train.get('optim_classifier'), OPTIM_CLASSIFIER, 'train.optim_classifier')
    train['classifier_opt'] = parse_block(train.get('classifier_opt'), CLASSIFIER_OPT, 'train.classifier_opt')


def _check_weights(opt):
    for key, path in opt['path'].items():
        if not key.startswith('pretrain_network') or path is None:
            continue
        name = osp.splitext(osp.basename(path))[0]
        if not osp.isfile(path):
            remedy = f'; fetch it with: rsr weights {name} -o {osp.dirname(path) or "."}' if name in WEIGHTS else ''
            raise OptionsError(f'path.{key}: no such file: {path}{remedy}')
        state = load_state(path)
        defense = opt[key[len('pretrain_'):]].get('defense') if key[len('pretrain_'):] in opt else None
        if defense is not None and not opt['is_train'] and defense.get('gate', 'classifier') == 'classifier' \
                and 'weights' not in defense['classifier'] and not any(k.startswith('defense.') for k in state):
            raise OptionsError(f'path.{key}: {path} is a plain backbone without a trained classifier; name one in '
                               'network_g.defense.classifier.weights, or set gate to always or never')


def _registered(registry, name, where):
    """The registered object of that name, as BasicSR would find it."""
    if name not in registry and f'{name}_basicsr' not in registry:
        known = [key[:-len('_basicsr')] if key.endswith('_basicsr') else key for key in registry.keys()]
        raise OptionsError(f'{where}: {name!r} is not registered{nearest(name, known)}')
    return registry.get(name if name in registry else f'{name}_basicsr')


def _near_miss(key, opt):
    known = [name for name in opt if nearest(key, [name]).startswith('; did')]
    return f'; did you mean {key!r} where it says {known[0]!r}?' if known else ''
