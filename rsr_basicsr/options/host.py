"""The keys of BasicSR's own that its trainer and tester read without asking whether they are there.

Blocks are open: BasicSR and other plugins may take more keys than are named here.
"""

from __future__ import annotations

from typing import Annotated, Any

from rsr_basicsr.options.messages import Problems
from rsr_basicsr.options.parsing import OpenBlock, key, parse_each, parse_keys
from rsr_basicsr.options.types import (
    AnyList,
    Count,
    Flag,
    Keys,
    Names,
    Natural,
    NonNegative,
    NonNegativeRange,
    NumberOrList,
    NumGpu,
    OneOf,
    PlainName,
    Range,
    Share,
    Text,
    shown,
)


class Run(OpenBlock):
    """The top level of any run."""

    name: PlainName
    model_type: Text
    scale: Count | None = None
    num_gpu: NumGpu
    manual_seed: Natural | None = None
    queue_size: Count | None = None
    datasets: Keys
    network_g: Keys
    path: Keys


class Training(Run):
    """The top level of a training."""

    train: Keys
    logger: Keys
    val: Keys | None = None


class Test(Run):
    """The top level of a test."""

    val: Keys


STAGE: dict[str, type[OpenBlock]] = {'train': Training, 'test': Test}


class Typed(OpenBlock):
    """A block for a registered class."""

    type: Text


class Train(OpenBlock):
    """``train:``."""

    total_iter: Count
    warmup_iter: Annotated[float, Range(ge=-1)] | None = None
    ema_decay: Share | None = None
    optim_g: Keys
    scheduler: Keys


class Optimizer(OpenBlock):
    """``train: optim_g:`` and ``optim_d:``."""

    type: Annotated[str, OneOf(('Adam',))]
    lr: NonNegative


class Scheduler(OpenBlock):
    """``train: scheduler:``."""

    type: Annotated[str, OneOf(('MultiStepLR', 'MultiStepRestartLR', 'CosineAnnealingRestartLR'))]


class Logger(OpenBlock):
    """``logger:``."""

    print_freq: Count
    save_checkpoint_freq: Count
    use_tb_logger: Flag
    wandb: Keys | None = None


#: What the name of a data set begins with
PHASES = {'train': ('train', 'val'), 'test': ('val', 'test')}


class Val(OpenBlock):
    """``val:`` of a test."""

    save_img: Flag
    metrics: Keys | None = None


class ValWhileTraining(Val):
    """``val:`` of a training."""

    val_freq: Count


TILES = {'tile_size': 'tile', 'tile_pad': 'tile_overlap'}  # Real-ESRGAN's names for ours


class Degradations(OpenBlock):
    """Real-ESRGAN's degradations of an image."""

    scale: Count
    second_blur_prob: Share
    resize_prob: AnyList
    resize_range: NonNegativeRange
    gaussian_noise_prob: Share
    noise_range: NonNegativeRange
    poisson_scale_range: NonNegativeRange
    gray_noise_prob: Share
    jpeg_range: NonNegativeRange
    resize_prob2: AnyList
    resize_range2: NonNegativeRange
    gaussian_noise_prob2: Share
    noise_range2: NonNegativeRange
    poisson_scale_range2: NonNegativeRange
    gray_noise_prob2: Share
    jpeg_range2: NonNegativeRange


class DegradationsOfTraining(Degradations):
    """Of RealESRNetModel and RealESRGANModel."""

    gt_size: Count


class UsmOfNet(OpenBlock):
    """Sharpening of RealESRNetModel."""

    gt_usm: Flag


class UsmOfGan(OpenBlock):
    """Sharpening of RealESRGANModel."""

    l1_gt_usm: Flag
    percep_gt_usm: Flag
    gan_gt_usm: Flag


class Dataset(OpenBlock):
    """A block of ``datasets:``."""

    name: Text
    type: Text
    dataroot_gt: Text | None = None
    dataroot_lq: Text | None = None
    meta_info: Text | None = None
    meta_info_file: Text | None = None
    filename_tmpl: Text | None = None
    io_backend: Keys | None = None


class Loader(OpenBlock):
    """How the images of a training are loaded."""

    batch_size_per_gpu: Count
    num_worker_per_gpu: Natural


class Backend(OpenBlock):
    """``io_backend:``."""

    type: Annotated[str, OneOf(('disk', 'lmdb', 'memcached'))]


class Kernels(OpenBlock):
    """Real-ESRGAN's blur kernels."""

    blur_kernel_size: Count
    blur_kernel_size2: Count
    final_sinc_prob: Share
    kernel_list: NumberOrList
    kernel_prob: NumberOrList
    blur_sigma: NumberOrList
    betag_range: NumberOrList
    betap_range: NumberOrList
    sinc_prob: NumberOrList
    kernel_list2: NumberOrList
    kernel_prob2: NumberOrList
    blur_sigma2: NumberOrList
    betag_range2: NumberOrList
    betap_range2: NumberOrList
    sinc_prob2: NumberOrList


class RealESRGANDataset(Kernels):
    """RealESRGANDataset."""

    dataroot_gt: Text
    io_backend: Keys
    use_hflip: Flag
    use_rot: Flag


class ListedRealESRGANDataset(RealESRGANDataset):
    """RealESRGANDataset on a disk, which needs a list of its images."""

    meta_info: Text


class PairedDataset(OpenBlock):
    """PairedImageDataset and RealESRGANPairedDataset."""

    dataroot_gt: Text
    dataroot_lq: Text
    io_backend: Keys


class PairedTraining(OpenBlock):
    """What these two need in a training."""

    gt_size: Count
    use_hflip: Flag
    use_rot: Flag


class AdversarialImagesDataset(OpenBlock):
    """Our keys of AdversarialImagesDataset, beside those of an adversarial set."""

    weaken: Share | None = key(
        'share of the attacked images whose perturbation is scaled down at random', by_default='0'
    )
    crop: Annotated[int, Range(ge=16)] | None = key('a random window', unit='pixels', by_default='none')
    use_hflip: Flag | None = key('flip at random', by_default='false')
    use_rot: Flag | None = key('turn at random', by_default='false')


class AdversarialSetDataset(AdversarialImagesDataset):
    """Our keys of AdversarialSetDataset."""

    dataroot: Names = key(
        'of `AdversarialSetDataset`: what `rsr adversarial-set` wrote. `AdversarialImagesDataset` makes the same '
        'images when they are asked for; it takes the keys of an adversarial set instead',
        ...,
        values='folder, or list of folders',
    )
    dataroot_extra: Names | None = key(
        'each pair brings one more clean image of these sets', values='folder, or list of folders', by_default='none'
    )
    transplant: Share | None = key(
        'share of the attacked images that are replaced by that extra image under the perturbation of the pair',
        by_default='0',
    )


DATASET_OF_TYPE: dict[str, type[OpenBlock]] = {
    'AdversarialSetDataset': AdversarialSetDataset,
    'AdversarialImagesDataset': AdversarialImagesDataset,
    'RealESRGANDataset': RealESRGANDataset,
    'PairedImageDataset': PairedDataset,
    'RealESRGANPairedDataset': PairedDataset,
}


def check_sections(opt: Any, stage: str, problems: Problems | None = None) -> None:
    """Check types and required keys of the sections that every run has, and coerce their numbers in place.

    Args:
        opt: the options.
        stage: ``train`` or ``test``.
        problems: where it is noted what is wrong; None raises an OptionsError of it.
    """
    if problems is None:
        problems = Problems()
        check_sections(opt, stage, problems)
        problems.stop()
        return
    for name in [name for name in opt if not isinstance(name, str)]:
        problems.append(f'the key {shown(name)} must be a word')
        del opt[name]
    parse_each(opt, (STAGE[stage],), '', problems)
    for name in [name for name in opt if name.startswith('network_')]:
        parse_keys(opt, (name,), Keys, '', problems)
        if problems.there(name) and opt[name] is not None:
            parse_each(opt[name], (Typed,), name, problems)
    if problems.there('path'):
        named = [
            name for name in opt['path'] if str(name).startswith(('pretrain_network', 'resume_state', 'param_key'))
        ]
        parse_keys(opt['path'], named, Text, 'path', problems)
    if problems.there('datasets'):
        _check_datasets(opt['datasets'], stage, problems)
    if stage == 'train':
        _check_training(opt, problems)
    if problems.there('val') and opt.get('val') is not None:
        val = opt['val']
        model: type[OpenBlock] = ValWhileTraining if stage == 'train' else Val
        parse_each(val, (model,), 'val', problems)
        if problems.there('val.metrics') and val.get('metrics'):
            parse_keys(val['metrics'], list(val['metrics']), Keys, 'val.metrics', problems, required=True)


def _check_datasets(datasets: dict[str, Any], stage: str, problems: Problems) -> None:
    if not datasets:
        problems.append('datasets: there is no data set')
        problems.spoil('datasets')
    for phase in datasets:
        where = f'datasets.{phase}'
        kind = str(phase).split('_')[0]
        if kind not in PHASES[stage] or (stage == 'train' and kind == 'train' != phase):
            known = ('train', 'val', 'val_2') if stage == 'train' else ('test_1', 'test_2')
            problems.append(
                f'{where}: BasicSR knows data sets by names such as {", ".join(known)}; got {shown(phase)}'
                + (', as a training has it' if kind == 'train' else '')
            )
            problems.spoil(where)
            continue
        parse_keys(datasets, (phase,), Keys, 'datasets', problems, required=True)
        if problems.there(where):
            check_dataset(datasets[phase], where, kind, problems)


def _check_training(opt: dict[str, Any], problems: Problems) -> None:
    if problems.there('train'):
        train = opt['train']
        parse_each(train, (Train,), 'train', problems)
        if problems.there('train.scheduler'):
            parse_each(train['scheduler'], (Scheduler,), 'train.scheduler', problems)
        for name in [name for name in train if name in ('optim_g', 'optim_d')]:
            parse_keys(train, (name,), Keys, 'train', problems)
            if problems.there(f'train.{name}') and train[name] is not None:
                parse_each(train[name], (Optimizer,), f'train.{name}', problems)
    if problems.there('logger'):
        parse_each(opt['logger'], (Logger,), 'logger', problems)


def check_dataset(dataset: dict[str, Any], where: str, phase: str, problems: Problems) -> None:
    """Check one block of ``datasets``, as :func:`check_sections` does for all of them."""
    kind = dataset.get('type') if isinstance(dataset.get('type'), str) else ''
    backend = dataset.get('io_backend')
    models: list[type[OpenBlock]] = [Dataset]
    if kind == 'RealESRGANDataset' and isinstance(backend, dict) and backend.get('type') == 'disk':
        models.append(ListedRealESRGANDataset)
    elif kind in DATASET_OF_TYPE:
        models.append(DATASET_OF_TYPE[kind])
    if phase == 'train':
        models.append(Loader)
        if kind in ('PairedImageDataset', 'RealESRGANPairedDataset'):
            models.append(PairedTraining)
    parse_each(dataset, models, where, problems)
    if backend is not None and problems.there(f'{where}.io_backend'):
        parse_each(backend, (Backend,), f'{where}.io_backend', problems)
        for name in backend if backend.get('type') == 'disk' else ():
            if name != 'type':
                problems.append(f'{where}.io_backend: a disk takes no {name!r}; remove it')
