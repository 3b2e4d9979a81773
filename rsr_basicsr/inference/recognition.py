"""Build the network that a weight file belongs to, for commands that get a weight file alone.

Files from ``rsr train`` store the network's options beside the tensors; for others they are inferred from the tensors.
"""

from __future__ import annotations

import math
import os.path as osp
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from rsr_basicsr.archs.cdc_published import is_published, renamed
from rsr_basicsr.archs.classifier import CALIBRATION
from rsr_basicsr.archs.defended_arch import POINTS, DefenseMixin
from rsr_basicsr.archs.defense import CLASSIFIERS
from rsr_basicsr.catalog.choices import UNTRAINED
from rsr_basicsr.catalog.weights import DISCRIMINATORS, GENERAL, GENERAL_WEAK_DENOISING, WEIGHTS, find
from rsr_basicsr.checkpoints import described
from rsr_basicsr.options.blocks import DefenseOptions
from rsr_basicsr.options.loading import read_network_block
from rsr_basicsr.options.parsing import parse_block
from rsr_basicsr.utils.errors import OptionsError, RSRError, WeightsError, in_one_line
from rsr_basicsr.weights.bounds import built_within
from rsr_basicsr.weights.official import fetch
from rsr_basicsr.weights.safetensors_file import NETWORK
from rsr_basicsr.weights.spandrel_network import INSTALL_SPANDREL, has_spandrel, spandrel_network
from rsr_basicsr.weights.state_dict import build_quietly, fill, load_state, read_file, state_in, without_wrapper

State = Mapping[str, torch.Tensor]

# By a key of theirs: RRDBNet under the names of earlier releases.
_OTHER_NAMES = {
    'model.1.sub.0.RDB1.conv1.0.weight': 'an RRDBNet under the names of the first ESRGAN release',
    'RRDB_trunk.0.RDB1.conv1.weight': 'an RRDBNet under the names of BSRGAN and RealSR',
}


class OpenedNetwork(NamedTuple):
    """The network of a weight file.

    Args:
        net: the network on the CPU, in evaluation mode.
        options: the options block of a defended network, without paths; None for other networks.
    """

    net: nn.Module
    options: dict[str, Any] | None


def open_network(name_or_file: str, options: str | None = None) -> nn.Module:
    """Load the network of an official name or of a weight file.

    Plain networks are recognised by spandrel where it is installed, which knows most architectures of the field; else,
    and if spandrel does not know one, RRDBNet, SRVGGNetCompact and CDC are.

    Args:
        name_or_file: a name of :data:`rsr_basicsr.catalog.weights.WEIGHTS`, which is fetched, or a file of any format
            of :func:`rsr_basicsr.weights.read_file`. A file without network options but with ``defense.*`` keys gives a
            defended network with default settings.
        options: an options file with the ``network_g`` of the weights: overrides the settings in the file, and
            serves architectures that cannot be inferred from the tensors.

    Returns:
        The network on the CPU, in evaluation mode; for one of spandrel's, a
        :class:`rsr_basicsr.weights.spandrel_network.SpandrelNetwork`.

    Raises:
        OptionsError: there is no such file or name, or the options file is invalid.
        WeightsError: the file cannot be read, its network cannot be inferred, or it is not for images.
    """
    return open_with_options(name_or_file, options).net


def open_denoising(strength: float) -> nn.Module:
    """realesr-general-x4v3 with the strength of its denoising chosen, as Real-ESRGAN's script mixes it.

    The weights are those of realesr-general-x4v3 and realesr-general-wdn-x4v3 (weak denoising), interpolated linearly.

    Args:
        strength: 0 for the weights of weak denoising to 1 for realesr-general-x4v3 itself.

    Raises:
        OptionsError: the strength is not in [0, 1].
        WeightsError: one of the two files cannot be fetched.
    """
    if not 0 <= strength <= 1:
        raise OptionsError(f'denoise strength {strength}: expected a number from 0 to 1')
    strong, weak = (find(name) for name in (GENERAL, GENERAL_WEAK_DENOISING))
    if strength == 1:
        return open_network(GENERAL)
    paths = [fetch(weights.name) for weights in (weak, strong)]
    first, second = (load_state(path, weights.key) for path, weights in zip(paths, (weak, strong)))
    state = {key: torch.lerp(first[key].float(), second[key].float(), strength) for key in first}
    return fill(build_quietly(dict(strong.network)), state, str(paths[0])).eval()


def open_with_options(name_or_file: str, options: str | None = None, *, own_classes: bool = False) -> OpenedNetwork:
    """As :func:`open_network`, with the options block that a file of the network needs.

    Args:
        name_or_file: as there.
        options: as there.
        own_classes: take spandrel only for networks that BasicSR does not have: its own classes keep the key names that
            Real-ESRGAN's programs read.
    """
    path = _found(name_or_file)
    if options is not None:
        net, network = read_network_block(options)
        fill(net, load_state(path), path)
        return OpenedNetwork(net, described(network) if isinstance(net, DefenseMixin) else None)
    content = read_file(path)
    state = without_wrapper(state_in(content, path))
    stored = content.get(NETWORK) if isinstance(content, dict) else None
    if stored is not None:
        net, network = _described(stored, state, path)
        return OpenedNetwork(fill(net, state, path), described(network))
    if any(key.startswith('defense.') for key in _own_names(state)):
        network = recognise(state, path)
    else:
        return OpenedNetwork(_plain(state, path, own_classes), None)
    return OpenedNetwork(fill(_built(network, state, path), state, path), described(network))


def _found(name_or_file: str) -> str:
    """The path of a weight file, fetched if it is an official name."""
    if name_or_file in WEIGHTS and not osp.isfile(name_or_file):
        return str(fetch(name_or_file))
    if name_or_file in DISCRIMINATORS and not osp.isfile(name_or_file):
        raise OptionsError(f'{name_or_file} is a discriminator, which trains a network and upscales nothing')
    if not osp.exists(name_or_file):
        if osp.splitext(name_or_file)[1] or osp.basename(name_or_file) != name_or_file:
            raise OptionsError(f'{name_or_file} does not exist; check the path, or fetch weights with "rsr weights"')
        try:
            find(name_or_file)
        except OptionsError as error:
            raise OptionsError(f'there is no file {name_or_file}, and {error}') from None
    return name_or_file


def _plain(state: State, path: str, own_classes: bool) -> nn.Module:
    """A network without a defence: of spandrel, or of BasicSR's classes where spandrel is not wanted or cannot."""
    network = _backbone(_own_names(state))
    if has_spandrel() and not (own_classes and network is not None):
        try:
            return spandrel_network(state, path)
        except WeightsError:
            if network is None:
                raise
    if network is None:
        raise WeightsError(_unknown(state, path))
    return fill(_built(network, state, path), state, path)


def _built(network: dict[str, Any], state: State, path: str) -> nn.Module:
    """The network of an options block that was inferred from tensors."""
    try:
        return built_within(lambda: build_quietly(network), state)
    except WeightsError as error:
        raise WeightsError(f'{path}: the {network["type"]} of these tensors cannot be built: {error}') from None


def recognise(state: State, path: str) -> dict[str, Any]:
    """Infer the options block ``network_g`` from the tensors of a network.

    Args:
        state: a state dict, as :func:`rsr_basicsr.weights.state_dict.load_state` returns it.
        path: named in messages.

    Raises:
        WeightsError: the architecture or the classifier is unknown.
    """
    state = _own_names(without_wrapper(state))
    network = _backbone(state)
    if network is None:
        raise WeightsError(_unknown(state, path))
    classifier = {
        key[len('defense.classifier.') :]: value
        for key, value in state.items()
        if key.startswith('defense.classifier.')
    }
    if not classifier:
        return network
    kind = network['type']
    defense: dict[str, Any] = {'classifier': {'type': _classifier(classifier, path), 'weights': UNTRAINED}}
    if kind in POINTS:
        defense['points'] = list(POINTS[kind])
    return {**network, 'type': f'Defended{kind}', 'defense': defense}


def _own_names(state: State) -> State:
    """A published CDC under the names of this package, with its classifier as that of a defence."""
    return renamed(state) if is_published(state) else state


def _backbone(state: State) -> dict[str, Any] | None:
    return _rrdbnet(state) or _compact(state) or _cdc(state)


def _unknown(state: State, path: str) -> str:
    """The sentence for tensors of an unknown network."""
    for key, what in _OTHER_NAMES.items():
        if key in state:
            return f'{path}: these are weights of {what}, which spandrel reads; {INSTALL_SPANDREL}'
    others = '' if has_spandrel() else f'; {INSTALL_SPANDREL} to recognise others'
    return (
        f'{path}: the network cannot be inferred from these weights, only RRDBNet, CDC and SRVGGNetCompact of three '
        f'channels can{others}; or give an options file with its network_g by -opt'
    )


def _described(network: Any, state: State, path: str) -> tuple[nn.Module, dict[str, Any]]:
    """The network that a file describes, and its options, checked against the tensors: it may come from anywhere."""
    where = f'{path}: {NETWORK}'
    try:
        kind = network['type']
        if str(kind) not in ARCH_REGISTRY:
            raise OptionsError(
                f'{where}: {kind} is not a registered architecture; name the module that registers it by --import'
            )
        cls = ARCH_REGISTRY.get(kind)
        if not issubclass(cls, DefenseMixin):
            raise OptionsError(f'{where}: {kind} is not a defended network')
        stored = network.get('defense')
        if isinstance(stored, Mapping) and 'points' not in stored:
            stored = {**stored, 'points': ['all']}  # the default of all networks when such files were written
        defense = parse_block(stored, DefenseOptions, f'{where}.defense')
        defense['classifier']['weights'] = UNTRAINED  # the file holds its values
        network = {**network, 'defense': defense}
        net = built_within(lambda: build_quietly(network), state)
    except WeightsError as error:
        raise WeightsError(f'{where} cannot be built: {error}') from None
    except RSRError as error:
        raise WeightsError(str(error)) from None
    except Exception as error:  # a constructor can raise anything on wrong arguments
        raise WeightsError(f'{where} cannot be built: {in_one_line(error)}') from error
    shapes = {key: value.shape for key, value in net.state_dict().items()}
    for key, value in state.items():
        if shapes.get(key) != value.shape:
            raise WeightsError(f'{where} does not match the tensors: {key}')
    return net, network


def _rrdbnet(state: State) -> dict[str, Any] | None:
    first, last, grown = (
        state.get(key) for key in ('conv_first.weight', 'conv_last.weight', 'body.0.rdb1.conv1.weight')
    )
    if first is None or last is None or grown is None or not first.dim() == last.dim() == grown.dim() == 4:
        return None
    # Below x4 it first unshuffles pixels into channels.
    scale = {3: 4, 12: 2, 48: 1}.get(first.shape[1])
    if scale is None or last.shape[0] != 3:
        return None
    return dict(
        type='RRDBNet',
        num_in_ch=3,
        num_out_ch=3,
        scale=scale,
        num_feat=first.shape[0],
        num_block=1 + max(_numbers(r'body\.(\d+)\.rdb1\.', state)),
        num_grow_ch=grown.shape[0],
    )


def _compact(state: State) -> dict[str, Any] | None:
    numbers = sorted(_numbers(r'body\.(\d+)\.weight', state))
    layers = [state[key] for key in (f'body.{number}.weight' for number in numbers) if key in state]
    convolutions = [layer for layer in layers if layer.dim() == 4]
    if len(convolutions) < 2 or any(not key.startswith(('body.', 'defense.')) for key in state):
        return None
    upscale = math.isqrt(convolutions[-1].shape[0] // 3)
    # Without PReLU slopes it has ReLU or LeakyReLU; the tensors do not tell which.
    if len(layers) == len(convolutions) or convolutions[0].shape[1] != 3 or convolutions[-1].shape[0] != 3 * upscale**2:
        return None
    return dict(
        type='SRVGGNetCompact',
        num_in_ch=3,
        num_out_ch=3,
        num_feat=convolutions[0].shape[0],
        num_conv=len(convolutions) - 2,
        upscale=upscale,
        act_type='prelu',
    )


def _cdc(state: State) -> dict[str, Any] | None:
    last = max(_numbers(r'picture_heads\.0\.(\d+)\.weight', state), default=None)
    stem, head, attention = (
        state.get(key) for key in ('stem.weight', f'picture_heads.0.{last}.weight', f'attention_heads.0.{last}.weight')
    )
    hourglasses = _numbers(r'hourglasses\.(\d+)\.', state)
    if stem is None or head is None or attention is None or not stem.dim() == head.dim() == attention.dim() == 4:
        return None
    # x4 heads upsample twice and are longer; x3 attention heads end with a 3x3 convolution.
    scale = 4 if last == 9 else 3 if attention.shape[-1] == 3 else 2
    if (stem.shape[1], head.shape[0]) != (3, 3) or last not in (6, 9) or len(hourglasses) % 2:
        return None
    return dict(
        type='CDC', num_in_ch=3, num_out_ch=3, num_feat=stem.shape[0], num_hourglass=len(hourglasses), scale=scale
    )


def _numbers(pattern: str, state: State) -> set[int]:
    """The numbers in the first group of a pattern that keys begin with."""
    return {int(found[1]) for found in (re.match(pattern, key) for key in state) if found}


def _classifier(state: State, path: str) -> str:
    shapes = {key: value.shape for key, value in state.items()}
    for name, cls in CLASSIFIERS.items():
        with torch.device('meta'):
            own = {key: value.shape for key, value in cls().state_dict().items()}
        # Files older than the calibration entries lack them.
        if all(own.get(key) == shape for key, shape in shapes.items()) and all(
            key.rsplit('.')[-1] in CALIBRATION for key in own.keys() - shapes.keys()
        ):
            return name
    raise WeightsError(f'{path} holds a classifier of unknown size; give the options file it was trained with by -opt')
