"""CDC, the component divide-and-conquer network that Yue et al. 2021 defend (Wei et al., ECCV 2020; HGSR-MHR)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from basicsr.utils import get_root_logger
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn
from torch.nn import functional as F

from rsr_basicsr.archs.cdc_published import for_network, is_published
from rsr_basicsr.weights.versions import refuse_older_files

State = Mapping[str, torch.Tensor]

_POOLINGS = 4


class CDCOutput(NamedTuple):
    """Output images of the heads, each (B, num_out_ch, scale*H, scale*W).

    Attributes:
        flat, edge, corner: the three component images.
        fused: their sum, weighted per channel and pixel by the softmax over the three attention maps.
    """

    flat: torch.Tensor
    edge: torch.Tensor
    corner: torch.Tensor
    fused: torch.Tensor


@ARCH_REGISTRY.register()
class CDC(nn.Module):
    """A stem, a sequence of hourglasses, and three pairs of heads: for flat regions, edges and corners.

    The flat heads read the inner output of hourglass 2, the edge heads that of hourglass n/2 + 1, the corner heads
    0.2 times the output of the last hourglass plus that of the stem. 39,920,530 parameters at x4.

    Args:
        num_in_ch: channels of the input.
        num_out_ch: channels of the output.
        num_feat: channels of the stem.
        num_hourglass: number of hourglasses, even, at least 2.
        scale: 2, 3 or 4.

    Raises:
        ValueError: num_hourglass or scale is out of range.

    Shape:
        (B, num_in_ch, H, W) in [0, 1] -> (B, num_out_ch, scale*H, scale*W). Sizes that are no multiples of 16 (four
        poolings) are padded at the lower right by repeating the edge, and the output is cropped.

    Weights also load under the module names of the published code.
    """

    _version = 2  # torch stores it in every state dict

    def __init__(
        self, num_in_ch: int = 3, num_out_ch: int = 3, num_feat: int = 64, num_hourglass: int = 6, scale: int = 4
    ) -> None:
        super().__init__()
        if num_hourglass < 2 or num_hourglass % 2:
            raise ValueError(f'num_hourglass must be even and at least 2, got {num_hourglass}')
        if scale not in (2, 3, 4):
            raise ValueError(f'scale must be 2, 3 or 4, got {scale}')
        self.scale = scale
        self.window_size = 2**_POOLINGS  # images are padded to multiples of it
        self.edge_at = num_hourglass // 2
        self.stem = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.hourglasses = nn.ModuleList(
            Hourglass(num_feat, with_tail=index < num_hourglass - 1) for index in range(num_hourglass)
        )
        # Kernel of the last convolution of the attention heads: 1, but 3 at x3.
        attention = 3 if scale == 3 else 1
        self.picture_heads = nn.ModuleList(_head(num_feat, num_out_ch, scale, 3) for _ in range(3))
        self.attention_heads = nn.ModuleList(_head(num_feat, num_out_ch, scale, attention) for _ in range(3))
        refuse_older_files(
            self,
            self._version,
            "the activations that end the inception blocks' third branches (ten in "
            'the published network) were added later, and change the output; train it again',
        )

    #: Set by the trainer around its step, whose loss takes a :class:`CDCOutput`
    returns_components = False

    def forward(self, x: torch.Tensor) -> torch.Tensor | CDCOutput:
        """The fused image, or a :class:`CDCOutput` if ``returns_components`` is set."""
        height, width = x.shape[-2:]
        missing = -width % self.window_size, -height % self.window_size
        features = self._features(F.pad(x, (0, missing[0], 0, missing[1]), mode='replicate'))
        images = [head(feature) for head, feature in zip(self.picture_heads, features)]
        attention = torch.stack([head(feature) for head, feature in zip(self.attention_heads, features)])
        fused = (attention.softmax(dim=0) * torch.stack(images)).sum(dim=0)
        output = CDCOutput(*(p[..., : height * self.scale, : width * self.scale] for p in (*images, fused)))
        return output if self.returns_components else output.fused

    def under_own_names(self, state: State, report: Callable[[str], None] = lambda line: None) -> State:
        """A state dict under the module names of this network.

        Args:
            state: under these names (returned unchanged) or those of the published code.
            report: called with a sentence if the file has a classifier that this network does not have.
        """
        if not is_published(state):
            return state
        ours, left_out = for_network(state, self)
        if left_out:
            report(
                f'{type(self).__name__}: the classifier in the published file is left out; DefendedCDC with '
                'defense.classifier.type: paper loads it.'
            )
        return ours

    def load_state_dict(self, state_dict: State, strict: bool = True, assign: bool = False) -> Any:
        """As in torch; also takes weights under the names of the published code."""
        return super().load_state_dict(self.under_own_names(state_dict, get_root_logger().info), strict, assign)

    def _features(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Inputs of the flat, edge and corner heads."""
        stem = outer = self.stem(x)
        inners = []
        for hourglass in self.hourglasses:
            inner, outer = hourglass(outer)
            inners.append(inner)
        return inners[1], inners[self.edge_at], 0.2 * outer + stem


class Hourglass(nn.Module):
    """Four encoder steps, two residual blocks, four decoder steps with skips; then two inception blocks.

    Args:
        num_feat: channels of input and outputs.
        with_tail: whether there are inception blocks.

    Shape:
        (B, num_feat, H, W), H and W multiples of 16 -> the inner output, the sum of decoder and outermost skip, and
        the outer one, behind the inception blocks; both of the shape of the input.
    """

    def __init__(self, num_feat: int, with_tail: bool) -> None:
        super().__init__()
        wide, wider = 2 * num_feat, 4 * num_feat
        self.encoder = nn.ModuleList(
            ResidualBlock(*ab) for ab in ((num_feat, wide), (wide, wide), (wide, wider), (wider, wider))
        )
        self.bottom = nn.Sequential(ResidualBlock(wider, wider), ResidualBlock(wider, wider))
        self.skips = nn.ModuleList(ResidualBlock(c, c) for c in (wider, wider, wide, wide))
        self.decoder = nn.ModuleList(
            ResidualBlock(*ab) for ab in ((wider, wider), (wider, wide), (wide, wide), (wide, num_feat))
        )
        self.outermost_skip = ResidualBlock(num_feat, num_feat)
        self.inner = nn.Identity()  # a named module, so that the sum can be masked
        tail = (InceptionBlock(num_feat), InceptionBlock(num_feat)) if with_tail else ()
        self.tail = nn.Sequential(*tail)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        kept, y = [], x
        for block in self.encoder:
            y = block(y)
            kept.append(y)
            y = F.max_pool2d(y, 2)
        y = self.bottom(y)
        for block, skip, encoded in zip(self.decoder, self.skips, reversed(kept)):
            y = block(F.interpolate(y, scale_factor=2, mode='nearest') + skip(encoded))
        inner = self.inner(y + self.outermost_skip(x))
        return inner, self.tail(inner)


class ResidualBlock(nn.Module):
    """1x1, 3x3, 1x1 without bias, plus the input, through a 1x1 if the number of channels changes."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(num_in, num_out, 1), _lrelu(), _conv(num_out, num_out, 3), _lrelu(), _conv(num_out, num_out, 1)
        )
        self.shortcut = nn.Identity() if num_in == num_out else _conv(num_in, num_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) + self.shortcut(x)


class InceptionBlock(nn.Module):
    """Three branches of growing receptive field, concatenated and fused by a 1x1, plus the input; no bias."""

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        n = num_feat
        self.branches = nn.ModuleList(
            [
                nn.Sequential(_conv(n, n, 1), _lrelu()),
                nn.Sequential(_conv(n, n, 1), _conv(n, n, 3), _lrelu()),
                nn.Sequential(_conv(n, n, 1), _conv(n, n, 3), _lrelu(), _conv(n, n, 3), _lrelu()),
            ]
        )
        self.fuse = _conv(3 * n, n, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fuse(torch.cat([branch(x) for branch in self.branches], dim=1)) + x


def _head(num_feat: int, num_out: int, scale: int, last_kernel: int) -> nn.Sequential:
    layers: list[nn.Module] = [_conv(num_feat, num_feat, 3, bias=True)]
    for factor in {2: (2,), 3: (3,), 4: (2, 2)}[scale]:
        layers += [nn.Upsample(scale_factor=factor), _conv(num_feat, num_feat, 3, bias=True), _lrelu()]
    layers += [_conv(num_feat, num_feat, 3, bias=True), _lrelu(), _conv(num_feat, num_out, last_kernel, bias=True)]
    return nn.Sequential(*layers)


def _conv(num_in: int, num_out: int, kernel: int, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(num_in, num_out, kernel, padding=kernel // 2, bias=bias)


def _lrelu() -> nn.LeakyReLU:
    return nn.LeakyReLU(0.2, inplace=True)
