"""The full check of an options file, as ``rsr check`` shows it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torchvision.models import alexnet, squeezenet1_1

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.benchmark.options import check_benchmark
from rsr_basicsr.check import advice, step_memory, validation_memory
from rsr_basicsr.check.images import check_images
from rsr_basicsr.check.run_file import Checked, check_all
from rsr_basicsr.check.step_memory import CARDS, GIB, RESERVE
from rsr_basicsr.check.training import degrades, gt_size
from rsr_basicsr.data.adversarial_set_options import check_adversarial_set
from rsr_basicsr.models.attack_augmentation import USE_TORCHRUN
from rsr_basicsr.models.frequency_classifier_model import FrequencyClassifierModel
from rsr_basicsr.ops import perceptual
from rsr_basicsr.options.loading import as_parsed, load_options, override, repeated_keys, take_one_gpu
from rsr_basicsr.options.messages import Problems
from rsr_basicsr.options.networks import sketch
from rsr_basicsr.utils.errors import in_one_line
from rsr_basicsr.weights.backbones import BACKBONES, cached_at

_SIZE = 64  # pixels of the image whose masks are listed, where there is no training


def survey(path: str, changes: Sequence[str] = (), decoded: int = 16, count_memory: bool = True) -> Problems:
    """Check an options file of any command, without writing anything.

    Args:
        path: the file.
        changes: as ``--force_yml`` takes them.
        decoded: images of each data set that are decoded; the headers of all are read.
        count_memory: count the memory of a training step, which takes some seconds.

    Returns:
        Errors, with its warnings and facts.

    Raises:
        OptionsError: the file cannot be read.
    """
    options, problems = load_options(path), Problems()
    problems.warnings += repeated_keys(path)
    kind = kind_of(options)
    override(options, changes, new_sections=kind not in ('train', 'test'))
    problems.facts.append(f'{path}: {_KINDS[kind]}')
    with _nothing_fetched(problems):
        if kind == 'benchmark':
            _survey_benchmark(options, problems)
        elif kind == 'adversarial set':
            with problems.noted():
                found = check_adversarial_set(options)
                problems.facts.append(f'photos: {len(found["photos"])} images')
        else:
            _survey_run(options, kind, decoded, count_memory, problems)
    return problems


@contextlib.contextmanager
def _nothing_fetched(problems: Problems) -> Iterator[None]:
    """Within the block, LPIPS takes random weights instead of downloading its own."""
    kept = perceptual._weights_of

    def unfilled(network: str, seconds: float | None = None) -> Mapping[str, torch.Tensor]:
        path, url = cached_at(network), BACKBONES[network].url
        if path.is_file():
            return kept(network)
        instead = '' if seconds is None else f'; without them the measure auto is {perceptual.WITHOUT_WEIGHTS}'
        problems.warnings.append(
            f'LPIPS: its weights ({_SIZES[network]}) will be downloaded at the start; where there is no internet, '
            f'put {url} into {path.parent}{instead}'
        )
        with torch.random.fork_rng(devices=[]):
            return _UNTRAINED[network](weights=None).state_dict()

    perceptual.forget_measures()
    perceptual._weights_of = unfilled
    try:
        yield
    finally:
        perceptual._weights_of = kept
        perceptual.forget_measures()


_UNTRAINED: dict[str, Callable[..., torch.nn.Module]] = {'alex': alexnet, 'squeeze': squeezenet1_1}
_SIZES = {'alex': '0.2 GB', 'squeeze': '5 MB'}
_KINDS = {
    'train': 'a training (rsr train)',
    'test': 'a test (rsr test)',
    'benchmark': 'a benchmark (rsr benchmark)',
    'adversarial set': 'an adversarial set (rsr adversarial-set)',
}


def kind_of(options: Mapping[str, Any]) -> str:
    """What an options file is for: ``train``, ``test``, ``benchmark`` or ``adversarial set``."""
    if 'model_type' not in options and 'network_g' not in options:
        if {'photos', 'kinds', 'count'} & set(options):
            return 'adversarial set'
        if {'networks', 'attacks', 'eps'} & set(options):
            return 'benchmark'
    datasets = options.get('datasets')
    trains = {'train', 'logger', 'attack'} & set(options) or (isinstance(datasets, Mapping) and 'train' in datasets)
    return 'train' if trains else 'test'


def _survey_benchmark(options: dict[str, Any], problems: Problems) -> None:
    with problems.noted():
        options, images = check_benchmark(options)
        for name in options['datasets']:
            number = sum(image.dataset == name for image in images)
            problems.facts.append(f'datasets.{name}: {number} images, all of them read')


def _survey_run(opt: dict[str, Any], stage: str, decoded: int, count_memory: bool, problems: Problems) -> None:
    note = take_one_gpu(opt)
    problems.facts += [note] if note else []
    as_parsed(opt, stage, os.getcwd())
    _expect_launcher(opt, problems)
    checked = check_all(opt, problems)
    trains = stage == 'train'
    largest: dict[str, tuple[int, int]] = {}
    for phase, images in checked.images.items():
        dataset = opt['datasets'][phase]
        if decoded and problems.sound('scale', f'datasets.{phase}.gt_size', f'datasets.{phase}.images'):
            patch = dataset.get('gt_size') if trains and phase == 'train' and not degrades(opt, checked.model) else None
            size_of_largest = check_images(dataset, f'datasets.{phase}', images, patch, decoded, problems)
            if size_of_largest is not None and not (trains and phase == 'train'):
                largest[phase] = size_of_largest
    advice.advise(opt, checked, problems)
    advice.describe_weights(opt, checked, problems)
    size = _patch(opt, checked, problems) if trains else _SIZE
    net = checked.networks.get('network_g')
    if isinstance(net, DefenseMixin) and size:
        with problems.noted('network_g: '):
            problems.facts += advice.describe_gate(net, cast(DefenseMixin, sketch(net)), size)
    if trains and count_memory and size:
        _look_at_memory(opt, checked, size, problems)
    val = opt.get('val') or {}
    if count_memory and net is not None and val.get('attack') is not None and problems.sound('val.attack', 'network_g'):
        validation_memory.note_memory(opt, net, largest, problems)


def _expect_launcher(opt: dict[str, Any], problems: Problems) -> None:
    """Several GPUs need several processes, which a launcher starts; the check itself is one process."""
    count = opt.get('num_gpu')
    if (
        isinstance(count, int)
        and count > 1
        and torch.cuda.is_available()
        and str(opt.get('model_type')).startswith(('Defended', FrequencyClassifierModel.__name__))
    ):
        opt['dist'] = True
        problems.warnings.append(f'num_gpu: {count} without a launcher; {USE_TORCHRUN}')


def _patch(opt: dict[str, Any], checked: Checked, problems: Problems) -> int | None:
    """Height and width of the low-resolution patches in pixels; None where unknown."""
    if not problems.there('datasets.train') or not problems.sound('scale', 'gt_size', 'datasets.train.gt_size'):
        return None
    size, scale = gt_size(opt, checked.model), opt.get('scale')
    return size // scale if isinstance(size, int) and isinstance(scale, int) else None


def _look_at_memory(opt: dict[str, Any], checked: Checked, size: int, problems: Problems) -> None:
    where = 'datasets.train.batch_size_per_gpu'
    needed = ('model_type', 'network_g', 'network_d', 'train', 'attack', 'scale', where)
    if checked.model is None or issubclass(checked.model, FrequencyClassifierModel) or not problems.sound(*needed):
        return
    batch = opt['datasets']['train']['batch_size_per_gpu']
    try:
        found = step_memory.estimate(opt, size, batch)
    except Exception as error:  # a user's model may not run on the device meta
        problems.facts.append(f'memory: cannot be counted ({in_one_line(error)})')
        return
    simplified = ', with IFGSM and L1 instead of attack and pixel loss' if found.simplified else ''
    problems.facts.append(
        f'memory: {found.fixed / GIB:.2f} GiB + {found.sample / GIB:.3f} GiB per sample '
        f'is {found.of(batch) / GIB:.1f} GiB for a batch of {batch}, counted{simplified}'
    )
    if torch.cuda.is_available() and opt.get('num_gpu') != 0:
        compare_with_gpu(found, batch, problems)
    else:
        fits = [f'{card} GB: {found.largest_batch(card)}' for card in CARDS]
        problems.facts.append(
            f'memory: largest batch for a card of {", ".join(fits)}; {RESERVE:g} GiB are reserved for uncounted memory'
        )


def compare_with_gpu(found: step_memory.StepMemory, batch: int, problems: Problems) -> None:
    """Note a batch that exceeds the GPU's memory (an error) or its free memory (a warning)."""
    free, whole = (value / GIB for value in torch.cuda.mem_get_info())
    total = found.of(batch) / GIB
    sentence = (
        f'datasets.train.batch_size_per_gpu: a batch of {batch} takes about {total + RESERVE:.1f} GiB, '
        f'and this GPU has {free:.1f} GiB free of {whole:.1f}; write {found.largest_batch(free)} or less'
    )
    if total > whole:
        problems.append(sentence)
    elif total + RESERVE > free:
        problems.warnings.append(sentence)
