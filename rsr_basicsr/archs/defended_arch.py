"""``defend(cls)``: gives any super-resolution architecture the masks, the classifier and the gate of Yue et al. 2021.

The way of an image: ``DefenseMixin.forward`` asks the gate once, masks the image if it says so, and calls the
backbone's own ``forward``; hooks mask the inputs of the submodules that the mask points name, under the same decision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from basicsr.archs.edsr_arch import EDSR
from basicsr.archs.rcan_arch import RCAN
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.archs.srresnet_arch import MSRResNet
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from basicsr.archs.swinir_arch import SwinIR
from basicsr.utils import get_root_logger
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from rsr_basicsr.archs.cdc_arch import CDC
from rsr_basicsr.archs.defense import Defense

INPUT = 'input'
#: Where fewer masks are used than there are places
POINTS = {'SRVGGNetCompact': ('input',)}  # the others blur it


class MaskPoint(NamedTuple):
    """A place where a mask sits: the input of one submodule of the backbone.

    Args:
        module: dotted name of the submodule; in a list or sequence of modules ``-1`` is the last entry, and ``*``
            stands for all of them, each with a mask of its own.
        repeat: the tensor that arrives there is a nearest-neighbour upscaling by this factor of the one to mask.
            It is reduced, masked and upscaled again, which is exact.
    """

    module: str
    repeat: int = 1


class MaskPlace(NamedTuple):
    """A mask in a network at work.

    Args:
        point: name of the mask point.
        module: the submodule whose input is masked, empty for the image.
        shape: (C, H, W) of the masked tensor.
        repeat: as in :class:`MaskPoint`.
    """

    point: str
    module: str
    shape: tuple[int, int, int]
    repeat: int = 1


class _MaskHook:
    """Forward pre-hook of a submodule. An object, not a closure, so that copies of a network mask with their own."""

    def __init__(self, defense: Defense, repeat: int):
        self.defense, self.repeat = defense, repeat

    def __call__(self, module, args):
        return (self.defense.apply_mask(args[0], self.repeat), *args[1:])


Points = Mapping[str, MaskPoint | Callable[[nn.Module], MaskPoint]]


class DefenseMixin:
    """What :func:`defend` puts in front of a backbone. The backbone keeps its parameter names; ours are ``defense.*``.

    Weight files of the plain backbone load with ``strict=True``: where a file holds no ``defense.*`` key at all, the
    defence keeps the values it has.
    """

    backbone: type[nn.Module]
    inner_points: Points = {}
    loaded_defense = False  # whether the last state dict loaded had a defence of its own

    def __init__(self, *args, defense: dict | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        options = dict(defense or {})
        self.points = self.chosen_points(options.pop('points', None))
        self.defense = Defense(**options)
        for _, repeat, module in self._masked_modules():
            module.register_forward_pre_hook(_MaskHook(self.defense, repeat))
        self.register_load_state_dict_pre_hook(_keep_defense_of_plain_files)

    def forward(self, x, *args, **kwargs):
        decision = self.defense.decide(x)
        if not self.defense.repeatable or x.shape[0] == 1:
            return self._defended(x, decision, *args, **kwargs)
        # The last bits of a convolution depend on the size of the batch.
        decisions = [decision] * x.shape[0] if isinstance(decision, bool) else decision.expand(x.shape[0]).split(1)
        return _for_each(torch.cat, [self._defended(*one, *args, **kwargs) for one in zip(x.split(1), decisions)])

    def _defended(self, x, decision, *args, **kwargs):
        """The mean over the draws of the masks, under one decision."""
        with self.defense.obeying(decision) as decision:
            first = self._masked(x, *args, **kwargs)
            draws = 1 if self.training or decision is False else self.defense.mask_samples
            if draws == 1:
                return first
            outputs = [first, *(self._masked(x, *args, **kwargs) for _ in range(draws - 1))]
        return _for_each(lambda same: _mean(same, decision), outputs)

    def _masked(self, x, *args, **kwargs):
        if INPUT in self.points:
            x = self.defense.apply_mask(x)
        return super().forward(x, *args, **kwargs)

    def _masked_modules(self):
        for name in self.points:
            if name != INPUT:
                point = self.inner_points[name]
                path, repeat = point if isinstance(point, MaskPoint) else point(self)
                for module in _submodules(self, path):
                    yield name, repeat, module

    def mask_places(self, height: int = 64, width: int = 64) -> list[MaskPlace]:
        """Where the masks sit, in the order an image of that size meets them."""
        found, handles = [], []
        for name, repeat, module in self._masked_modules():

            def note(module, args, name=name, repeat=repeat, path=_path(self, module)):
                *_, channels, rows, columns = args[0].shape
                found.append(MaskPlace(name, path, (channels, rows // repeat, columns // repeat), repeat))

            handles.append(module.register_forward_pre_hook(note))
        if INPUT in self.points:
            found.append(MaskPlace(INPUT, '', (3, height, width)))
        try:
            with torch.no_grad(), self.defense.forced(False):
                self(next(self.parameters()).new_zeros(1, 3, height, width))
        finally:
            for handle in handles:
                handle.remove()
        return found

    @classmethod
    def chosen_points(cls, names: Sequence[str] | None = None) -> tuple[str, ...]:
        """The names of the mask points: those asked for, by themselves or by a preset, or all the class has.

        Args:
            names: names of points; or the preset ``all``, or ``features``, which is all but the image.

        Raises:
            ValueError: the class has no point of that name, or one is named twice.
        """
        presets = {'all': (INPUT, *cls.inner_points), 'features': tuple(cls.inner_points)}
        chosen = [point for name in (('all',) if names is None else names) for point in presets.get(name, (name,))]
        for name in chosen:
            if name not in presets['all']:
                raise ValueError(f'{cls.__name__} has no mask point {name!r}; it has {", ".join(presets["all"])}')
        if len(set(chosen)) < len(chosen):
            raise ValueError(f'points: {", ".join(names)} names a mask point twice')
        return tuple(chosen)


def _submodules(net, path):
    places = [net]
    for step in path.split('.'):
        if step == '*':
            places = [entry for place in places for entry in place]
        elif step.lstrip('-').isdigit():
            places = [place[int(step)] for place in places]
        else:
            places = [getattr(place, step) for place in places]
    return places


def _path(net, module):
    return next(path for path, candidate in net.named_modules() if candidate is module)


def _for_each(function, outputs):
    """``function`` of a list of outputs, or of each field where an output has several."""
    if isinstance(outputs[0], torch.Tensor):
        return function(outputs)
    return type(outputs[0])(*map(function, zip(*outputs)))


def _mean(draws, decision):
    mean = sum(draws) / len(draws)
    if decision is True:
        return mean
    # A sum of equal numbers, divided, can differ from them in the last bit: images without a mask keep theirs.
    return torch.where(decision.view(-1, 1, 1, 1) == 0, draws[0], mean)


def _keep_defense_of_plain_files(net, state_dict, prefix, *args):
    own = {f'{prefix}defense.{key}': value for key, value in net.defense.state_dict().items()}
    net.loaded_defense = any(key.startswith(f'{prefix}defense.') for key in state_dict)
    if not net.loaded_defense:
        get_root_logger().info(f'{type(net).__name__}: plain backbone weights, the classifier keeps its own.')
        state_dict.update(own)


def defend(cls: type[nn.Module], points: Points | None = None) -> type[nn.Module]:
    """Make the defended twin ``Defended<cls>`` of a super-resolution architecture.

    The twin takes the arguments of ``cls`` and ``defense``, a dict with the keys ``mask``, ``points``, ``classifier``
    and ``gate`` of the options file (see :class:`Defense`). It is not registered; :func:`register_defended` does that.

    Args:
        cls: an architecture whose ``forward`` takes the image, (B, 3, H, W) in [0, 1], first.
        points: where masks can sit besides the image itself, by the name used in ``defense: points:``; a function
            of the network where the place depends on its arguments.

    Raises:
        TypeError: ``cls`` is defended already.
    """
    if issubclass(cls, DefenseMixin):
        raise TypeError(f'{cls.__name__} is defended already')
    return type(
        f'Defended{cls.__name__}',
        (DefenseMixin, cls),
        {
            '__doc__': f'{cls.__name__} behind random frequency masks; see rsr_basicsr.defend.',
            'backbone': cls,
            'inner_points': dict(points or {}),
        },
    )


def register_defended(points: Points | None = None):
    """Class decorator: registers the defended twin of an architecture, and leaves the architecture as it is."""

    def decorate(cls):
        ARCH_REGISTRY.register(defend(cls, points))
        return cls

    return decorate


def _swinir_upsampler(net):
    return MaskPoint('conv_up1', repeat=2) if net.upsampler == 'nearest+conv' else MaskPoint('upsample')


# Yue et al. 2021 place the masks of CDC (13) and RRDB (3; RRDBNet upscales the third tensor before the first module
# it can be met at). The other networks have them by analogy: the image, the input of the last trunk convolution and
# the tensor that enters the upsampler.
register_defended({'hourglass': MaskPoint('hourglasses.*'), 'inner': MaskPoint('hourglasses.*.inner')})(CDC)
register_defended({'trunk': MaskPoint('conv_body'), 'upsampler': MaskPoint('conv_up1', repeat=2)})(RRDBNet)
register_defended({'trunk': MaskPoint('body.-1'), 'upsampler': MaskPoint('upsampler')})(SRVGGNetCompact)
register_defended({'trunk': MaskPoint('body.-1.conv2'), 'upsampler': MaskPoint('upconv1')})(MSRResNet)
register_defended({'trunk': MaskPoint('conv_after_body'), 'upsampler': MaskPoint('upsample')})(EDSR)
register_defended({'trunk': MaskPoint('conv_after_body'), 'upsampler': MaskPoint('upsample')})(RCAN)
register_defended({'trunk': MaskPoint('conv_after_body'), 'upsampler': _swinir_upsampler})(SwinIR)
