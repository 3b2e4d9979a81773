"""``defend(cls)``: gives any super-resolution architecture the masks, the classifier and the gate of Yue et al. 2021.

The way of a picture: ``DefenseMixin.forward`` asks the gate once, masks the picture if it says so, and calls the
backbone's own ``forward``; hooks mask the inputs of the submodules that the mask points name, under the same decision.
"""

from __future__ import annotations

import contextlib
from typing import Callable, Mapping, NamedTuple, Optional, Sequence, Tuple, Type, Union

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
from rsr_basicsr.archs.frequency_classifier_arch import FrequencyClassifier
from rsr_basicsr.archs.frequency_mask_arch import RandomFrequencyMask
from rsr_basicsr.weights import load_state

GATES = ('classifier', 'always', 'never')
INPUT = 'input'


class MaskPoint(NamedTuple):
    """A place where a mask sits: the input of one submodule of the backbone.

    Args:
        module: dotted name of the submodule; in a list or sequence of modules ``-1`` is the last entry, and ``*``
            stands for all of them, each with a mask of its own.
        repeat: the tensor that arrives there is a nearest-neighbour enlargement by this factor of the one to mask.
            It is reduced, masked and enlarged again, which is exact.
    """

    module: str
    repeat: int = 1


class Defense(nn.Module):
    """Masks, classifier and gate of one defended network; the options block ``network_g: defense:``.

    Args:
        mask: arguments of :class:`RandomFrequencyMask`.
        classifier: ``threshold``: a picture counts as attacked when P(clean) is below it; ``weights``: a file with
            the classifier's state dict, None leaves it untrained.
        gate: ``classifier`` masks the pictures it takes for attacked, ``always`` all, ``never`` none.
    """

    def __init__(self, mask: Optional[dict] = None, classifier: Optional[dict] = None, gate: str = 'classifier'):
        super().__init__()
        if gate not in GATES:
            raise ValueError(f'gate must be one of {", ".join(GATES)}, got {gate!r}')
        classifier = dict(classifier or {})
        self.gate = gate
        self.threshold = classifier.pop('threshold', 0.9)
        weights = classifier.pop('weights', None)
        if classifier:
            raise TypeError(f'unknown classifier options: {", ".join(classifier)}')
        self.mask = RandomFrequencyMask(**(mask or {}))
        self.classifier = FrequencyClassifier()
        if weights is not None:
            self.classifier.load_state_dict(load_state(weights))
        self.generator = None  # a torch.Generator makes the masks repeatable
        self._forced = None
        self._active: Union[bool, torch.Tensor] = False

    @contextlib.contextmanager
    def forced(self, attacked: Union[bool, torch.Tensor]):
        """Overrule the gate within the block: one bool for all, or a bool tensor (B,) with a label a picture."""
        previous, self._forced = self._forced, attacked
        try:
            yield self
        finally:
            self._forced = previous

    def decide(self, x: torch.Tensor) -> torch.Tensor:
        """The gate's decision for pictures ``x``, (B, 3, H, W) in [0, 1]: bool (B,), True where they are masked."""
        decision = self._decide(x)
        if isinstance(decision, bool):
            return torch.full((x.shape[0],), decision, device=x.device)
        return decision

    @contextlib.contextmanager
    def deciding(self, x: torch.Tensor):
        """Within the block, :meth:`apply_mask` obeys one decision taken on ``x``."""
        self._active = self._decide(x)
        try:
            yield self
        finally:
            self._active = False

    def apply_mask(self, x: torch.Tensor, repeat: int = 1) -> torch.Tensor:
        """Mask the samples of ``x``, (B, C, H, W), for which the gate is open."""
        if self._active is False:
            return x
        if repeat > 1:
            reduced = self.apply_mask(x[..., ::repeat, ::repeat])
            return reduced.repeat_interleave(repeat, dim=-2).repeat_interleave(repeat, dim=-1)
        masked = self.mask(x, self.generator)
        return masked if self._active is True else torch.where(self._active.view(-1, 1, 1, 1), masked, x)

    def _decide(self, x):
        if self._forced is not None:
            return self._forced if isinstance(self._forced, bool) else self._forced.to(x.device)
        if self.gate != 'classifier':
            return self.gate == 'always'
        with torch.no_grad():
            attacked = self.classifier.attacked(x, self.threshold)
        # Clean pictures should not pay for masks that are thrown away. In training the host must not wait for the
        # device, and every rank must take the same way through the network.
        return attacked if self.training or attacked.any() else False

    def extra_repr(self) -> str:
        return f'gate={self.gate}, threshold={self.threshold}'


class _MaskHook:
    """Forward pre-hook of a submodule. An object, not a closure, so that copies of a network mask with their own."""

    def __init__(self, defense: Defense, repeat: int):
        self.defense, self.repeat = defense, repeat

    def __call__(self, module, args):
        return (self.defense.apply_mask(args[0], self.repeat), *args[1:])


Points = Mapping[str, Union[MaskPoint, Callable[[nn.Module], MaskPoint]]]


class DefenseMixin:
    """What :func:`defend` puts in front of a backbone. The backbone keeps its parameter names; ours are ``defense.*``.

    Weight files of the plain backbone load with ``strict=True``: where a file holds no ``defense.*`` key at all, the
    defence keeps the values it has.
    """

    backbone: Type[nn.Module]
    inner_points: Points = {}
    loaded_defense = False  # whether the last state dict loaded had a defence of its own

    def __init__(self, *args, defense: Optional[dict] = None, **kwargs):
        super().__init__(*args, **kwargs)
        options = dict(defense or {})
        self.points = self.chosen_points(options.pop('points', None))
        self.defense = Defense(**options)
        for name in self.points:
            if name != INPUT:
                point = self.inner_points[name]
                module, repeat = point if isinstance(point, MaskPoint) else point(self)
                for place in _submodules(self, module):
                    place.register_forward_pre_hook(_MaskHook(self.defense, repeat))
        self.register_load_state_dict_pre_hook(_keep_defense_of_plain_files)

    def forward(self, x, *args, **kwargs):
        with self.defense.deciding(x):
            if INPUT in self.points:
                x = self.defense.apply_mask(x)
            return super().forward(x, *args, **kwargs)

    @classmethod
    def chosen_points(cls, names: Optional[Sequence[str]] = None) -> Tuple[str, ...]:
        """The names of the mask points: those asked for, or all the class has.

        Raises:
            ValueError: the class has no point of that name.
        """
        known = (INPUT, *cls.inner_points)
        for name in known if names is None else names:
            if name not in known:
                raise ValueError(f'{cls.__name__} has no mask point {name!r}; it has {", ".join(known)}')
        if names is not None and len(set(names)) < len(names):
            raise ValueError(f'points: {", ".join(names)} names a mask point twice')
        return known if names is None else tuple(names)


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


def _keep_defense_of_plain_files(net, state_dict, prefix, *args):
    own = {f'{prefix}defense.{key}': value for key, value in net.defense.state_dict().items()}
    net.loaded_defense = any(key in state_dict for key in own)
    if not net.loaded_defense:
        get_root_logger().info(f'{type(net).__name__}: plain backbone weights, the classifier keeps its own.')
        state_dict.update(own)


def defend(cls: Type[nn.Module], points: Optional[Points] = None) -> Type[nn.Module]:
    """Make the defended twin ``Defended<cls>`` of a super-resolution architecture.

    The twin takes the arguments of ``cls`` and ``defense``, a dict with the keys ``mask``, ``points``, ``classifier``
    and ``gate`` of the options file (see :class:`Defense`). It is not registered; :func:`register_defended` does that.

    Args:
        cls: an architecture whose ``forward`` takes the picture, (B, 3, H, W) in [0, 1], first.
        points: where masks can sit besides the picture itself, by the name used in ``defense: points:``; a function
            of the network where the place depends on its arguments.

    Raises:
        TypeError: ``cls`` is defended already.
    """
    if issubclass(cls, DefenseMixin):
        raise TypeError(f'{cls.__name__} is defended already')
    return type(f'Defended{cls.__name__}', (DefenseMixin, cls), {
        '__doc__': f'{cls.__name__} behind random frequency masks; see rsr_basicsr.defend.',
        'backbone': cls,
        'inner_points': dict(points or {}),
    })


def register_defended(points: Optional[Points] = None):
    """Class decorator: registers the defended twin of an architecture, and leaves the architecture as it is."""
    def decorate(cls):
        ARCH_REGISTRY.register(defend(cls, points))
        return cls

    return decorate


def _swinir_upsampler(net):
    return MaskPoint('conv_up1', repeat=2) if net.upsampler == 'nearest+conv' else MaskPoint('upsample')


# Yue et al. 2021 place the masks of CDC (13) and RRDB (3; RRDBNet enlarges the third tensor before the first module
# it can be met at). The other networks have them by analogy: the picture, the input of the last trunk convolution and
# the tensor that enters the upsampler.
register_defended({'hourglass': MaskPoint('hourglasses.*'), 'inner': MaskPoint('hourglasses.*.inner')})(CDC)
register_defended({'trunk': MaskPoint('conv_body'), 'upsampler': MaskPoint('conv_up1', repeat=2)})(RRDBNet)
register_defended({'trunk': MaskPoint('body.-1'), 'upsampler': MaskPoint('upsampler')})(SRVGGNetCompact)
register_defended({'trunk': MaskPoint('body.-1.conv2'), 'upsampler': MaskPoint('upconv1')})(MSRResNet)
register_defended({'trunk': MaskPoint('conv_after_body'), 'upsampler': MaskPoint('upsample')})(EDSR)
register_defended({'trunk': MaskPoint('conv_after_body'), 'upsampler': MaskPoint('upsample')})(RCAN)
register_defended({'trunk': MaskPoint('conv_after_body'), 'upsampler': _swinir_upsampler})(SwinIR)
