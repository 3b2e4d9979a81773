"""Masks, classifier and gate of one network: the gate decides how much each image is masked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from rsr_basicsr.archs.classifier import SampleClassifier, log_odds
from rsr_basicsr.archs.ensemble_classifier_arch import EnsembleClassifier
from rsr_basicsr.archs.frequency_classifier_arch import FrequencyClassifier, RRDBFrequencyClassifier
from rsr_basicsr.archs.frequency_mask_arch import RandomFrequencyMask, repeatable_mask
from rsr_basicsr.archs.residual_classifier_arch import ResidualClassifier
from rsr_basicsr.archs.statistics_classifier_arch import StatisticsClassifier
from rsr_basicsr.catalog.choices import BUILTIN, CLASSIFIER_TYPES, DEFAULT_CLASSIFIER, GATES, UNTRAINED
from rsr_basicsr.ops.caching import any_size
from rsr_basicsr.ops.registry import take_type

DECISIONS = ('image', 'batch', 'majority', 'tile')

#: Classifiers by ``defense: classifier: type``
CLASSIFIERS: dict[str, type[SampleClassifier]] = dict(
    zip(
        CLASSIFIER_TYPES,
        (EnsembleClassifier, StatisticsClassifier, ResidualClassifier, FrequencyClassifier, RRDBFrequencyClassifier),
        strict=True,
    )
)

#: How much images are masked: one bool for all, or (B,) with 0 for not at all and 1 for entirely
Decision = bool | torch.Tensor
Masks = Callable[['Defense', torch.Tensor, int], torch.Tensor]


def build_classifier(options: Mapping[str, Any]) -> SampleClassifier:
    """Build the classifier of an options block.

    Args:
        options: ``type``, one of :data:`CLASSIFIERS`; ``weights``: ``builtin``, ``untrained`` or a file; and arguments
            of the class. Without ``weights``, the built-in ones are taken if the type has them and there are no
            arguments.

    Raises:
        ValueError: unknown type.
        WeightsError: the weights cannot be read, or are for another type.
    """
    _, build, arguments = take_type({'type': DEFAULT_CLASSIFIER, **options}, CLASSIFIERS, 'classifier')
    weights = arguments.pop('weights', None)
    if weights is None and not arguments and build.builtin_weights().is_file():
        weights = BUILTIN
    net: SampleClassifier = build(**arguments, weights=None if weights == UNTRAINED else weights)
    net.origin = weights or UNTRAINED
    return net


class Defense(nn.Module):
    """Masks, classifier and gate of one defended network; the options block ``network_g: defense:``.

    Args:
        mask: arguments of :class:`RandomFrequencyMask`.
        classifier: as in :func:`build_classifier`, and ``threshold``: an image counts as attacked if P(clean) is below
            it; None takes the threshold stored with the weights.
        gate: ``classifier`` masks images classified as attacked, ``soft`` blends masked and unmasked by P(attacked) at
            every mask point, ``always`` masks all images, ``never`` none.
        decision: the unit of decision: each ``image``; the ``batch``, by its mean P(clean), as in the published code;
            the batch by ``majority``: all images are masked if more than half of them count as attacked, as in the
            published RRDB; or each ``tile`` when images are processed in tiles.
        mask_samples: in evaluation, the number of mask samples whose outputs are averaged; each costs a pass.
        seed: in evaluation, masks depend only on this number, their place and their size, and so do the random crops
            of a classifier; images pass the network one by one, so the result does not depend on the batch, unless the
            batch decides. None draws new masks at every call.

    Raises:
        ValueError: an argument is out of range.
        WeightsError: the weights of the classifier cannot be loaded.
    """

    def __init__(
        self,
        mask: Mapping[str, Any] | None = None,
        classifier: Mapping[str, Any] | None = None,
        gate: str = 'classifier',
        decision: str = 'image',
        mask_samples: int = 1,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        for name, value, known in (('gate', gate, GATES), ('decision', decision, DECISIONS)):
            if value not in known:
                raise ValueError(f'{name} must be one of {", ".join(known)}, got {value!r}')
        if mask_samples < 1:
            raise ValueError(f'mask_samples must be at least 1, got {mask_samples}')
        if seed is not None and seed < 0:
            raise ValueError(f'seed must be at least 0, got {seed}')
        classifier_options = dict(classifier or {})
        self.gate, self.decision = gate, decision
        self.mask_samples, self.seed = mask_samples, seed
        self.threshold: float | None = classifier_options.pop('threshold', None)
        self.mask = RandomFrequencyMask(**(mask or {}))
        self.classifier = build_classifier(classifier_options)
        self.forced_to: Decision | None = None
        self._straight_through = False
        self._waits = True
        self._masks: Masks | None = None
        self._obeyed: Decision = False
        self._masks_drawn = 0

    @contextlib.contextmanager
    def forced(self, decision: Decision) -> Iterator[Defense]:
        """Overrule the gate within the block, by a decision as :meth:`decide` returns it."""
        previous, self.forced_to = self.forced_to, decision
        try:
            yield self
        finally:
            self.forced_to = previous

    @contextlib.contextmanager
    def straight_through(self) -> Iterator[Defense]:
        """Let gradients pass the gate ``classifier`` within the block, for attacks that know the defence.

        The decision is unchanged; its gradient is that of P(attacked).
        """
        previous, self._straight_through = self._straight_through, True
        try:
            yield self
        finally:
            self._straight_through = previous

    @contextlib.contextmanager
    def without_waiting(self) -> Iterator[Defense]:
        """Within the block, the host never waits for the device to know whether any image is masked.

        For a pass in evaluation mode inside a training step; masks that no image needs are then computed in vain.
        """
        previous, self._waits = self._waits, False
        try:
            yield self
        finally:
            self._waits = previous

    def attacked(self, x: torch.Tensor) -> torch.Tensor:
        """Classify images ``x``, (B, 3, H, W) in [0, 1]: bool (B,), True where attacked."""
        with torch.no_grad():
            return self.below_threshold(self.clean_probability(x))

    def logit(self, x: torch.Tensor) -> torch.Tensor:
        """Log odds of attacked against clean, relative to the threshold: (B,), positive where attacked.

        Args:
            x: images, (B, 3, H, W) in [0, 1].
        """
        odds = log_odds(self.classifier(self._seen(x)))
        return odds + self.threshold_in_effect.to(odds).logit(eps=1e-6)

    def decide(self, x: torch.Tensor) -> Decision:
        """Decide how much images are masked.

        Args:
            x: images, (B, 3, H, W) in [0, 1].

        Returns:
            One bool for all, or (B,) with 0 for not at all and 1 for entirely: bool, or float for the gate ``soft`` and
            within :meth:`straight_through`.
        """
        if self.forced_to is not None:
            return self.forced_to if isinstance(self.forced_to, bool) else self.forced_to.to(x.device)
        if self.gate in ('always', 'never'):
            return self.gate == 'always'
        if self.gate == 'soft':
            return 1 - self.clean_probability(x)
        if not self._straight_through:
            return self.attacked(x)
        clean = self.clean_probability(x)
        return self.below_threshold(clean).to(clean.dtype) - (clean - clean.detach())

    def decision_for(self, clean: torch.Tensor) -> Decision:
        """As :meth:`decide`, from P(clean) of the images, (B,), and regardless of :meth:`forced`."""
        by_gate: dict[str, Decision] = {
            'always': True,
            'never': False,
            'soft': 1 - clean,
            'classifier': self.below_threshold(clean),
        }
        return by_gate[self.gate]

    @contextlib.contextmanager
    def obeying(self, decision: Decision) -> Iterator[Decision]:
        """Apply masks by ``decision`` within the block, which is one pass of the network."""
        # Clean images should not pay for unused masks. But in training the host must not wait for the device, and every
        # rank must take the same path through the network; a compiled network has one path only.
        branches = self._waits and not (self.training or torch.compiler.is_compiling())
        if branches and not (isinstance(decision, bool) or decision.requires_grad):
            decision = decision if decision.any() else False
        self._obeyed, self._masks_drawn = decision, 0
        try:
            yield decision
        finally:
            self._obeyed = False

    @contextlib.contextmanager
    def masking_by(self, masks: Masks | None) -> Iterator[Defense]:
        """Let a function mask the tensors within the block, instead of :meth:`apply_mask`.

        For images in tiles, see :class:`rsr_basicsr.ops.whole_masks.WholeMasks`.

        Args:
            masks: called with this defence, the tensor and the number of the mask in the pass; None restores the
                default.
        """
        previous, self._masks = self._masks, masks
        try:
            yield self
        finally:
            self._masks = previous

    def apply_mask(self, x: torch.Tensor, repeat: int = 1) -> torch.Tensor:
        """Mask a tensor by the current decision.

        Args:
            x: (B, C, H, W).
            repeat: as in :class:`rsr_basicsr.archs.MaskPoint`.
        """
        if self._obeyed is False:
            return x
        if repeat > 1:
            reduced = self.apply_mask(x[..., ::repeat, ::repeat])
            return reduced.repeat_interleave(repeat, dim=-2).repeat_interleave(repeat, dim=-1)
        place, self._masks_drawn = self._masks_drawn, self._masks_drawn + 1
        if self._masks is not None:
            return self._masks(self, x, place)
        masked = self.mask.erase(x, self.draw(x, place)) if self.repeatable else self.mask(x)
        return self.blend(x, masked)

    def draw(self, x: torch.Tensor, place: int) -> torch.Tensor:
        """The masks for ``x``, (B, C, H, W), the ``place``-th of a pass: (B, 1, H, W) or (1, 1, H, W)."""
        if self.seed is None or not self.repeatable:
            return self.mask.draw(x)
        return repeatable_mask(self.mask.keep_radius, self.seed, place, *x.shape[-2:], x.device)

    def blend(self, x: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """Interpolate between ``x`` and ``masked`` by the current decision."""
        if isinstance(self._obeyed, bool):
            return masked if self._obeyed else x
        share = self._obeyed.to(x).view(-1, 1, 1, 1)
        return x * (1 - share) + masked * share if any_size() else torch.lerp(x, masked, share)

    @property
    def repeatable(self) -> bool:
        """Whether masks are determined by the seed."""
        return self.seed is not None and not self.training

    @property
    def threshold_in_effect(self) -> torch.Tensor:
        """P(clean) below which an image counts as attacked, a scalar: the option, else that of the weights."""
        stored = self.classifier.threshold
        # Filled on the device: a copy from the host would synchronize at every pass.
        return stored if self.threshold is None else torch.full_like(stored, self.threshold)

    def below_threshold(self, clean: torch.Tensor) -> torch.Tensor:
        """Whether images with these P(clean), (B,), count as attacked: bool (B,)."""
        # NaN counts as attacked: a broken image must not bypass the defence.
        return ~(clean >= self.threshold_in_effect)

    def clean_probability(self, x: torch.Tensor) -> torch.Tensor:
        """P(clean) per image, (B,); if the batch decides, that of the batch for all images.

        That of the batch is its mean, or for ``majority`` its median: below the threshold iff more than half of the
        batch is.

        Args:
            x: images, (B, 3, H, W) in [0, 1].
        """
        # One by one if repeatable: the last bits of a matrix product depend on its number of rows.
        parts = x.split(1) if self.repeatable else [x]
        clean = torch.cat([self.classifier.clean_probability(self._seen(part)) for part in parts])
        if self.decision == 'batch':
            return clean.mean(dim=0, keepdim=True).expand_as(clean)
        return _of_majority(clean).expand_as(clean) if self.decision == 'majority' else clean

    def _seen(self, x: torch.Tensor) -> torch.Tensor:
        """The part of images (B, 3, H, W) that the classifier looks at; determined by the seed if there is one."""
        return self.classifier.seen(x, self.seed) if self.repeatable else x

    def extra_repr(self) -> str:
        return (
            f'gate={self.gate}, threshold={"that of the weights" if self.threshold is None else self.threshold}, '
            f'decision={self.decision}, mask_samples={self.mask_samples}, seed={self.seed}'
        )


def _of_majority(clean: torch.Tensor) -> torch.Tensor:
    """The P(clean) that decides the majority vote of a batch, (B,) -> (1,): the (upper) median."""
    clean = torch.where(clean.isnan(), torch.zeros_like(clean), clean)  # NaN counts as attacked
    middle = (
        torch.ones_like(clean, dtype=torch.long).sum() // 2
    )  # exporters support no Python number that depends on the batch
    return clean.sort().values.index_select(0, middle.view(1))
