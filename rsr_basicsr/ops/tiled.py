"""Upscaling of images that are too large for one pass: in tiles, under one decision."""

from __future__ import annotations

import contextlib
import functools
import math

import torch
from basicsr.archs.rrdbnet_arch import RRDBNet
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from rsr_basicsr.ops.whole_masks import WholeMasks, spans

OVERLAP = 16  # pixels


def upscale(net: nn.Module, lq: torch.Tensor, *, tile: int | None = None, overlap: int = OVERLAP) -> torch.Tensor:
    """Upscale images, tile by tile where they are larger than a tile.

    A defended network decides once for each whole image, and masks whole feature maps, unless its defence says
    ``decision: tile``: a decision or a mask for each tile makes seams. So the result is that of one pass, as far as
    the overlap reaches. Each mask inside the network costs up to one more pass, of images that are masked. Only
    behind a defence that changes what the network sees of a tile, such as random sizes, masks are of the tile.

    Gradients with respect to ``lq`` are those of the whole image, as far as the overlap reaches. Tiles are computed
    a second time on the way back, so that the memory of one is enough for all.

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW).
        lq: the images, (B, 3, H, W) in [0, 1]; may lie on another device than the network, which then holds one
            tile at a time.
        tile: size of the tiles in pixels of ``lq``, without the overlap; None takes the whole image.
        overlap: pixels around a tile that the network sees and that are cut off again.

    Returns:
        (B, 3, sH, sW), on the device of ``lq``.

    Raises:
        ValueError: the network does not change the size by a whole number.
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


def _upscale_tiles(net, lq, decisions, tile, overlap):
    """One image, or images of which none is masked."""
    inner = getattr(_unwrapped(net), 'defense', None)
    multiple = windows_of(net)
    tile, overlap = (-(-pixels // multiple) * multiple for pixels in (tile, overlap))
    rows, columns = (spans(size, tile, overlap) for size in lq.shape[-2:])
    masks = WholeMasks(net, decisions.get(inner, False), rows, columns, multiple)
    device = _device_of(net, lq)

    def obediently(function, window):
        with contextlib.ExitStack() as stack:
            for defense, decision in decisions.items():
                stack.enter_context(defense.forced(decision))
                stack.enter_context(defense.masking_by(masks if defense is inner else None))
            return function(window.to(device))

    forgets = torch.is_grad_enabled() and lq.requires_grad
    return masks.upscale(lq, functools.partial(checkpoint, obediently, use_reentrant=False) if forgets else obediently)


def _device_of(net, lq):
    """That of the network, which may hold nothing that lies anywhere."""
    return next((parameter.device for parameter in net.parameters()), lq.device)


def _unwrapped(net):
    """The network inside of what hands images on as they are, or nearly so."""
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


def _masks(decision):
    """Whether a decision masks any image, or has to pass on the gradient of one that it does not mask."""
    return decision if isinstance(decision, bool) else decision.requires_grad or bool(decision.any())


def _of_image(decisions, index):
    return {
        defense: decision if isinstance(decision, bool) else decision[index : index + 1]
        for defense, decision in decisions.items()
    }


def windows_of(net: nn.Module) -> int:
    """The number that a network wants the sides of an image to be multiples of; 1 for most.

    What says so are whole numbers ``window_size`` of the network or a part of it, as in SwinIR and our CDC, and the
    scale of an RRDBNet, which folds pixels into channels below 4.
    """
    sizes = [getattr(module, 'window_size', 1) for module in net.modules()]
    folds = [max(4 // module.scale, 1) for module in net.modules() if isinstance(module, RRDBNet)]
    return math.lcm(*(size for size in (*sizes, *folds) if isinstance(size, int)))


class Padded(nn.Module):
    """A network that takes windows of one size, for images of any: padded as SwinIRModel pads them to test."""

    def __init__(self, net: nn.Module, window: int):
        super().__init__()
        self.net, self.window_size = net, window

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        output = self.net(F.pad(x, (0, -width % self.window_size, 0, -height % self.window_size), 'reflect'))
        scale = output.shape[-1] // (width + -width % self.window_size)
        return output[..., : height * scale, : width * scale]


def defenses(net) -> list[nn.Module]:
    """The defences inside a network, be it wrapped, compiled, or one of several modules in a row."""
    modules = net.modules() if isinstance(net, nn.Module) else ()
    found = {
        id(module.defense): module.defense for module in modules if hasattr(getattr(module, 'defense', None), 'forced')
    }
    return list(found.values())


def tile_within(net: nn.Module, lq: torch.Tensor, memory: float, overlap: int = OVERLAP) -> int | None:
    """The largest tile for which a pass with the gradient of the input keeps within a memory bound.

    What autograd keeps of a small window is counted and taken to grow with the area; the bound is for the activations
    of a pass, beside the network itself and the whole images.

    Args:
        net: maps (B, 3, H, W) to (B, 3, sH, sW); parameters that ask for a gradient make it keep more.
        lq: the images, (B, 3, H, W).
        memory: the bound in GiB.
        overlap: pixels around a tile.

    Returns:
        Size of the tiles in pixels of ``lq``, a multiple of 8, or None if the whole images fit.

    Raises:
        ValueError: not even a tile of 8 fits.
    """
    side = min(64, *lq.shape[-2:])
    kept = _kept_bytes(net, lq[..., :side, :side])
    # Forward, the widest layers stand beside what is kept; on the way back, their gradients.
    a_pixel = 1.5 * kept / side**2
    if a_pixel * lq.shape[-2] * lq.shape[-1] <= memory * 2**30:
        return None
    tile = (int(math.sqrt(memory * 2**30 / a_pixel)) - 2 * overlap) // 8 * 8
    if tile < 8:
        least = a_pixel * (8 + 2 * overlap) ** 2 / 2**30
        raise ValueError(
            f'memory: {memory} GiB is too little for a tile of 8 pixels with an overlap of {overlap}; it '
            f'takes {math.ceil(least * 1000) / 1000}'
        )
    return tile


def _kept_bytes(net, window):
    """Bytes that autograd keeps for the way back, without the network's own tensors."""
    own = {t.untyped_storage().data_ptr() for t in (*net.parameters(), *net.buffers())}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = net(window.detach().requires_grad_())
        kept[output.untyped_storage().data_ptr()] = output.untyped_storage().nbytes()
    return sum(kept.values())
