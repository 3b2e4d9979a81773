"""``defend(cls)`` adds the masks, the classifier and the gate of Yue et al. 2021 to a super-resolution architecture.

Data flow: ``DefenseMixin.forward`` asks the gate once, masks the image accordingly, and calls the backbone's own
``forward``; hooks mask the inputs of the submodules at the mask points, under the same decision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

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
from rsr_basicsr.archs.defense import Decision, Defense
from rsr_basicsr.ops.caching import any_size

if TYPE_CHECKING:
    Backbone = nn.Module
else:
    Backbone = object  # a mixin: the module comes from the class that it is combined with

INPUT = 'input'
LAYOUTS = ('BCHW', 'BHWC', 'BLC')
#: Default mask points of the networks for which they are not all
POINTS = {'SRVGGNetCompact': ('input',)}  # masks at the others blur the output

_SKEW = 1.5  # what a map may be stretched by against its image


class MaskPoint(NamedTuple):
    """A place where a mask sits: the input of one submodule of the backbone.

    Args:
        module: dotted name of the submodule; in a list or sequence of modules, ``-1`` is the last one, and ``*`` all
            of them, each with its own mask.
        repeat: the tensor to mask arrives upscaled by this factor, by nearest neighbours. It is reduced, masked and
            upscaled again, which is exact.
        layout: axes of the tensor: ``BCHW``, ``BHWC`` (channels last), or ``BLC`` (tokens row by row, L is H times W).
    """

    module: str
    repeat: int = 1
    layout: str = 'BCHW'


class MaskPlace(NamedTuple):
    """A mask of a network, with the shape of its tensor.

    Args:
        point: name of the mask point.
        module: the submodule whose input is masked; empty for the image.
        shape: (C, H, W) of the masked tensor.
        repeat: as in :class:`MaskPoint`.
    """

    point: str
    module: str
    shape: tuple[int, int, int]
    repeat: int = 1


class _MaskHook:
    """Forward pre-hook of a submodule. An object, not a closure, so that a copied network uses its own defence.

    Args:
        defense: masks, and decides.
        path: the submodule, for messages.
        point: where it sits.
    """

    def __init__(self, defense: Defense, path: str, point: MaskPoint) -> None:
        self.defense, self.path, self.point = defense, path, point
        self.image: tuple[int, ...] | None = None  # height and width of the image, where they are needed
        self.called = False
        self.apart = False  # whether compilers leave the mask out

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        self.called = True
        masked = _masked_apart if self.apart else _MaskHook.masked
        if args:
            return (masked(self, args[0]), *args[1:]), kwargs
        name = next(iter(kwargs))  # a module that is given nothing has no input to mask
        return args, {**kwargs, name: masked(self, kwargs[name])}

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        """The tensor as (B, C, H, W).

        Raises:
            ValueError: it cannot be one of the stated layout, or is no map of the image.
        """
        layout, shape = self.point.layout, tuple(x.shape)
        features, fits = x, len(shape) == len(layout)
        if fits and layout == 'BHWC':
            features = x.permute(0, 3, 1, 2)
        elif fits and layout == 'BLC' and self.image is not None:
            height, width = self.image
            factor = math.sqrt(shape[1] / (height * width))
            rows, columns = round(height * factor), round(width * factor)
            fits = rows * columns == shape[1]
            features = x.transpose(1, 2).reshape(shape[0], shape[2], rows, columns) if fits else x
        if fits and self.image is not None:
            down, across = (size / side for size, side in zip(features.shape[-2:], self.image))
            fits = _SKEW > down / across > 1 / _SKEW  # windows pad the two sides by different shares
        if not fits:
            size = 'x'.join(map(str, self.image or ()))
            raise ValueError(
                f'the input of {self.path} is {shape}, not {layout} of an image of {size}; write another '
                f'layout of its MaskPoint ({", ".join(LAYOUTS)}), or mask another module'
            )
        return features

    def masked(self, x: torch.Tensor) -> torch.Tensor:
        """The input of the submodule, masked."""
        if self.point.layout == 'BCHW':
            if self.image is not None:
                self.feature_map(x)
            return self.defense.apply_mask(x, self.point.repeat)
        masked = self.defense.apply_mask(self.feature_map(x), self.point.repeat)
        return masked.permute(0, 2, 3, 1) if self.point.layout == 'BHWC' else masked.flatten(2).transpose(1, 2)


@torch.compiler.disable
def _masked_apart(hook: _MaskHook, x: torch.Tensor) -> torch.Tensor:
    return hook.masked(x)


Points = Mapping[str, MaskPoint | Callable[[nn.Module], MaskPoint]]


class DefenseMixin(Backbone):
    """The mixin that :func:`defend` puts before a backbone, whose parameters keep their names; ours are ``defense.*``.

    Weight files of the plain backbone load with ``strict=True``: if a file has no ``defense.*`` key, the defence keeps
    its values.

    Args:
        args, kwargs: arguments of the backbone.
        defense: ``points``, see :meth:`chosen_points`, and the arguments of :class:`Defense`.
    """

    backbone_class: type[nn.Module]
    inner_points: Points = {}
    mask_points: tuple[str, ...]
    defense: Defense
    loaded_defense = False  # whether the last loaded state dict included a defence
    compiled_pass: Callable[..., Any] | None = None  # the backbone's forward pass, if it is compiled

    def __init__(self, *args: Any, defense: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ('defense', 'mask_points', '_mask_hooks'):
            if name in {**vars(self), **self._modules, **self._parameters, **self._buffers}:
                raise ValueError(f'{self.backbone_class.__name__} has an attribute {name}, as its defence; rename it')
        options = dict(defense or {})
        self.mask_points = self.chosen_points(options.pop('points', None))
        self.defense = Defense(**options)
        self._mask_hooks: list[_MaskHook] = []
        for _, point, module in self._masked_modules():
            hook = _MaskHook(self.defense, _path(self, module), point)
            self._mask_hooks.append(hook)
            module.register_forward_pre_hook(hook, with_kwargs=True)
        self.register_load_state_dict_pre_hook(_keep_defense_of_plain_files)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """The output of the backbone, for an image ``x``, (B, 3, H, W) in [0, 1], masked as the gate decides."""
        decision = self.defense.decide(x)
        if not self.defense.repeatable or x.shape[0] == 1:
            return self._defended(x, decision, *args, **kwargs)
        # One by one: the last bits of a convolution depend on the batch size.
        decisions = [decision] * x.shape[0] if isinstance(decision, bool) else decision.expand(x.shape[0]).split(1)
        return _for_each(torch.cat, [self._defended(*one, *args, **kwargs) for one in zip(x.split(1), decisions)])

    def _defended(self, x: torch.Tensor, decision: Decision, *args: Any, **kwargs: Any) -> Any:
        """The mean over the mask samples, under one decision."""
        with self.defense.obeying(decision) as decision:
            first = self._masked(x, *args, **kwargs)
            samples = 1 if self.training or decision is False else self.defense.mask_samples
            if samples == 1:
                return first
            outputs = [first, *(self._masked(x, *args, **kwargs) for _ in range(samples - 1))]
        return _for_each(lambda same: _mean(same, decision), outputs)

    def _masked(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        # Compilers trace a network that has run, and exporters know no sizes.
        checks = not (any_size() or torch.compiler.is_compiling())
        for hook in self._mask_hooks:
            if checks or hook.point.layout == 'BLC':
                hook.image, hook.called = tuple(x.shape[-2:]), False
        if INPUT in self.mask_points:
            x = self.defense.apply_mask(x)
        output = (self.compiled_pass or super().forward)(x, *args, **kwargs)
        if not (isinstance(output, torch.Tensor) or hasattr(output, '_fields')):
            raise ValueError(
                f'{self.backbone_class.__name__} returns a {type(output).__name__}; a network that is defended returns '
                'images, or a named tuple whose last field they are'
            )
        for hook in self._mask_hooks if checks else ():
            hook.image = None
            if not hook.called:
                raise ValueError(
                    f'the network never calls {hook.path}, so nothing is masked there; mask another module'
                )
        return output

    def compile_passes(self) -> None:
        """Compile the passes of the backbone by torch.compile; parameters keep their names.

        The gate and all masks stay outside, so that no decision compiles anew.
        """
        for hook in self._mask_hooks:
            hook.apart = True
        self.compiled_pass = torch.compile(super().forward)

    def _masked_modules(self) -> Iterator[tuple[str, MaskPoint, nn.Module]]:
        """Name, point and submodule of each mask besides that of the image."""
        for name in self.mask_points:
            if name != INPUT:
                found = self.inner_points[name]
                point = found if isinstance(found, MaskPoint) else found(self)
                if point.layout not in LAYOUTS:
                    raise ValueError(f'{name}: layout must be one of {", ".join(LAYOUTS)}, got {point.layout!r}')
                for module in _submodules(self, point.module):
                    yield name, point, module

    def mask_places(self, height: int = 64, width: int = 64) -> list[MaskPlace]:
        """The masks of the network, in the order of the forward pass.

        Args:
            height, width: size of the image.
        """
        found, handles = [], []
        for (name, _, module), hook in zip(self._masked_modules(), self._mask_hooks):

            def note(
                module: nn.Module,
                args: tuple[Any, ...],
                kwargs: dict[str, Any],
                name: str = name,
                hook: _MaskHook = hook,
            ) -> None:
                *_, channels, rows, columns = hook.feature_map((*args, *kwargs.values())[0]).shape
                repeat = hook.point.repeat
                found.append(MaskPlace(name, hook.path, (channels, rows // repeat, columns // repeat), repeat))

            handles.append(module.register_forward_pre_hook(note, with_kwargs=True))
        if INPUT in self.mask_points:
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
        """Resolve names of mask points.

        Args:
            names: names of points, or presets: ``all``, and ``features``, which is all but the image. None is ``all``,
                but for the networks of :data:`POINTS`.

        Raises:
            ValueError: the class has no point of that name, or a point is named twice.
        """
        presets = {'all': (INPUT, *cls.inner_points), 'features': tuple(cls.inner_points)}
        if names is None:
            names = POINTS.get(cls.backbone_class.__name__, ('all',))
        chosen = [point for name in names for point in presets.get(name, (name,))]
        for name in chosen:
            if name not in presets['all']:
                raise ValueError(f'{cls.__name__} has no mask point {name!r}; it has {", ".join(presets["all"])}')
        if len(set(chosen)) < len(chosen):
            raise ValueError(f'points: {", ".join(names or ())} names a mask point twice')
        return tuple(chosen)


def _submodules(net: nn.Module, path: str) -> list[nn.Module]:
    places: list[Any] = [net]
    for step in path.split('.'):
        if step == '*':
            places = [entry for place in places for entry in place]
        elif step.lstrip('-').isdigit():
            places = [place[int(step)] for place in places]
        else:
            places = [getattr(place, step) for place in places]
    return places


def _path(net: nn.Module, module: nn.Module) -> str:
    return next(path for path, candidate in net.named_modules() if candidate is module)


def _for_each(function: Callable[[Any], torch.Tensor], outputs: list[Any]) -> Any:
    """Apply ``function`` to a list of outputs, or per field to outputs that are named tuples."""
    if isinstance(outputs[0], torch.Tensor):
        return function(outputs)
    return type(outputs[0])(*map(function, zip(*outputs)))


def _mean(outputs: Sequence[torch.Tensor], decision: Decision) -> torch.Tensor:
    """Mean of the outputs under several mask samples."""
    total: Any = sum(outputs)
    mean = total / len(outputs)
    if isinstance(decision, bool):
        return mean
    # The mean of equal numbers can differ from them in the last bit: images without a mask keep the first output.
    return torch.where(decision.view(-1, 1, 1, 1) == 0, outputs[0], mean)


def _keep_defense_of_plain_files(
    net: DefenseMixin, state_dict: dict[str, torch.Tensor], prefix: str, *args: Any
) -> None:
    own = {f'{prefix}defense.{key}': value for key, value in net.defense.state_dict().items()}
    net.loaded_defense = any(key.startswith(f'{prefix}defense.') for key in state_dict)
    if not net.loaded_defense:
        get_root_logger().info(f'{type(net).__name__}: plain backbone weights, the classifier keeps its own.')
        state_dict.update(own)


def defend(cls: type[nn.Module], points: Points | None = None) -> type[nn.Module]:
    """Make the defended version ``Defended<cls>`` of a super-resolution architecture.

    It takes the arguments of ``cls`` and ``defense``, the options block of that name (see :class:`DefenseMixin`). It is
    not registered; :func:`register_defended` does that.

    Args:
        cls: an architecture whose ``forward`` takes the image, (B, 3, H, W) in [0, 1], as first argument.
        points: possible mask points besides the image, by their names in ``defense: points``; a function of the
            network if the place depends on its arguments.

    Returns:
        The class, derived from :class:`DefenseMixin` and ``cls``.

    Raises:
        TypeError: ``cls`` is defended already, or has a method that the defence needs the name of.

    Examples:
        >>> class Doubling(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.body = nn.Conv2d(3, 12, 3, padding=1)
        ...         self.shuffle = nn.PixelShuffle(2)
        ...
        ...     def forward(self, x):
        ...         return self.shuffle(self.body(x))
        >>> DefendedDoubling = defend(Doubling, {'upsampler': MaskPoint('shuffle')})
        >>> net = DefendedDoubling(defense={'gate': 'classifier'}).eval()
        >>> net(torch.rand(1, 3, 24, 24)).shape
        torch.Size([1, 3, 48, 48])
    """
    if issubclass(cls, DefenseMixin):
        raise TypeError(f'{cls.__name__} is defended already')
    for name in vars(DefenseMixin):
        if not name.startswith('__') and name != 'forward' and hasattr(cls, name):
            raise TypeError(f'{cls.__name__} has a method or class attribute {name}, as its defence; rename it')
    return type(
        f'Defended{cls.__name__}',
        (DefenseMixin, cls),
        {
            '__doc__': f'{cls.__name__} behind random frequency masks; see rsr_basicsr.defend.',
            'backbone_class': cls,
            'inner_points': dict(points or {}),
        },
    )


def register_defended(points: Points | None = None) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator: registers the defended version of an architecture, and returns the architecture unchanged.

    Args:
        points: as in :func:`defend`.

    Examples:
        >>> @register_defended({'trunk': MaskPoint('body')})
        ... @ARCH_REGISTRY.register()
        ... class DocumentedNet(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.body = nn.Conv2d(3, 3, 3, padding=1)
        ...
        ...     def forward(self, x):
        ...         return self.body(x)
        >>> ARCH_REGISTRY.get('DefendedDocumentedNet').__name__
        'DefendedDocumentedNet'
    """

    def decorate(cls: type[nn.Module]) -> type[nn.Module]:
        ARCH_REGISTRY.register(defend(cls, points))
        return cls

    return decorate


def _swinir_upsampler(net: nn.Module) -> MaskPoint:
    if net.upsampler == '':  # for images that keep their size
        return MaskPoint('conv_last')
    return MaskPoint('conv_up1', repeat=2) if net.upsampler == 'nearest+conv' else MaskPoint('upsample')


# The masks of CDC (13) and RRDB (3) are those of Yue et al. 2021; RRDBNet upscales the third tensor before the first
# module whose input it is, hence repeat. The other networks have masks by analogy: the image, the input of the last
# trunk convolution, and the input of the upsampler.
register_defended({'hourglass': MaskPoint('hourglasses.*'), 'inner': MaskPoint('hourglasses.*.inner')})(CDC)
register_defended({'trunk': MaskPoint('conv_body'), 'upsampler': MaskPoint('conv_up1', repeat=2)})(RRDBNet)
register_defended({'trunk': MaskPoint('body.-1'), 'upsampler': MaskPoint('upsampler')})(SRVGGNetCompact)
register_defended({'trunk': MaskPoint('body.-1.conv2'), 'upsampler': MaskPoint('upconv1')})(MSRResNet)
register_defended({'trunk': MaskPoint('conv_after_body'), 'upsampler': MaskPoint('upsample')})(EDSR)
register_defended({'trunk': MaskPoint('conv_after_body'), 'upsampler': MaskPoint('upsample')})(RCAN)
register_defended({'trunk': MaskPoint('conv_after_body'), 'upsampler': _swinir_upsampler})(SwinIR)
