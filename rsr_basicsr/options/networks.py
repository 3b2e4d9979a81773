"""Checks of networks: they can be built, they upscale by ``scale``, and their weights fit."""

from __future__ import annotations

import contextlib
import copy
import math
import os.path as osp
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from basicsr.utils.registry import ARCH_REGISTRY

from rsr_basicsr.archs.classifier import CALIBRATION
from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.catalog.choices import UNTRAINED
from rsr_basicsr.catalog.weights import KNOWN
from rsr_basicsr.ops.tiled import windows_of
from rsr_basicsr.options.blocks import DefenseOptions
from rsr_basicsr.options.calls import check_call, registered
from rsr_basicsr.options.host_blocks import Typed
from rsr_basicsr.options.messages import Problems
from rsr_basicsr.options.parsing import parse_block, parse_keys, parse_open, refuse_unknown
from rsr_basicsr.options.types import ExistingFile
from rsr_basicsr.utils.errors import OptionsError, WeightsError, in_one_line
from rsr_basicsr.weights.spandrel_network import SPANDREL
from rsr_basicsr.weights.state_dict import (
    entry_taken,
    is_state,
    load_network,
    load_state,
    read_file,
    state_in,
    under_own_names,
    without_wrapper,
)
from rsr_basicsr.weights.versions import check_versions

_PROBE = 16  # pixels, of images that networks are tried on, unless their windows need more


def check_network(opt: dict[str, Any], name: str) -> torch.nn.Module:
    """Check the options of ``network_*`` by what its class takes, and return the network built from them."""
    options = opt[name]
    if options['type'] == SPANDREL:
        raise OptionsError(
            f'{name}: type: {SPANDREL} is for networks that are attacked or measured, with weights, a file; name the '
            'class of the network'
        )
    cls = registered(ARCH_REGISTRY, options['type'], f'{name}.type')
    defended = issubclass(cls, DefenseMixin)
    if 'defense' in options and not defended:
        raise OptionsError(f'{name}: {cls.__name__} takes no defense; write type: Defended{cls.__name__}')
    check_call(cls.backbone_class if defended else cls, options, name, own=('defense',) if defended else ())
    if defended:
        options['defense'] = parse_block(options.get('defense'), DefenseOptions, f'{name}.defense')
    try:
        with torch.random.fork_rng(devices=[]):  # the training must start from the same numbers as without a check
            net = cls(**{key: value for key, value in options.items() if key != 'type'})
            if defended:
                _check_scale(net, opt.get('scale'))
    except Exception as error:  # constructors raise anything on wrong arguments
        raise OptionsError(f'{name}: {cls.__name__} cannot be built: {in_one_line(error)}') from error
    return net


class _Source(Typed):
    """What :func:`check_source` takes beside the arguments of the network."""

    weights: ExistingFile | None = None


def check_source(options: dict[str, Any], where: str = 'attack.source', scale: int | None = None) -> torch.nn.Module:
    """Check a network that is attacked, given in one block with its ``weights``, and return it without them.

    Values are put into their final types, in place. A network without parameters needs no weights.

    Args:
        options: the block.
        where: what it is called in messages.
        scale: what a defended network, or one of spandrel, must upscale by; None takes any.
    """
    parse_open(options, _Source, where)
    if options['type'] == SPANDREL:
        return _check_spandrel(options, where, scale)
    network = {key: value for key, value in options.items() if key != 'weights'}
    net = check_network({where: network, 'scale': scale}, where)
    options.update(network)
    if 'weights' not in options and not any(True for _ in net.parameters()):
        return net
    parse_keys(options, ('weights',), ExistingFile, where, required=True)
    try:
        state = load_state(options['weights'])
        _check_fit(net, state, f'{where}.weights: {options["weights"]}')
        _check_versions(net, state, f'{where}.weights: {options["weights"]}')
    except WeightsError as error:
        raise OptionsError(f'{where}.weights: {error}') from None
    return net


def _check_spandrel(options: dict[str, Any], where: str, scale: int | None) -> torch.nn.Module:
    """As :func:`check_source`, for a network that the tensors in its file describe."""
    problems = Problems()
    refuse_unknown(options, ('type', 'weights'), where, problems)
    problems.stop()
    parse_keys(options, ('weights',), ExistingFile, where, required=True)
    try:
        net = load_network(options)
    except WeightsError as error:
        raise OptionsError(f'{where}.weights: {error}') from None
    if scale is not None and net.scale != scale:
        raise OptionsError(f'{where}: it upscales by {net.scale}, but scale is {scale}')
    return net


def _check_scale(net: torch.nn.Module, scale: int | None) -> None:
    """Run a defended network on images of two shapes, which shows whether its mask points are maps of the image."""
    window, refusal = windows_of(net), None
    modes = [(part, part.training) for part in net.modules()]
    net.eval()  # normalisation over a batch refuses a single image in training
    try:
        # Some take multiples of a number they do not tell.
        for side in dict.fromkeys((_probe(net), 32, 48, 64, 96, 128)):
            least = math.ceil(side / window) * window
            images = torch.zeros(1, 3, least, 2 * least), torch.zeros(1, 3, 2 * least, least)
            try:
                with torch.no_grad(), cast(DefenseMixin, net).defense.forced(False):
                    outputs = [net(image) for image in images]
                break
            except Exception as error:  # networks raise anything on a size they do not take
                refusal = refusal or error
        else:
            raise refusal or ValueError('it takes no image')
    finally:
        for part, mode in modes:
            part.training = mode
    for image, output in zip(images, outputs):
        size = (output if isinstance(output, torch.Tensor) else output[-1]).shape[-2:]
        if scale is not None and tuple(size) != tuple(scale * length for length in image.shape[-2:]):
            raise ValueError(f'it upscales by {size[0] / image.shape[-2]:g}, but scale is {scale:g}')


def _probe(net: torch.nn.Module) -> int:
    """Side of the images that a network is tried on, in pixels: at least two of its windows."""
    window = windows_of(net)
    return window * max(2, math.ceil(_PROBE / window))


def check_upscaling(net: torch.nn.Module, scale: int | None) -> None:
    """Check that a network upscales by the scale; skipped where the network cannot run on the device meta.

    Raises:
        OptionsError: it does not.
    """
    if isinstance(net, DefenseMixin) or scale is None:
        return  # checked when it was built
    side = _probe(net)
    try:
        with torch.no_grad():
            size = sketch(net)(torch.zeros(1, 3, side, side, device='meta')).shape[-2:]
    except Exception:  # the network refuses that size, or the device meta
        return
    if len(size) == 2 and tuple(size) != (scale * side, scale * side):
        raise OptionsError(f'network_g: {type(net).__name__} upscales by {size[0] / side:g}, but scale is {scale}')


def check_patch(net: torch.nn.Module, options: Mapping[str, Any], gt_size: int | None, scale: int) -> None:
    """Check that a network takes the patches that it will be trained on, as :func:`check_tiles` does for tiles.

    Args:
        net: the network.
        options: its block.
        gt_size: height and width of the high-resolution patch in pixels; None where it is not known.
        scale: what the network upscales by.

    Raises:
        OptionsError: it does not.
    """
    if not isinstance(gt_size, int) or gt_size % scale:
        return  # another check reports it
    size, window, on_meta = gt_size // scale, options.get('window_size'), sketch(net)
    if not isinstance(window, int) or not 0 < window <= size:
        window = None
    refusal = _refusal(on_meta, size)
    if refusal is None or _refusal(on_meta, _probe(net)) is not None:
        return  # skipped: this network cannot run on the meta device
    remedy = f': {refusal}'
    if window is not None and size % window:
        remedy = f'; write a multiple of {window * scale}, that is window_size {window} times scale {scale}'
    raise OptionsError(
        f'gt_size: {gt_size} gives low-resolution patches of {size}x{size}, which {type(net).__name__} '
        f'does not take{remedy}'
    )


def check_tiles(net: torch.nn.Module, tile: int, overlap: int) -> None:
    """Check that a network takes tiles of that size, at the border and within an image.

    Runs on the device meta, which computes sizes only: large tiles would take minutes.
    """
    on_meta = sketch(net)
    if _refusal(on_meta, _probe(net)) is not None:
        return  # skipped: this network cannot run on the meta device
    for size in (tile + overlap, tile + 2 * overlap):
        refusal = _refusal(on_meta, size)
        if refusal is not None:
            raise OptionsError(
                f'val.tile: {tile} with val.tile_overlap: {overlap} gives tiles of {size}x{size}, which '
                f'{type(net).__name__} does not take: {refusal}'
            )


def sketch(net: torch.nn.Module) -> torch.nn.Module:
    """A copy of a network on the device meta, which computes sizes only."""
    return copy.deepcopy(net).to('meta')


def _refusal(net: torch.nn.Module, size: int) -> str | None:
    """The error of a network for images of that size; None where it takes them."""
    try:
        with torch.no_grad(), net.defense.forced(False) if isinstance(net, DefenseMixin) else contextlib.nullcontext():
            net(torch.zeros(1, 3, size, size, device='meta'))
    except Exception as error:  # networks raise anything on a size they do not take
        return in_one_line(error)
    return None


def check_weights(opt: dict[str, Any], network: str, net: torch.nn.Module) -> None:
    """Check that the file of pretrained weights is there, whole, and fits the network."""
    label, path = network[len('network_') :], opt['path'].get(f'pretrain_{network}')
    where = f'path.pretrain_{network}'
    if path is None:
        if network == 'network_g' and not opt['is_train'] and opt[network].get('weights') is None:
            raise OptionsError(f'{where}: no weights to test; name a weight file')
        return
    path = osp.expanduser(path)
    if not osp.isfile(path):
        name = osp.splitext(osp.basename(path))[0]
        remedy = f'; fetch it with: rsr weights {name} -o {osp.dirname(path) or "."}' if name in KNOWN else ''
        raise OptionsError(f'{where}: no such file: {path}{remedy}')
    state = _state(path, opt['path'].get(f'param_key_{label}', 'params'), f'{where}: ', f'path.param_key_{label}')
    if opt['path'].get(f'strict_load_{label}', True):
        _check_fit(net, state, f'{where}: {path}')
    _check_versions(net, state, f'{where}: {path}')
    if (
        isinstance(net, DefenseMixin)
        and not opt['is_train']
        and net.defense.gate in ('classifier', 'soft')
        and net.defense.classifier.origin == UNTRAINED
        and not brings_defense(net, state)
    ):
        raise OptionsError(
            f'{where}: {path} is a plain backbone without a trained classifier; write builtin or name '
            f'a file in {network}.defense.classifier.weights, or set gate to always or never'
        )


def check_resumed(opt: Mapping[str, Any], network: str, net: torch.nn.Module) -> None:
    """Check that the checkpoint of a resumed training is not of an earlier version of the network.

    Args:
        opt: options whose ``path: resume_state`` is complete.
        network: the key of the network's block.
        net: the network.

    Raises:
        OptionsError: it is of an earlier version.
    """
    if network in (opt['path'].get('ignore_resume_networks') or ()):
        return
    iteration = read_file(opt['path']['resume_state'])['iter']
    path = osp.join(opt['path']['models'], f'net_{network[len("network_") :]}_{iteration}.pth')
    content = read_file(path) if osp.isfile(path) else {}
    for state in content.values() if isinstance(content, dict) else ():
        if is_state(state):
            _check_versions(net, state, f'path.resume_state: {path}')


def _check_versions(net: torch.nn.Module, state: Mapping[str, torch.Tensor], where: str) -> None:
    try:
        check_versions(net, under_own_names(net, without_wrapper(state)))
    except WeightsError as error:
        raise OptionsError(f'{where}: {error}') from None


def _state(path: str, key: str | None, where: str, key_option: str) -> dict[str, torch.Tensor]:
    """The state dict that BasicSR will take: see :func:`rsr_basicsr.weights.entry_taken`."""
    try:
        content = read_file(path)
        found = list(map(str, content)) if isinstance(content, dict) else []
        if key is None and {'params', 'params_ema'} & set(found):
            raise OptionsError(f'{where}{path} has the entries {", ".join(found)}; name one in {key_option}')
        entry = entry_taken(content, key)
        return state_in(content, path, (entry, 'params') if entry is not None and entry == key else entry)
    except WeightsError as error:
        raise OptionsError(f'{where}{error}; see {key_option}') from None


def _check_fit(net: torch.nn.Module, state: Mapping[str, torch.Tensor], where: str) -> None:
    own = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in under_own_names(net, without_wrapper(state)).items()}
    if not _has_defense(found):
        own = {key: shape for key, shape in own.items() if not key.startswith('defense.')}
    for key in [*own, *found]:
        if key not in found and key.rsplit('.')[-1] in CALIBRATION:
            continue
        if own.get(key) != found.get(key):
            if key.startswith('defense.') and not isinstance(net, DefenseMixin):
                raise OptionsError(
                    f'{where} holds a defended network; write type: Defended{type(net).__name__} to use it'
                )
            if key.startswith('defense.classifier.'):
                raise OptionsError(
                    f'{where} holds a classifier of another type or size than the options; write the '
                    f'one it was trained with in network_g.defense.classifier.type ({key} is '
                    f'{found.get(key, "missing")} in the file, and {own.get(key, "missing")} in '
                    f'{type(net).__name__} as the options build it)'
                )
            raise OptionsError(
                f'{where} holds weights of another network: {key} is {found.get(key, "missing")} in the '
                f'file and {own.get(key, "missing")} in {type(net).__name__} as the options build it'
            )


def brings_defense(net: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a network takes a defence from a state dict as :func:`rsr_basicsr.weights.load_state` returns it."""
    return _has_defense(under_own_names(net, without_wrapper(state)))


def _has_defense(state: Iterable[str]) -> bool:
    return any(key.startswith('defense.') for key in state)
