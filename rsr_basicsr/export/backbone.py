"""Weight files: the network without its defence for other programs, or all of it as safetensors."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.export.examples import example_images
from rsr_basicsr.inference.recognition import open_with_options
from rsr_basicsr.ops.tiled import windows_of
from rsr_basicsr.utils.errors import ExportError, WeightsError
from rsr_basicsr.weights.safetensors_file import SAFETENSORS, safetensors_bytes
from rsr_basicsr.weights.spandrel_network import SpandrelNetwork
from rsr_basicsr.weights.state_dict import load_state
from rsr_basicsr.weights.versions import with_metadata

BACKBONE_ACCEPTS = 'a plain network of the same architecture'
DEFENDED_ACCEPTS = 'the commands of this package'
WHOLE_PROTECTION = 'all of it: masks, detector and settings'
PLAIN_PROTECTION = 'the weights unchanged; the network has no defence'
#: Protection without masks and detector
WEIGHTS_ONLY = 'the adversarial training of the weights; no masks, no detector'
_DEFENSE = 'defense.'


def backbone_protection(net: nn.Module) -> str:
    """Description of the protection that the file keeps."""
    if not isinstance(net, DefenseMixin):
        return PLAIN_PROTECTION
    return WEIGHTS_ONLY


def backbone_bytes(net: nn.Module, path: Path) -> bytes:
    """The content of the weight file, as safetensors if the path says so.

    Else the tensors are under both ``params_ema`` and ``params``: programs read one key or the other. They are stored
    once.
    """
    state = _plain_state(net)
    if path.suffix.lower() == SAFETENSORS:
        return safetensors_bytes(state)
    content = io.BytesIO()
    torch.save({'params_ema': state, 'params': state}, content)
    return content.getvalue()


def whole_bytes(net: nn.Module, network: Mapping[str, Any] | None) -> bytes:
    """The content of a safetensors file of the network with its defence.

    Args:
        net: the network.
        network: the options of a defended network, which the file keeps; None for other networks.
    """
    if isinstance(net, DefenseMixin):
        return safetensors_bytes(net.state_dict(), network)
    return safetensors_bytes(_plain_state(net))


def verify_weights(content: bytes, net: nn.Module, suffix: str) -> list[tuple[float, float]]:
    """Largest difference and largest output per image, between the network of the file and ``net``, both unmasked.

    If the class cannot be recognised by the tensors, compares the tensors instead.

    Raises:
        ExportError: the file keeps a defence, and opens as something else.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f'exported{suffix}'
        path.write_bytes(content)
        opened = _opened(path, net)
        if opened is None:
            state, own = load_state(path), _plain_state(net)
            return [(float((state[name] - own[name]).abs().max()), 1.0) for name in own if own[name].numel()]
    if isinstance(opened, DefenseMixin):
        found, own = opened.state_dict(), net.state_dict()
        if found.keys() != own.keys() or not all(torch.equal(found[name], own[name]) for name in own):
            raise ExportError('the file was not written: the network read from it has other values')
    images = example_images(windows_of(net))
    with torch.no_grad():
        expected = [_unmasked(net, x) for x in images]
        return [
            (float((_unmasked(opened, x) - output).abs().max()), float(output.abs().max()))
            for x, output in zip(images, expected)
        ]


def _opened(path: Path, net: nn.Module) -> nn.Module | None:
    """The network that a file gives; None if its tensors do not tell which class it is of."""
    try:
        opened = open_with_options(str(path), own_classes=True).net
    except WeightsError:
        return None
    # spandrel guesses what the tensors do not tell, such as the range of values inside a network.
    return None if isinstance(opened, SpandrelNetwork) != isinstance(net, SpandrelNetwork) else opened


def _plain_state(net: nn.Module) -> dict[str, torch.Tensor]:
    state = (net.model if isinstance(net, SpandrelNetwork) else net).state_dict()
    plain: Any = with_metadata(
        {key: value.detach().clone() for key, value in state.items() if not key.startswith(_DEFENSE)}, state
    )
    for name in [name for name in plain._metadata if f'{name}.'.startswith(_DEFENSE)]:
        del plain._metadata[name]
    return plain


def _unmasked(net: Any, x: torch.Tensor) -> torch.Tensor:
    unmasked = net.defense.forced(False) if isinstance(net, DefenseMixin) else contextlib.nullcontext()
    with unmasked:
        return net(x)
