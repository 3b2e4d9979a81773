"""Memory of a training step, counted without a GPU as the tensors that are alive at the same time.

The step is BasicSR's own, with the networks, losses and attack of an options file, on the device meta, where tensors
have sizes and no values. What a GPU needs beyond that is not counted: CUDA itself, the workspaces of cuDNN, memory
that is lost between tensors, Real-ESRGAN's pair pool and degradations.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import random
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from basicsr.archs import build_network, vgg_arch
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rsr_basicsr.models.training_gradient import iteration_of_generator
from rsr_basicsr.ops.random_streams import random_streams_kept
from rsr_basicsr.options.attack_blocks import SCHEDULE

GIB = 2**30
CARDS = (6, 8, 12, 24)  # GiB
RESERVE = 1.5  # GiB of a card reserved for what is not counted
_META = torch.device('meta')


class StepMemory(NamedTuple):
    """Memory of a training step in bytes.

    Args:
        fixed: what does not depend on the batch.
        sample: for each image of the batch.
        simplified: whether attack and pixel loss were replaced by IFGSM and L1, since they read values.
    """

    fixed: float
    sample: float
    simplified: bool = False

    def of(self, batch: int) -> float:
        """Bytes of a batch."""
        return self.fixed + batch * self.sample

    def largest_batch(self, gib: float) -> int:
        """The largest batch that fits into a card of ``gib`` GiB, less :data:`RESERVE`; 0 where none does."""
        return max(0, int(((gib - RESERVE) * GIB - self.fixed) / max(self.sample, 1)))


def estimate(opt: dict[str, Any], size: int, batch: int) -> StepMemory:
    """Count the memory of a training step.

    Args:
        opt: options of a training that were checked; they stay as they are.
        size: height and width in pixels of the low-resolution patches.
        batch: batch size around which the estimate is best.

    Raises:
        Exception: a network or a loss cannot run on the device meta.
    """
    try:
        return _estimate(opt, size, batch, simplified=False)
    except Exception:  # the attack or a loss cannot run on the device meta
        return _estimate(opt, size, batch, simplified=True)


def _estimate(opt: dict[str, Any], size: int, batch: int, simplified: bool) -> StepMemory:
    opt, launched = copy.deepcopy(opt), opt.get('dist')
    opt.update(is_train=True, dist=False, rank=0, world_size=1, num_gpu=0)
    opt['path'] = {}
    attack = opt.get('attack') or {}
    if simplified and attack:
        attack = opt['attack'] = {
            **{key: attack[key] for key in SCHEDULE if key in attack},
            'type': 'IFGSM',
            'eps': attack['eps'],
            'objective': 'ground_truth_l1',
            'steps': 1,
        }
    if 'steps' in attack:
        attack['steps'] = 1  # each takes the same memory
    with random_streams_kept(), _quiet(), unfilled_vgg():
        random.seed(0)
        model = _on_meta_model(opt)
        if simplified:
            model.cri_pix = _L1()
        one, two = (_peak(model, opt, size, number) for number in (batch, 2 * batch))
    sample = (two - one) / batch
    buckets = _trained_bytes(model) if launched else 0
    return StepMemory(one - batch * sample + buckets, sample, simplified)


def _trained_bytes(model: SRModel) -> int:
    """Bytes of the buckets that DistributedDataParallel reduces gradients in: a second copy of all gradients."""
    return sum(
        parameter.nbytes
        for optimizer in model.optimizers
        for group in optimizer.param_groups
        for parameter in group['params']
    )


class _L1(torch.nn.Module):
    """L1 of all images that a network returns."""

    def forward(self, output: Any, target: torch.Tensor) -> torch.Tensor:
        return sum((image - target).abs().mean() for image in tree_leaves(output))


def _on_meta_model(opt: dict[str, Any]) -> SRModel:
    """The model on meta, with gradients and optimizer moments, as from the second step on."""
    started = opt['train'].pop('start', None)
    model = _on_meta(MODEL_REGISTRY.get(opt['model_type']))(copy.deepcopy(opt))
    if started is not None and opt['train'].get('target') == 'pretrained':
        model._start_net = build_network(opt['network_g']).to(_META).requires_grad_(False)
    for optimizer in model.optimizers:
        for parameter in (parameter for group in optimizer.param_groups for parameter in group['params']):
            parameter.grad = torch.empty_like(parameter)
        with LiveBytes():
            optimizer.step()
    return model


def _peak(model: SRModel, opt: dict[str, Any], size: int, batch: int) -> int:
    run = _step(model, opt, size, batch)
    with LiveBytes(_tensors(model)) as live:
        run()
    return live.peak + _kept_by_graph(model, batch)


def _kept_by_graph(model: SRModel, batch: int) -> int:
    """Bytes of a pass of the attack that a CUDA graph keeps beside the step."""
    attack = getattr(model, 'attack', None)
    if attack is None or not attack.cuda_graph:
        return 0
    attacked = max(1, round(model.schedule.share * batch)) if model.schedule.mode == 'mixed' else batch
    lq, target = model.lq[:attacked], model.gt[:attacked]
    with LiveBytes(_tensors(model)) as live, model.bare_net.defense.forced(False):
        before = live.now
        attack.but(cuda_graph=False).perturb(model.bare_net, lq, target)
    return live.peak - before


def _on_meta(cls: type) -> type:
    """The model class with its device fixed to meta."""
    # BasicSR's models set the device from the options, and some read values in reduce_loss_dict.
    return type(
        cls.__name__,
        (cls,),
        {
            'device': property(lambda self: _META, lambda self, device: None),
            'reduce_loss_dict': lambda self, losses: losses,
        },
    )


def _step(model: SRModel, opt: dict[str, Any], size: int, batch: int) -> Callable[[], None]:
    """A function that runs one training step on degraded images."""
    scale, channels = opt['scale'], opt['network_g'].get('num_in_ch', opt['network_g'].get('in_chans', 3))
    lq = torch.zeros(batch, channels, size, size, device=_META)
    gt = torch.zeros(batch, channels, scale * size, scale * size, device=_META)
    # An iteration with an attack, in which a GAN trains its generator.
    iteration = (opt.get('attack') or {}).get('every', 1) * iteration_of_generator(opt['train'])

    def run() -> None:
        model.lq, model.gt, model.gt_usm = lq, gt, gt
        model.optimize_parameters(iteration)

    return run


def _tensors(model: SRModel) -> Iterator[torch.Tensor]:
    """The tensors that are alive before a step."""
    for value in vars(model).values():
        if isinstance(value, torch.Tensor):
            yield value
        if isinstance(value, torch.nn.Module):
            for tensor in (*value.parameters(), *value.buffers()):
                yield tensor
                if tensor.grad is not None:
                    yield tensor.grad
    for optimizer in model.optimizers:
        yield from (leaf for leaf in tree_leaves(list(optimizer.state.values())) if isinstance(leaf, torch.Tensor))


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors alive within the block, and their peak.

    Args:
        before: tensors that are alive at its start.
    """

    def __init__(self, before: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        self.returned: dict[tuple[Any, ...], Any] = {}
        for tensor in before:
            self._see(tensor)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if _only_changes_values(function) and isinstance(args[0], torch.Tensor) and args[0].is_meta:
            return args[0]
        result = self._result(function, args, kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor)
        self.peak = max(self.peak, self.now)
        return result

    def _result(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the function, or return the sizes it returned for such arguments before.

        On meta, computing sizes dominates the time.
        """
        if function._schema.is_mutable or any(value.alias_info is not None for value in function._schema.returns):
            return function(*args, **kwargs)
        key = (function, _sizes(args), _sizes(tuple(kwargs.items())))
        if key not in self.returned:
            result = function(*args, **kwargs)
            several = isinstance(result, (tuple, list))
            tensors = result if several else (result,)
            plain = all(isinstance(tensor, torch.Tensor) and tensor.is_meta for tensor in tensors)
            self.returned[key] = (several, [_sizes(tensor)[1:] for tensor in tensors]) if plain else None
            return result
        if self.returned[key] is None:
            return function(*args, **kwargs)
        several, sizes = self.returned[key]
        made = tuple(torch.empty_strided(shape, stride, dtype=dtype, device=_META) for shape, stride, dtype, _ in sizes)
        return made if several else made[0]

    def _see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self.known:
            self.known.add(storage)
            size = storage.nbytes()
            self.now += size
            weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


def _only_changes_values(function: Any) -> bool:
    return torch.Tag.pointwise in function.tags and function._schema.is_mutable and function._schema.name.endswith('_')


def _sizes(value: Any) -> tuple[Any, ...]:
    """Arguments without the values of tensors."""
    if isinstance(value, torch.Tensor):
        return torch.Tensor, tuple(value.shape), value.stride(), value.dtype, value.device
    if isinstance(value, (tuple, list)):
        return tuple(map(_sizes, value))
    return type(value), value


@contextlib.contextmanager
def unfilled_vgg() -> Iterator[None]:
    """Within the block BasicSR's perceptual loss has random weights, which cost the same and need no download."""
    kept = vgg_arch.vgg, vgg_arch.VGG_PRETRAIN_PATH
    vgg_arch.vgg, vgg_arch.VGG_PRETRAIN_PATH = _Unfilled(vgg_arch.vgg), ''
    try:
        yield
    finally:
        vgg_arch.vgg, vgg_arch.VGG_PRETRAIN_PATH = kept


class _Unfilled:
    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Callable[..., torch.nn.Module]:
        def make(pretrained: bool) -> torch.nn.Module:
            with warnings.catch_warnings(), torch.device('meta'):
                warnings.simplefilter('ignore')  # the argument that BasicSR gives has a new name
                return getattr(self._module, name)(pretrained=False)

        return make


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence BasicSR within the block."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(disabled)
