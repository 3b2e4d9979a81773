"""The network without its defence, as a weight file for other programs."""

from __future__ import annotations

import io

import torch
from torch import nn

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.export.examples import example_images
from rsr_basicsr.inference.recognition import recognise
from rsr_basicsr.ops.tiled import windows_of
from rsr_basicsr.utils.errors import WeightsError
from rsr_basicsr.weights.state_dict import build_quietly
from rsr_basicsr.weights.versions import with_metadata

BACKBONE_TAKES = 'a plain network of the same kind'
PLAIN_KEEPS = 'the weights as they are; the network has no defence'
_DEFENSE = 'defense.'


def backbone_keeps(net: nn.Module) -> str:
    """What protection the file has, in words."""
    if not isinstance(net, DefenseMixin):
        return PLAIN_KEEPS
    return 'what the training put into the weights; no masks, no detector'


def backbone_bytes(net: nn.Module) -> bytes:
    """The content of the file: the same tensors as ``params_ema`` and as ``params``, since some programs read one
    and some the other; they are in it once.
    """
    state = _plain_state(net)
    content = io.BytesIO()
    torch.save({'params_ema': state, 'params': state}, content)
    return content.getvalue()


def verify_backbone(content: bytes, net: nn.Module) -> list[tuple[float, float]]:
    """Largest difference and largest output for each image, of a network made from the file alone and of ``net``
    without masks. Of a network that cannot be told from its tensors, the tensors are compared instead.
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


def _plain_state(net) -> dict[str, torch.Tensor]:
    state = net.state_dict()
    plain = with_metadata(
        {key: value.detach().clone() for key, value in state.items() if not key.startswith(_DEFENSE)}, state
    )
    for name in [name for name in plain._metadata if f'{name}.'.startswith(_DEFENSE)]:
        del plain._metadata[name]
    return plain


def _unmasked(net, x):
    if not isinstance(net, DefenseMixin):
        return net(x)
    with net.defense.forced(False):
        return net(x)
