"""CDC with weights from a formula, and weight files under published names."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from basicsr.archs import build_network
from torch import nn

FIXTURES = Path(__file__).parent / 'fixtures' / 'cdc'
REFERENCE = json.loads((FIXTURES / 'reference.json').read_text())
PUBLISHED = {ours: published for published, ours in json.loads((FIXTURES / 'key_map.json').read_text())['pairs']}
SMALL = dict(num_feat=4, num_hourglass=4)
WRAPPED = {
    'at the top': lambda state: state,
    'in params': lambda state: {'params': state},
    'in params_ema': lambda state: {'params_ema': state},
    'in state_dict': lambda state: {'state_dict': state, 'epoch': 3},
    'of DataParallel': lambda state: parallel(state),
}


def fill_by_formula(net: nn.Module) -> nn.Module:
    """Element i of parameter k is a * sin(0.7 i + k), as in the reference."""
    with torch.no_grad():
        for k, parameter in enumerate(net.parameters()):
            i = torch.arange(parameter.numel(), dtype=torch.float64)
            a = (2.5 / parameter[0].numel()) ** 0.5 if parameter.dim() == 4 else 0.05
            parameter.copy_((a * torch.sin(0.7 * i + k)).view_as(parameter))
    return net


def reference_input(height: int, width: int) -> torch.Tensor:
    c, i, j = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (3, height, width)), indexing='ij')
    return (0.5 + 0.5 * torch.sin(0.37 * i + 0.61 * j + 1.3 * c)).float()[None]


def at_reference(output: torch.Tensor, head: Mapping) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs of a network at the 40 places of a head in the reference, and those of the published code."""
    assert list(output.shape) == head['shape']
    return output.flatten()[head['indices']], torch.tensor(head['values'])


def published_state(net: nn.Module, pairs: Mapping[str, str] = PUBLISHED) -> OrderedDict[str, torch.Tensor]:
    """The state dict of a plain CDC as the published code would save it, with the version that torch stores."""
    state = OrderedDict()
    for key, value in net.state_dict().items():
        module, _, parameter = key.rpartition('.')
        state[f'{pairs[module]}.{parameter}'] = value
    state._metadata = OrderedDict({'': {'version': 1}, 'conv_in': {'version': 1}})
    return state


def classifier_state() -> dict[str, torch.Tensor]:
    """The paper's classifier under its published names, small random values."""
    shapes = {0: (512, 256), 2: (256, 512), 4: (2, 256)}
    return {
        f'preclass.fcall.{layer}.{name}': torch.randn(shape) / 16
        for layer, full in shapes.items()
        for name, shape in (('weight', full), ('bias', full[:1]))
    }


def small_cdc(kind: str = 'CDC', **options) -> nn.Module:
    return build_network({'type': kind, **SMALL, **options}).eval()


def parallel(state):
    wrapped = OrderedDict((f'module.{key}', value) for key, value in state.items())
    wrapped._metadata = OrderedDict({'': {'version': 1}})
    wrapped._metadata.update({f'module.{name}'.rstrip('.'): entry for name, entry in state._metadata.items()})
    return wrapped


def save(state, path, how='at the top'):
    torch.save(WRAPPED[how](state), path)
    return str(path)


def with_classifier(net):
    state = published_state(net)
    state.update(classifier_state())
    return state
