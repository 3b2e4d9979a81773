"""The check of a whole options file, before anything is built or written."""

from __future__ import annotations

import difflib
import os.path as osp
from typing import Mapping

import torch
import yaml
from basicsr.models import lr_scheduler
from basicsr.models.srgan_model import SRGANModel
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, MODEL_REGISTRY

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.attacks import ATTACKS, build_attack
from rsr_basicsr.checkpoints import check_checkpoint, newest_whole_state
from rsr_basicsr.errors import OptionsError, WeightsError
from rsr_basicsr.metrics.inputs import needs
from rsr_basicsr.models.attack_augmentation import SCHEDULE, USE_TORCHRUN, AttackAugmentation
from rsr_basicsr.models.frequency_classifier_model import FrequencyClassifierModel
from rsr_basicsr.options import host
from rsr_basicsr.options.adversarial_set import ADVERSARIAL_SET, check_adversarial_set
from rsr_basicsr.options.blocks import ATTACK, CLASSIFIER_OPT, CLASSIFIER_TRAIN, OPTIM_CLASSIFIER, TRAIN, VAL
from rsr_basicsr.options.metrics import check_metric
from rsr_basicsr.options.networks import check_network, check_source, check_tiles, check_weights
from rsr_basicsr.options.schema import (
    Key,
    block,
    check_call,
    names,
    nearest,
    parse_block,
    parse_open,
    registered,
    text,
)

#: Where a misspelt or misplaced key of ours would be ignored in silence.
_OURS = {'': ('attack', 'defense'), 'train': ('train_classifier', 'target', 'optim_classifier', 'classifier_opt'),
         'val': ('tile', 'tile_overlap', 'attack', 'panel_freq', 'guard')}


def read_options(path: str, stage: str) -> dict:
    """Read an options file far enough to know that BasicSR can parse it.

    Raises:
        OptionsError: no such file, not YAML, a tag that would run code, or a section missing or of the wrong type.
    """
    opt = load_options(path)
    host.check_sections(opt, stage)
    return opt


def read_network(path: str) -> torch.nn.Module:
    """Build ``network_g`` of an options file, whatever else the file holds, without its weights.

    Raises:
        OptionsError: as :func:`read_options` does, or the network cannot be built.
    """
    opt = load_options(path)
    parse_open(opt, {'network_g': Key(block, required=True), 'scale': host.RUN['scale']}, '')
    parse_open(opt['network_g'], {'type': Key(text, required=True)}, 'network_g')
    return check_network(opt, 'network_g')


def load_options(path: str) -> dict:
    """What an options file holds, plain values only.

    Raises:
        OptionsError: no such file, not YAML, or a tag that would run code.
    """
    if not osp.isfile(path):
        raise OptionsError(f'-opt {path}: no such file')
    try:
        with open(path, encoding='utf-8') as file:
            opt = yaml.load(file, Loader=yaml.SafeLoader)
    except yaml.constructor.ConstructorError as error:
        raise OptionsError(f'-opt {path}: {error.problem}; only plain YAML values are read') from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionsError(f'-opt {path} is not a YAML file: {" ".join(str(error).split())}') from None
    if not isinstance(opt, Mapping):
        raise OptionsError(f'-opt {path} holds no options')
    return opt


def check_options(opt: dict) -> None:
    """Check parsed BasicSR options and put our blocks into their final types, in place.

    Raises:
        OptionsError: one sentence with the key, the value and the remedy.
    """
    host.check_sections(opt, 'train' if opt['is_train'] else 'test')
    _check_strays(opt)
    model = registered(MODEL_REGISTRY, opt['model_type'], 'model_type')
    for phase, dataset in opt['datasets'].items():
        _check_dataset(dataset, f'datasets.{phase}')
    for name, metric in ((opt.get('val') or {}).get('metrics') or {}).items():
        check_metric(metric, f'val.metrics.{name}')
    _check_validation(opt, model)
    _check_given(opt, model)
    if opt['is_train']:
        _check_training(opt, model)
    networks = {name: check_network(opt, name) for name in opt if name.startswith('network_')}
    _check_devices(opt, networks['network_g'])
    if issubclass(model, AttackAugmentation) and (opt.get('val') or {}).get('tile'):
        check_tiles(networks['network_g'], opt['val']['tile'], opt['val']['tile_overlap'])
    _keep_start(opt)
    resumed = _check_resume(opt)
    if resumed:
        _check_start(opt)
    for name, net in networks.items():
        if not resumed:  # BasicSR then puts the resumed run's own files in the place of the pretrained ones
            check_weights(opt, name, net)


def _check_given(opt, model):
    """Whether the validation has the pictures that its metrics compare."""
    for name, metric in ((opt.get('val') or {}).get('metrics') or {}).items():
        if set(needs(metric)) <= {'img', 'img2'}:
            continue
        where = f'val.metrics.{name}: {metric["type"]} is for attacked pictures'
        if not issubclass(model, AttackAugmentation):
            raise OptionsError(f'{where}, which model_type {opt["model_type"]} does not make; write model_type: '
                               f'Defended{model.__name__}, or leave it out')
        if opt['val'].get('attack') is None:
            raise OptionsError(f'{where}; add a block val.attack, or leave it out')


def _check_strays(opt):
    for where, ours in _OURS.items():
        place = (opt.get(where) or {}) if where else opt
        for key in place:
            if key not in ours and difflib.get_close_matches(str(key), ours, cutoff=0.8):
                raise OptionsError(f'{where or "the options"}: unknown key {key!r}{nearest(key, ours)}')
    if 'defense' in opt:
        raise OptionsError('defense: this block belongs into network_g')


def _check_validation(opt, model):
    val = opt.get('val')
    if val is None:
        return
    if not issubclass(model, AttackAugmentation):
        for key in ('attack', 'panel_freq', 'guard'):
            if val.get(key) is not None:
                raise OptionsError(f'val.{key}: model_type {opt["model_type"]} does not know it; write model_type: '
                                   f'Defended{model.__name__}')
        return
    for theirs, ours in (('tile_size', 'tile'), ('tile_pad', 'tile_overlap')):  # Real-ESRGAN's names
        if theirs in val:
            raise OptionsError(f'val: unknown key {theirs!r}; did you mean {ours!r}?')
    parse_open(val, VAL, 'val')
    types = [metric.get('type') for metric in (val.get('metrics') or {}).values()]
    if val.get('attack') is not None:
        _check_buildable(val['attack'], 'val.attack')
        if not types:
            raise OptionsError('val.attack: there are no val.metrics to measure the attacked pictures by')
        if 'stability' in val['metrics']:
            raise OptionsError('val.metrics: stability is measured under val.attack anyway; give yours another name')
    if val.get('guard') is not None and opt['is_train']:
        if 'calculate_psnr' not in types:
            raise OptionsError('val.guard: it watches the first of val.metrics of type calculate_psnr, and there is '
                               'none')
        if opt['path'].get('pretrain_network_g') is None:
            raise OptionsError('val.guard: it compares with the weights that the training begins with; name them in '
                               'path.pretrain_network_g')
    # --debug has a val_freq of its own
    if opt['is_train'] and 'debug' not in opt['name'] and (val.get('panel_freq') or 0) % val['val_freq']:
        raise OptionsError(f'val.panel_freq: {val["panel_freq"]} is not a multiple of val_freq, {val["val_freq"]}; '
                           'panels are made when the validation runs')


def _check_devices(opt, net):
    if opt['num_gpu'] > 0 and not torch.cuda.is_available():
        raise OptionsError(f'num_gpu: {opt["num_gpu"]}, but torch sees no GPU here; write num_gpu: auto or 0')
    if isinstance(net, DefenseMixin) and opt['num_gpu'] > 1 and not opt.get('dist'):
        raise OptionsError(f'num_gpu: {opt["num_gpu"]} without a launcher; {USE_TORCHRUN}')


def _keep_start(opt):
    """Note the weights that a training begins with, since BasicSR replaces their path when it resumes."""
    path = opt['path'].get('pretrain_network_g')
    if not opt['is_train'] or path is None:
        if opt['is_train'] and opt['train'].get('target') == 'pretrained':
            raise OptionsError("train.target: pretrained needs the weights whose output is the target; name them in "
                               'path.pretrain_network_g')
        return
    # BasicSR fills the moving average, which is what it validates, from params_ema where the file has it.
    key = 'params_ema' if opt['train'].get('ema_decay', 0) else opt['path'].get('param_key_g', 'params')
    opt['train']['start'] = {'weights': osp.expanduser(path), 'key': key,
                             'strict': opt['path'].get('strict_load_g', True)}


def _check_start(opt):
    """Whether the weights that the resumed training began with are still there; not every option needs them."""
    start = opt['train'].get('start')
    if start is not None and not osp.isfile(start['weights']):
        if opt['train'].get('target') == 'pretrained':
            raise OptionsError(f'path.pretrain_network_g: no such file: {start["weights"]}; train.target: pretrained '
                               'needs it in a resumed training too')
        del opt['train']['start']


def _check_dataset(dataset, where):
    registered(DATASET_REGISTRY, dataset['type'], f'{where}.type')
    if dataset['type'] == 'AdversarialPicturesDataset':
        own = {key: value for key, value in dataset.items() if key in ADVERSARIAL_SET and key != 'dataroot'}
        checked = check_adversarial_set(own, where)
        dataset.update({key: value for key, value in checked.items() if key != 'photos'})
        dataset['photos'] = names(dataset['photos'])
        return
    for key in ('dataroot', 'dataroot_extra', 'dataroot_gt', 'dataroot_lq'):
        if dataset.get(key) is None:
            continue
        folders = [osp.expanduser(folder) for folder in names(dataset[key])]
        for folder in folders:
            if not osp.isdir(folder):
                raise OptionsError(f'{where}.{key}: no such folder: {folder}')
        dataset[key] = folders[0] if len(folders) == 1 else folders
    for key in ('meta_info', 'meta_info_file'):
        if dataset.get(key) is not None and not osp.isfile(dataset[key]):
            raise OptionsError(f'{where}.{key}: no such file: {dataset[key]}')
    if dataset.get('meta_info') is not None and dataset['io_backend']['type'] == 'disk':
        _check_listed(dataset, where)


def _check_listed(dataset, where):
    """The pictures of a list are there: of ``name size`` the first word, of pairs ``gt, lq`` both."""
    with open(dataset['meta_info'], encoding='utf-8') as file:
        lines = [line.strip() for line in file if line.strip()]
    if not lines:
        raise OptionsError(f'{where}.meta_info: {dataset["meta_info"]} lists no picture')
    paired = dataset.get('dataroot_lq') is not None and dataset['type'] == 'RealESRGANPairedDataset'
    for line in lines:
        names = line.split(', ') if paired else line.split(' ')[:1]
        if paired and len(names) != 2:
            raise OptionsError(f'{where}.meta_info: {dataset["meta_info"]} has the line {line!r}, expected "gt, lq"')
        for folder, name in zip(('dataroot_gt', 'dataroot_lq'), names):
            if not osp.isfile(osp.join(dataset[folder], name)):
                raise OptionsError(f'{where}.meta_info: {dataset["meta_info"]} lists {name}, which is not in '
                                   f'{dataset[folder]}')


def _check_training(opt, model):
    if 'train' not in opt['datasets']:
        raise OptionsError('datasets: there is no train block')
    _check_host_model(opt, model)
    _check_attack(opt, model)
    for key, value in opt['train'].items():
        if key.endswith('_opt') and value is not None:
            parse_open(opt['train'], {key: Key(block)}, 'train')
            _check_arguments(LOSS_REGISTRY, value, f'train.{key}')
    for key in ('optim_g', 'optim_d'):
        if key in opt['train']:
            check_call(torch.optim.Adam, opt['train'][key], f'train.{key}', given=1)
    scheduler = opt['train']['scheduler']
    # BasicSR takes the first name for the second.
    name = scheduler['type'].replace('MultiStepLR', 'MultiStepRestartLR')
    check_call(getattr(lr_scheduler, name), scheduler, 'train.scheduler', given=1)
    periods, weights = scheduler.get('periods'), scheduler.get('restart_weights', (1,))
    if isinstance(periods, list) and isinstance(weights, (list, tuple)) and len(periods) != len(weights):
        raise OptionsError(f'train.scheduler.restart_weights: {len(weights)} for {len(periods)} periods; '
                           'there is one for each')
    if issubclass(model, FrequencyClassifierModel):
        _check_classifier_training(opt)
    elif not any(opt['train'].get(key) for key in ('pixel_opt', 'perceptual_opt')):
        raise OptionsError('train: there is neither pixel_opt nor perceptual_opt')


def _check_classifier_training(opt):
    parse_open(opt['train'], CLASSIFIER_TRAIN, 'train')
    calibration = opt['train'].get('calibration')
    for number, dataset in enumerate(calibration['datasets'] if calibration else (), start=1):
        where = f'train.calibration.datasets, number {number}'
        host.check_dataset({**dataset, 'name': 'calibration'}, where, 'val')
        _check_dataset(dataset, where)


def _check_host_model(opt, model):
    """What BasicSR's model classes read from the options without asking whether it is there."""
    if issubclass(model, SRGANModel):
        parse_open(opt, {'network_d': Key(block, required=True)}, '')
        parse_open(opt['train'], {'optim_d': Key(block, required=True), 'gan_opt': Key(block, required=True)}, 'train')
    # By name, since the package realesrgan has classes of its own.
    kinds = {cls.__name__ for cls in model.__mro__} & {'RealESRNetModel', 'RealESRGANModel'}
    if 'RealESRGANModel' in kinds:
        parse_open(opt, host.USM_OF_GAN, '')
    if kinds and opt.get('high_order_degradation', True):
        parse_open(opt, host.DEGRADATIONS, '')
        if 'RealESRNetModel' in kinds:
            parse_open(opt, host.USM_OF_NET, '')
        batch = opt['datasets']['train']['batch_size_per_gpu'] * (1 if opt.get('dist') else max(1, opt['num_gpu']))
        if opt.get('queue_size', 180) % batch:
            raise OptionsError(f'queue_size: {opt.get("queue_size", 180)} is not a multiple of the batch size {batch}')


def _check_attack(opt, model):
    train = opt['train']
    if not issubclass(model, AttackAugmentation):
        if opt.get('attack') is not None:
            raise OptionsError(f'attack: model_type {opt["model_type"]} does not attack its pictures; write '
                               f'model_type: Defended{model.__name__}')
        return
    if 'attack' not in opt:
        raise OptionsError(f'model_type {opt["model_type"]} needs an attack block')
    opt['attack'] = parse_block(opt['attack'], ATTACK, 'attack')
    network = registered(ARCH_REGISTRY, opt['network_g']['type'], 'network_g.type')
    if not issubclass(network, DefenseMixin):
        raise OptionsError(f'network_g.type: model_type {opt["model_type"]} trains defended networks; write '
                           f'Defended{network.__name__}')
    _check_buildable({key: value for key, value in opt['attack'].items() if key not in SCHEDULE}, 'attack')
    if opt['attack']['warm_start'] and not ATTACKS[opt['attack']['type']].takes_start:
        raise OptionsError(f'attack.warm_start: {opt["attack"]["type"]} has a start of its own; leave it out')
    parse_open(train, TRAIN, 'train')
    train['optim_classifier'] = parse_block(train.get('optim_classifier'), OPTIM_CLASSIFIER, 'train.optim_classifier')
    train['classifier_opt'] = parse_block(train.get('classifier_opt'), CLASSIFIER_OPT, 'train.classifier_opt')


def _check_buildable(attack, where):
    if not _knows_its_steps(attack):  # each of them costs about as much as the training itself
        raise OptionsError(f"{where}: the key 'steps' is missing")
    try:
        build_attack({**attack, 'eps': 1}, check_source)
    except ValueError as error:
        raise OptionsError(f'{where}: {error}') from None


def _knows_its_steps(attack, given=False):
    """Whether each attack of a block, inside it too, is told its number of steps if it takes one."""
    given = given or 'steps' in attack
    if attack['type'] == 'Transfer':
        return _knows_its_steps({'type': 'PGD', **attack.get('attack', {})}, given)
    if attack['type'] == 'WorstOf':
        return all(_knows_its_steps({'type': 'PGD', **inner}, given) for inner in attack.get('attacks', ()))
    return given or 'steps' not in ATTACKS[attack['type']].parameters()


def _check_resume(opt):
    """Whether a run will be resumed; a training state that is named must be there and whole."""
    if not opt['is_train']:
        return False
    if opt.get('auto_resume'):
        # Found once, since it takes reading every file of a checkpoint.
        opt['path']['resume_state'], opt['auto_resume'] = newest_whole_state(opt), False
        return opt['path']['resume_state'] is not None
    state = opt['path'].get('resume_state')
    if state is None:
        return False
    if not osp.isfile(state):
        raise OptionsError(f'path.resume_state: no such file: {state}')
    try:
        check_checkpoint(opt, state)
    except WeightsError as error:
        raise OptionsError(f'path.resume_state: {error} (BasicSR takes the networks of a state from '
                           f'{opt["path"]["models"]})') from None
    return True


def _check_arguments(registry, options, where):
    """Check a block with ``type`` by what is registered under it."""
    if not isinstance(options.get('type'), str):
        raise OptionsError(f"{where}: the key 'type' is missing")
    check_call(registered(registry, options['type'], f'{where}.type'), options, where)
