"""A reference implementation of LPIPS, and small random weights of its networks."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import alexnet, squeezenet1_1

#: Network -> layers whose outputs LPIPS compares
TAKEN = {'alex': (1, 4, 7, 9, 11), 'squeeze': (1, 4, 7, 9, 10, 11, 12)}


def alexnet_features() -> nn.Sequential:
    """AlexNet's convolutions with random weights, without its other layers, which are 24 times as large."""
    return _random(alexnet)


def squeezenet_features() -> nn.Sequential:
    """Those of SqueezeNet 1.1."""
    return _random(squeezenet1_1)


def save_features(features: nn.Module, path: Path) -> Path:
    """Write weights as torchvision's files have them."""
    torch.save({f'features.{key}': value for key, value in features.state_dict().items()}, path)
    return path


def _random(network: Callable[..., nn.Module]) -> nn.Sequential:
    with torch.device('meta'):
        features = network(weights=None).features
    features.to_empty(device='cpu')
    for layer in features.modules():
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    return features.eval()


def by_definition(features: Iterable[nn.Module], x: torch.Tensor, y: torch.Tensor, net: str = 'alex') -> torch.Tensor:
    """LPIPS by equation 1 of Zhang et al. 2018, for images (B, 3, H, W) in [0, 1]; shape (B,)."""
    import lpips  # an optional extra

    # lpips ships the trained weights of the channels.
    heads = torch.load(Path(lpips.__file__).parent / f'weights/v0.1/{net}.pth', map_location='cpu', weights_only=True)
    shift, scale = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x, y = ((images - shift.view(3, 1, 1)) / scale.view(3, 1, 1) for images in (x, y))
    distance = torch.zeros(())
    with torch.no_grad():
        for index, layer in enumerate(features):
            x, y = layer(x), layer(y)
            if index in TAKEN[net]:  # after each ReLU
                weight = heads[f'lin{TAKEN[net].index(index)}.model.1.weight']
                difference = (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square()
                distance = distance + F.conv2d(difference, weight).mean(dim=(1, 2, 3))
    return distance
