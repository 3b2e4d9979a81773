"""Upscaling in tiles, for images that are too large for one pass, under one decision per image."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from basicsr.archs.rrdbnet_arch import RRDBNet
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from rsr_basicsr.ops.whole_masks import WholeMasks, spans
from rsr_basicsr.weights.spandrel_network import SpandrelNetwork

if TYPE_CHECKING:
    from rsr_basicsr.archs.defense import Decision, Defense

OVERLAP = 16  # pixels


def upscale(net: nn.Module, lq: torch.Tensor, *, tile: int | None = None, overlap: int = OVERLAP) -> torch.Tensor:
    """Upscale images, in tiles where they are larger than a tile.

    A defended network decides once per image and masks whole feature maps, unless its defence has ``decision: tile``:
    decisions or masks per tile cause seams. Within the reach of the overlap, the result equals that of one pass. Each
    mask inside the network costs up to one more pass over the masked images. Masks are per tile only behind a defence
    that changes what the network sees of a tile, such as random resizing.

    Within the reach of the overlap, gradients with respect to ``lq`` are those of the whole image. The backward pass
    recomputes the tiles one by one, so the memory for one tile suffices.

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW).
        lq: the images, (B, 3, H, W) in [0, 1]; may be on another device than the network, whose device then holds one
            tile at a time.
        tile: size of the tiles in pixels of ``lq``, without the overlap; None takes the whole image.
        overlap: margin in pixels of ``lq`` that the network sees around a tile and that is cropped from its output.

    Returns:
        (B, 3, sH, sW), on the device of ``lq``.

    Raises:
        ValueError: the network does not upscale by an integer.
    """
    device = _device_of(net, lq)
    if tile is None or max(lq.shape[-2:]) <= tile:
        return net(lq) if device == lq.device else net(lq.to(device)).to(lq.device)
    decisions = {defense: defense.decide(lq.to(device)) for defense in defenses(net) if defense.decision != 'tile'}
    if not any(map(_masks, decisions.values())):
        return _upscale_tiles(net, lq, decisions, tile, overlap)
    return torch.cat(
        [
            _upscale_tiles(net, lq[index : index + 1], _of_image(decisions, index), tile, overlap)
            for index in range(len(lq))
        ]
    )


def _upscale_tiles(
    net: nn.Module, lq: torch.Tensor, decisions: Mapping[Defense, Decision], tile: int, overlap: int
) -> torch.Tensor:
    """Upscale one image, or several of which none is masked."""
    inner: Defense | None = getattr(_unwrapped(net), 'defense', None)
    multiple = windows_of(net)
    tile, overlap = (-(-pixels // multiple) * multiple for pixels in (tile, overlap))
    rows, columns = (spans(size, tile, overlap) for size in lq.shape[-2:])
    masks = WholeMasks(net, False if inner is None else decisions.get(inner, False), rows, columns, multiple)
    device = _device_of(net, lq)

    def run(function: Callable[[torch.Tensor], torch.Tensor], window: torch.Tensor) -> torch.Tensor:
        with contextlib.ExitStack() as stack:
            for defense, decision in decisions.items():
                stack.enter_context(defense.forced(decision))
                stack.enter_context(defense.masking_by(masks if defense is inner else None))
            return function(window.to(device))

    needs_gradient = torch.is_grad_enabled() and lq.requires_grad
    return masks.upscale(lq, functools.partial(checkpoint, run, use_reentrant=False) if needs_gradient else run)


def _device_of(net: nn.Module, lq: torch.Tensor) -> torch.device:
    """Device of the network; that of ``lq`` for a network without parameters."""
    return next((parameter.device for parameter in net.parameters()), lq.device)


def _unwrapped(net: nn.Module) -> nn.Module:
    """The network inside wrappers that pass images on unchanged, apart from padding."""
    inside = next(
        (
            getattr(net, name)
            for name, kind in (
                ('net', Padded),
                ('module', nn.DataParallel),
                ('module', nn.parallel.DistributedDataParallel),
                ('_orig_mod', torch._dynamo.OptimizedModule),
            )
            if isinstance(net, kind)
        ),
        None,
    )
    return net if inside is None else _unwrapped(inside)


def _masks(decision: Decision) -> bool:
    """Whether a decision masks any image, or needs the gradient of one that it does not mask."""
    return decision if isinstance(decision, bool) else decision.requires_grad or bool(decision.any())


def _of_image(decisions: Mapping[Defense, Decision], index: int) -> dict[Defense, Decision]:
    return {
        defense: decision if isinstance(decision, bool) else decision[index : index + 1]
        for defense, decision in decisions.items()
    }


def windows_of(net: nn.Module) -> int:
    """The number that image sides must be multiples of for a network; 1 for most.

    It follows from integer attributes ``window_size`` of the network or its parts, as in SwinIR and CDC, and from the
    scale of an RRDBNet, which unshuffles pixels into channels below x4. Networks of spandrel pad images themselves.
    """
    padded = {part for module in net.modules() if isinstance(module, SpandrelNetwork) for part in module.modules()}
    modules = [module for module in net.modules() if module not in padded]
    sizes = [getattr(module, 'window_size', 1) for module in modules]
    folds = [max(4 // module.scale, 1) for module in modules if isinstance(module, RRDBNet)]
    return math.lcm(*(size for size in (*sizes, *folds) if isinstance(size, int)))


class Padded(nn.Module):
    """Pads images to multiples of the window size of a network, as SwinIRModel does in tests, and crops the output.

    Args:
        net: maps (B, C, H, W) to (B, C, sH, sW).
        window: H and W are padded to multiples of it.
    """

    def __init__(self, net: nn.Module, window: int) -> None:
        super().__init__()
        self.net, self.window_size = net, window

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        output: torch.Tensor = self.net(
            F.pad(x, (0, -width % self.window_size, 0, -height % self.window_size), 'reflect')
        )
        scale = output.shape[-1] // (width + -width % self.window_size)
        return output[..., : height * scale, : width * scale]


def defenses(net: object) -> list[Defense]:
    """The defences inside a network, also if it is wrapped, compiled, or one module of a sequence."""
    modules = net.modules() if isinstance(net, nn.Module) else ()
    found: dict[int, Defense] = {}
    for module in modules:
        defense: Any = getattr(module, 'defense', None)
        if hasattr(defense, 'forced'):
            found[id(defense)] = defense
    return list(found.values())


def tile_within(net: nn.Module, lq: torch.Tensor, memory: float, overlap: int = OVERLAP) -> int | None:
    """The largest tile whose pass with the gradient of the input stays within a memory bound.

    Extrapolates, by area, from what autograd stores for a small window. The bound covers the activations of a pass,
    not the network itself or the whole images.

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW); parameters that require a gradient increase what is stored.
        lq: the images, (B, 3, H, W).
        memory: the bound in GiB.
        overlap: margin in pixels around a tile.

    Returns:
        Size of the tiles in pixels of ``lq``, a multiple of 8, or None if the whole images fit.

    Raises:
        ValueError: not even a tile of 8 pixels fits.
    """
    side = min(64, *lq.shape[-2:])
    kept = _kept_bytes(net, lq[..., :side, :side])
    # In addition to what is stored: the widest layers in the forward pass, their gradients in the backward pass.
    per_pixel = 1.5 * kept / side**2
    if per_pixel * lq.shape[-2] * lq.shape[-1] <= memory * 2**30:
        return None
    tile = (int(math.sqrt(memory * 2**30 / per_pixel)) - 2 * overlap) // 8 * 8
    if tile < 8:
        least = per_pixel * (8 + 2 * overlap) ** 2 / 2**30
        raise ValueError(
            f'memory: {memory} GiB is too little for a tile of 8 pixels with an overlap of {overlap}; it '
            f'takes {math.ceil(least * 1000) / 1000}'
        )
    return tile


def _kept_bytes(net: nn.Module, window: torch.Tensor) -> int:
    """Bytes that autograd stores for the backward pass, without the network's own tensors."""
    own = {t.untyped_storage().data_ptr() for t in (*net.parameters(), *net.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = net(window.detach().requires_grad_())
        kept[output.untyped_storage().data_ptr()] = output.untyped_storage().nbytes()
    return sum(kept.values())
