"""The network without its defence, as a weight file for other programs."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import torch
from torch import nn

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.export.examples import example_images
from rsr_basicsr.inference.recognition import recognise
from rsr_basicsr.ops.tiled import windows_of
from rsr_basicsr.utils.errors import WeightsError
from rsr_basicsr.weights.state_dict import build_quietly
from rsr_basicsr.weights.versions import with_metadata

BACKBONE_ACCEPTS = 'a plain network of the same architecture'
PLAIN_PROTECTION = 'the weights unchanged; the network has no defence'
#: Protection without masks and detector
WEIGHTS_ONLY = 'the adversarial training of the weights; no masks, no detector'
_DEFENSE = 'defense.'


def backbone_protection(net: nn.Module) -> str:
    """Description of the protection that the file keeps."""
    if not isinstance(net, DefenseMixin):
        return PLAIN_PROTECTION
    return WEIGHTS_ONLY


def backbone_bytes(net: nn.Module) -> bytes:
    """The content of the weight file, with the tensors under both ``params_ema`` and ``params``.

    Programs read one key or the other; the tensors are stored once.
    """
    state = _plain_state(net)
    content = io.BytesIO()
    torch.save({'params_ema': state, 'params': state}, content)
    return content.getvalue()


def verify_backbone(content: bytes, net: nn.Module) -> list[tuple[float, float]]:
    """Largest difference and largest output per image, between a network built from the file and ``net`` unmasked.

    If the architecture cannot be recognised by its tensors, compares the tensors instead.
    """
    state = torch.load(io.BytesIO(content), weights_only=True)['params_ema']
    try:
        plain = build_quietly(recognise(state, 'the backbone'))
    except WeightsError:
        own = _plain_state(net)
        return [(float((state[name] - own[name]).abs().max()), 1.0) for name in own]
    plain.load_state_dict(state)
    plain.eval()
    images = example_images(windows_of(net))
    with torch.no_grad():
        expected = [_unmasked(net, x) for x in images]
        return [
            (float((plain(x) - output).abs().max()), float(output.abs().max())) for x, output in zip(images, expected)
        ]


def _plain_state(net: nn.Module) -> dict[str, torch.Tensor]:
    state = net.state_dict()
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
