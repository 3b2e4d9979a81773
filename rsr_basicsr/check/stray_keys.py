"""Finds keys that nothing reads: misspelt, misplaced or left over.

BasicSR ignores unknown keys, so a misspelt key silently becomes its default. A user's own classes may read more keys
than are listed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rsr_basicsr.data.adversarial_set_options import AdversarialSetOptions
from rsr_basicsr.models.attack_augmentation import AttackAugmentation
from rsr_basicsr.options import blocks, host_blocks
from rsr_basicsr.options.calls import ALIKE
from rsr_basicsr.options.degradation_blocks import DegradedImageOptions
from rsr_basicsr.options.messages import Problems
from rsr_basicsr.options.parsing import Block
from rsr_basicsr.utils.hints import did_you_mean, nearest


def _keys(model: type[Block]) -> tuple[str, ...]:
    return tuple(model.model_fields)


#: What BasicSR's parser and our check add to the options
_ADDED = ('is_train', 'dist', 'rank', 'world_size', 'auto_resume', 'root_path')
_TOP = (*_keys(host_blocks.Training), 'find_unused_parameters', *_ADDED)
_DEGRADED = (*_keys(host_blocks.DegradationsOfTraining), 'high_order_degradation')
_PATH = (
    'resume_state',
    'ignore_resume_networks',
    'experiments_root',
    'models',
    'training_states',
    'log',
    'visualization',
    'results_root',
)
_OF_NETWORK = ('pretrain_network', 'param_key', 'strict_load')
#: ``make_exp_dirs`` makes no folder for keys of ``path`` that contain one of these words
_PATH_LEFT_ALONE = ('strict_load', 'pretrain_network', 'resume', 'param_key')
_VAL = (*_keys(host_blocks.ValWhileTraining), 'pbar', 'suffix')
_WANDB = ('project', 'resume_id')
#: Keys that a class reads beside those of its bases: at the top level, and in ``train``
_OF_MODEL: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    'BaseModel': (_TOP, _keys(host_blocks.Train)),
    'SRModel': ((), ('pixel_opt', 'perceptual_opt')),
    'SRGANModel': ((), ('optim_d', 'gan_opt', 'ldl_opt', 'net_d_iters', 'net_d_init_iters')),
    'RealESRNetModel': ((*_DEGRADED, *_keys(host_blocks.UsmOfNet)), ()),
    'RealESRGANModel': ((*_DEGRADED, *_keys(host_blocks.UsmOfGan)), ()),
    'AttackAugmentation': (('attack',), (*_keys(blocks.TrainOptions), 'start')),
    'FrequencyClassifierModel': ((), (*_keys(blocks.ClassifierTrainOptions), 'classifier_opt')),
    'StartNetwork': ((), ()),
    **dict.fromkeys(('AttackedBatches', 'RobustValidation', 'ImageValidation', 'WholeCheckpoints'), ((), ())),
    **dict.fromkeys(('ESRGANModel', 'SwinIRModel', 'CDCModel'), ((), ())),
}
#: Keys of any data set. BasicSR's own options files have ``use_shuffle`` and ``gt_size`` even where nothing reads them.
_DATASET = (
    'name',
    'type',
    'phase',
    'scale',
    'io_backend',
    *_keys(host_blocks.Loader),
    'dataset_enlarge_ratio',
    'prefetch_mode',
    'num_prefetch_queue',
    'pin_memory',
    'use_shuffle',
    'gt_size',
)
_SINGLE = ('meta_info_file', 'mean', 'std', 'color')
_PAIRED = ('dataroot_gt', 'dataroot_lq', 'filename_tmpl', 'mean', 'std', *_keys(host_blocks.PairedTraining))
_OF_DATASET = {
    'PairedImageDataset': (*_PAIRED, 'meta_info_file', 'color'),
    'RealESRGANPairedDataset': (*_PAIRED, 'meta_info'),
    'RealESRGANDataset': ('meta_info', *_keys(host_blocks.RealESRGANDataset)),
    'SingleImageDataset': ('dataroot_lq', *_SINGLE),
    'ReducedImageDataset': ('dataroot_gt', 'crop', *_SINGLE),
    'DegradedImageDataset': ('meta_info_file', *_keys(DegradedImageOptions)),
    'AdversarialSetDataset': _keys(host_blocks.AdversarialSetDataset),
    'AdversarialImagesDataset': (*_keys(host_blocks.AdversarialImagesDataset), *_keys(AdversarialSetOptions)),
}
#: Keys that this package adds, or that belong elsewhere: a similar key is always a misspelling of them
_OURS = {
    '': ('attack', 'defense'),
    'train': _keys(blocks.TrainOptions),
    'val': _keys(blocks.ValOptions),
}


class _Block(NamedTuple):
    """A block of an options file.

    Args:
        where: its place, empty for the top level.
        options: the block.
        known: the keys that are read.
        sure: whether no other key is read.
        elsewhere: the keys that other classes read there; BasicSR ignores one that is left over of them.
    """

    where: str
    options: Mapping[str, Any]
    known: tuple[str, ...]
    sure: bool
    elsewhere: tuple[str, ...] = ()


def check_strays(opt: Mapping[str, Any], model: type | None, problems: Problems) -> None:
    """Note keys that nothing reads: an error where one is similar to a known key, else a warning.

    Args:
        opt: options as BasicSR's parser returns them; they may be broken.
        model: the class of ``model_type``, None where there is none.
        problems: where they are noted.
    """
    for block in _blocks(opt, model):
        _check_block(block, problems)
    if opt.get('defense') is not None:
        problems.append('defense: this block belongs into network_g')
    _check_path(opt, problems)


def _blocks(opt: Mapping[str, Any], model: type | None) -> Iterator[_Block]:
    top, train, sure = _read_by(model)
    networks = tuple(key for key in opt if isinstance(key, str) and key.startswith('network_'))
    all_top, all_train, _ = _read_by(None)
    yield _Block('', opt, (*top, *networks, 'network_g', 'network_d'), sure, all_top)
    attacked = model is not None and issubclass(model, AttackAugmentation)
    val = (*_VAL, *((*_keys(blocks.ValOptions), *host_blocks.TILES) if attacked else ()))
    for where, known, certain, elsewhere in (
        ('train', train, sure, all_train),
        ('val', val, sure, ()),
        ('dist_params', _keys(host_blocks.DistParams), True, ()),
        ('logger', _keys(host_blocks.Logger), True, ()),
        ('logger.wandb', _WANDB, True, ()),
    ):
        block: Any = opt
        for key in where.split('.'):
            block = block.get(key) if isinstance(block, Mapping) else None
        if isinstance(block, Mapping):
            yield _Block(where, block, known, certain, elsewhere)
    datasets = opt.get('datasets')
    for phase, dataset in datasets.items() if isinstance(datasets, Mapping) else ():
        kind = dataset.get('type') if isinstance(dataset, Mapping) else None
        if isinstance(kind, str):
            yield _Block(f'datasets.{phase}', dataset, (*_DATASET, *_OF_DATASET.get(kind, ())), kind in _OF_DATASET)


def _read_by(model: type | None) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """The keys of the top level and of ``train`` that a model class reads, and whether these are all."""
    # The defended versions read nothing of their own.
    classes = [
        cls.__name__
        for cls in (model.__mro__[:-1] if model is not None else ())
        if cls.__bases__[0] is not AttackAugmentation
    ]
    read = [_OF_MODEL.get(name, ((), ())) for name in classes] or list(_OF_MODEL.values())
    sure = bool(classes) and all(name in _OF_MODEL for name in classes)
    return tuple(key for top, _ in read for key in top), tuple(key for _, train in read for key in train), sure


def _check_block(block: _Block, problems: Problems) -> None:
    ours, unread = _OURS.get(block.where, ()), []
    for key in block.options:
        if key in block.known or key in ours:
            continue
        close = nearest(key, (*ours, *block.known), ALIKE)
        if close is None or key in block.elsewhere or (close in block.options and close not in ours):
            unread.append(str(key))
            continue
        sentence = f'{block.where or "the options"}: unknown key {key!r}; did you mean {close!r}?'
        if close in ours or block.sure:
            problems.append(sentence)
            problems.mistaken(block.where, close)
            problems.spoil(f'{block.where}.{key}' if block.where else str(key))
        else:
            problems.warnings.append(sentence)
    if unread and block.sure:
        problems.warnings.append(f'{block.where or "the options"}: nothing reads {", ".join(unread)}; remove it')


def _check_path(opt: Mapping[str, Any], problems: Problems) -> None:
    path = opt.get('path')
    if not isinstance(path, Mapping):
        return
    networks = {'network_g', 'network_d', *(key for key in opt if isinstance(key, str) and key.startswith('network_'))}
    labels = sorted(name[len('network_') :] for name in networks)
    known = [*_PATH, *(f'{key}_{label}' for key in _OF_NETWORK for label in labels)]
    for key in path:
        if key in known:
            continue
        folder = isinstance(key, str) and not any(word in key for word in _PATH_LEFT_ALONE)
        close = nearest(key, known)
        remedy = f'; {did_you_mean(key, known)}' if close else '; remove it'
        if folder:
            problems.append(f'path: unknown key {key!r}, of whose value BasicSR would make a folder{remedy}')
        elif close and close not in path:
            problems.append(f'path: unknown key {key!r}{remedy}')
        else:
            problems.warnings.append(f'path: nothing reads {key}; remove it')
