"""The keys of BasicSR's own that its trainer and tester read without a default.

Blocks are open: BasicSR and other plugins may take more keys than are named here.
"""

from __future__ import annotations

from typing import Annotated

from rsr_basicsr.options.degradation_blocks import DegradedImageOptions
from rsr_basicsr.options.parsing import OpenBlock, key
from rsr_basicsr.options.types import (
    ON_BROKEN,
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
    Positive,
    Range,
    Share,
    Text,
)


class Run(OpenBlock):
    """The top level of any run."""

    name: PlainName
    model_type: Text
    scale: Count | None = None
    num_gpu: NumGpu
    manual_seed: Natural | None = None
    queue_size: Count | None = None
    dist_params: Keys | None = None
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


class DistParams(OpenBlock):
    """``dist_params:``."""

    backend: Annotated[str, OneOf(('nccl', 'gloo'))] | None = key(
        'of the processes on GPUs; those on the CPU take gloo', by_default='nccl'
    )
    port: Annotated[int, Range(ge=1, le=65535)] | None = key(
        'of the first process, started by slurm; torchrun takes `--master_port`',
        by_default='`MASTER_PORT` of the environment, else 29500',
    )
    timeout: Positive | None = key(
        'how long a process waits for the others, for example while they validate',
        unit='seconds',
        by_default='that of torch: 600 with nccl, 1800 with gloo',
    )


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
    persistent_workers: Flag | None = key(
        'keep the worker processes over the epochs; each of them imports everything when it starts',
        by_default='false',
    )
    broken_images: Annotated[str, OneOf(ON_BROKEN)] | None = key(
        'what a training does with an image that cannot be read: end with its name, or warn and take the next one',
        by_default='stop',
    )


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
    'DegradedImageDataset': DegradedImageOptions,
    'RealESRGANDataset': RealESRGANDataset,
    'PairedImageDataset': PairedDataset,
    'RealESRGANPairedDataset': PairedDataset,
}
