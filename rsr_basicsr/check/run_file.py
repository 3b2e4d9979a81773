"""The check of a whole options file, before anything is built or written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from basicsr.models.srgan_model import SRGANModel
from basicsr.utils.registry import MODEL_REGISTRY

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.attacks.adaptive import own_detector
from rsr_basicsr.attacks.half import check_bf16
from rsr_basicsr.check.datasets import Images, check_datasets
from rsr_basicsr.check.start import check_start
from rsr_basicsr.check.stray_keys import check_strays
from rsr_basicsr.check.training import check_patches, check_training, gt_size
from rsr_basicsr.check.validation import check_validation
from rsr_basicsr.models.attack_augmentation import USE_TORCHRUN, AttackAugmentation
from rsr_basicsr.models.frequency_classifier_model import FrequencyClassifierModel
from rsr_basicsr.options import host
from rsr_basicsr.options.calls import registered
from rsr_basicsr.options.messages import Problems
from rsr_basicsr.options.networks import (
    check_network,
    check_patch,
    check_resumed,
    check_tiles,
    check_upscaling,
    check_weights,
)
from rsr_basicsr.utils.errors import OptionsError


class Checked(NamedTuple):
    """What a check has found and built.

    Args:
        model: the class of ``model_type``.
        networks: by the key of their block.
        images: by phase, of BasicSR's data sets.
    """

    model: type | None
    networks: dict[str, torch.nn.Module]
    images: dict[str, Images]


def check_options(opt: dict[str, Any]) -> None:
    """Check parsed BasicSR options and put our blocks into their final types, in place.

    Raises:
        OptionsError: one sentence per problem, with the key, the value and the remedy.
    """
    problems = Problems()
    check_all(opt, problems)
    problems.stop()


def check_all(opt: dict[str, Any], problems: Problems) -> Checked:
    """As :func:`check_options`, but problems are noted; checks that depend on a broken part are skipped."""
    model = _model(opt)
    check_strays(opt, model, problems)
    host.check_sections(opt, 'train' if opt['is_train'] else 'test', problems)
    if problems.sound('model_type'):
        with problems.noted(part='model_type'):
            registered(MODEL_REGISTRY, opt['model_type'], 'model_type')
    images = check_datasets(opt, problems)
    if opt['is_train']:
        check_training(opt, model, images, problems)
    check_validation(opt, model, problems)
    networks = _check_networks(opt, problems)
    _check_uses(opt, model, networks, problems)
    resumed = check_start(opt, problems)
    for name, net in networks.items() if resumed else ():
        with problems.noted(part='path.resume_state'):
            check_resumed(opt, name, net)
    for name, net in networks.items() if problems.there('path') else ():
        keys = [f'path.{key}_{name[len("network_") :]}' for key in ('param_key', 'strict_load')]
        if not resumed and problems.sound(f'path.pretrain_{name}', *keys):
            with problems.noted(part=f'path.pretrain_{name}'):
                check_weights(opt, name, net)
    return Checked(model, networks, images)


def _model(opt: dict[str, Any]) -> type | None:
    """The class of the model, None where the file does not name one."""
    try:
        return registered(MODEL_REGISTRY, opt['model_type'], 'model_type')
    except (KeyError, TypeError, OptionsError):
        return None


def _check_networks(opt: dict[str, Any], problems: Problems) -> dict[str, torch.nn.Module]:
    networks = {}
    for name in [key for key in opt if key.startswith('network_')]:
        if problems.sound(name) and opt[name] is not None:
            with problems.noted(part=name):
                networks[name] = check_network(opt, name)
    return networks


def _check_uses(
    opt: dict[str, Any], model: type | None, networks: dict[str, torch.nn.Module], problems: Problems
) -> None:
    """Check that networks fit the rest of the run."""
    if problems.sound('num_gpu'):
        with problems.noted(part='num_gpu'):
            _check_devices(opt, model, networks.get('network_g'))
    if problems.sound('num_gpu', 'train.precision', 'attack.precision'):
        with problems.noted():
            _check_precision(opt)
    net = networks.get('network_g')
    if net is None or model is None or issubclass(model, FrequencyClassifierModel):
        return
    if problems.sound('scale'):
        with problems.noted(part='scale'):
            check_upscaling(net, opt.get('scale'))
    if opt['is_train'] and problems.there('datasets.train') and problems.sound('scale') and opt.get('scale'):
        check_patches(opt, model, problems)
        if problems.sound('gt_size', 'datasets.train.gt_size'):
            with problems.noted(part='gt_size'):
                check_patch(net, opt['network_g'], gt_size(opt, model), opt['scale'])
            # BasicSR's VGG discriminator takes images of one size only.
            size, wanted = gt_size(opt, model), getattr(networks.get('network_d'), 'input_size', None)
            if None not in (size, wanted) and size != wanted and issubclass(model, SRGANModel):
                problems.append(
                    f'network_d.input_size: {wanted}, but it sees patches of {size} (gt_size); write them alike'
                )
    for where, section in (('attack', opt), ('val.attack', opt.get('val') or {})):
        if isinstance(net, DefenseMixin) and problems.sound(where) and _aims_at_detector(section.get('attack')):
            with problems.noted(f'{where}: ', part=where):
                own_detector(net)
    if (
        issubclass(model, AttackAugmentation)
        and problems.sound('val.tile', 'val.tile_overlap')
        and (opt.get('val') or {}).get('tile')
    ):
        with problems.noted(part='val.tile'):
            check_tiles(net, opt['val']['tile'], opt['val']['tile_overlap'])


def _aims_at_detector(attack: Any) -> bool:
    """Whether a block of an attack, if it is one, needs the gradient of the detector of the network under attack."""
    return isinstance(attack, Mapping) and (
        attack.get('type') == 'DetectorAware' or any(map(_aims_at_detector, attack.get('attacks') or ()))
    )


def _check_devices(opt: dict[str, Any], model: type | None, net: torch.nn.Module | None) -> None:
    if opt['num_gpu'] > 0 and not torch.cuda.is_available():
        raise OptionsError(f'num_gpu: {opt["num_gpu"]}, but torch sees no GPU here; write num_gpu: auto or 0')
    ours = isinstance(net, DefenseMixin) or (model is not None and issubclass(model, FrequencyClassifierModel))
    if ours and opt['num_gpu'] > 1 and not opt.get('dist'):
        raise OptionsError(f'num_gpu: {opt["num_gpu"]} without a launcher; {USE_TORCHRUN}')


def _check_precision(opt: dict[str, Any]) -> None:
    """Refuse bf16 at the start, where a GPU only emulates it."""
    for block in ('train', 'attack'):
        wanted = isinstance(opt.get(block), dict) and opt[block].get('precision') == 'bf16'
        if wanted and opt['num_gpu'] > 0 and torch.cuda.is_available():
            try:
                check_bf16(torch.device('cuda'))
            except ValueError as error:
                raise OptionsError(f'{block}.{error}') from None
