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
from rsr_basicsr.errors import OptionsError, WeightsError
from rsr_basicsr.models.attack_augmentation import AttackAugmentation
from rsr_basicsr.options.blocks import ATTACK, CLASSIFIER_OPT, DEFENSE, OPTIM_CLASSIFIER
from rsr_basicsr.options.schema import nearest, parse_block
from rsr_basicsr.weights import WEIGHTS, entries, load_state

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
    networks = {name: _check_network(opt[name], name) for name in opt if name.startswith('network_')}
    for phase, dataset in opt['datasets'].items():
        _check_dataset(dataset, f'datasets.{phase}')
    if opt['is_train']:
        _check_training(opt, model)
    for name, net in networks.items():
        _check_weights(opt, name, net)


def _check_run(opt):
    if not re.fullmatch(r'[^/\\]+', str(opt['name'])) or opt['name'] in ('.', '..'):
        raise OptionsError(f'name: {opt["name"]!r} must be a plain name, it becomes a folder of experiments/')
    if not isinstance(opt['num_gpu'], int) or opt['num_gpu'] < 0:
        raise OptionsError(f'num_gpu: expected auto or a whole number, got {opt["num_gpu"]!r}')
    if opt['num_gpu'] > 0 and not torch.cuda.is_available():
        raise OptionsError(f'num_gpu: {opt["num_gpu"]}, but torch sees no GPU here; write num_gpu: auto or 0')
    for name, metric in ((opt.get('val') or {}).get('metrics') or {}).items():
        _registered(METRIC_REGISTRY, metric.get('type'), f'val.metrics.{name}.type')


def _check_network(options, where):
    """Check the options of a network by what its class takes, and return the network built from them."""
    cls = _registered(ARCH_REGISTRY, options.get('type'), f'{where}.type')
    defended = issubclass(cls, DefenseMixin)
    parameters = inspect.signature(cls.backbone if defended else cls).parameters.values()
    known = [p.name for p in parameters] + ['type'] + (['defense'] if defended else [])
    for key in options:
        if key == 'defense' and not defended:
            raise OptionsError(f'{where}: {cls.__name__} takes no defense; write type: Defended{cls.__name__}')
        if key not in known and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            raise OptionsError(f'{where}: unknown key {key!r}{nearest(key, known)}')
    if defended:
        options['defense'] = parse_block(options.get('defense'), DEFENSE, f'{where}.defense')
    try:
        with torch.random.fork_rng(devices=[]):  # the training must start from the same numbers as without a check
            return cls(**{key: value for key, value in options.items() if key != 'type'})
    except (WeightsError, ValueError, TypeError, RuntimeError) as error:
        raise OptionsError(f'{where}: {cls.__name__} cannot be built: {" ".join(str(error).split())}') from None


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


def _check_weights(opt, network, net):
    """Check that the file of pretrained weights is there, whole, and fits the network."""
    label = network[len('network_'):]
    where, path = f'path.pretrain_{network}', opt['path'].get(f'pretrain_{network}')
    if path is None:
        return
    name = osp.splitext(osp.basename(path))[0]
    if not osp.isfile(path):
        remedy = f'; fetch it with: rsr weights {name} -o {osp.dirname(path) or "."}' if name in WEIGHTS else ''
        raise OptionsError(f'{where}: no such file: {path}{remedy}')
    key = opt['path'].get(f'param_key_{label}', 'params')
    try:
        state = load_state(path, key if key is None or key in entries(path) else 'params')
    except WeightsError as error:
        raise OptionsError(f'{where}: {error}; see path.param_key_{label}') from None
    if opt['path'].get(f'strict_load_{label}', True):
        _check_fit(net, state, f'{where}: {path}')
    defense = getattr(net, 'defense', None)
    if defense is not None and not opt['is_train'] and defense.gate == 'classifier' \
            and 'weights' not in opt[network]['defense']['classifier'] \
            and not any(key.startswith('defense.') for key in state):
        raise OptionsError(f'{where}: {path} is a plain backbone without a trained classifier; name one in '
                           f'{network}.defense.classifier.weights, or set gate to always or never')


def _check_fit(net, state, where):
    own = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    found = {key.replace('module.', '', 1) if key.startswith('module.') else key: tuple(value.shape)
             for key, value in state.items()}
    if not any(key.startswith('defense.') for key in found):
        own = {key: shape for key, shape in own.items() if not key.startswith('defense.')}
    for key in [*own, *found]:
        if own.get(key) != found.get(key):
            raise OptionsError(f'{where} holds weights of another network: {key} is {found.get(key, "missing")} in the '
                               f'file and {own.get(key, "missing")} in {type(net).__name__} as the options build it')


def _registered(registry, name, where):
    """The registered object of that name, as BasicSR would find it."""
    if name not in registry and f'{name}_basicsr' not in registry:
        known = [key[:-len('_basicsr')] if key.endswith('_basicsr') else key for key in registry.keys()]
        raise OptionsError(f'{where}: {name!r} is not registered{nearest(name, known)}')
    return registry.get(name if name in registry else f'{name}_basicsr')


def _near_miss(key, opt):
    known = [name for name in opt if nearest(key, [name]).startswith('; did')]
    return f'; did you mean {key!r} where it says {known[0]!r}?' if known else ''
