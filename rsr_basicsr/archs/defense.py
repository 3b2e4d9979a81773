"""Masks, classifier and gate of one network: who decides how much an image is masked, and the masks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from rsr_basicsr.archs.classifier import BUILTIN, SampleClassifier, log_odds
from rsr_basicsr.archs.ensemble_classifier_arch import EnsembleClassifier
from rsr_basicsr.archs.frequency_classifier_arch import FrequencyClassifier, RRDBFrequencyClassifier
from rsr_basicsr.archs.frequency_mask_arch import RandomFrequencyMask, repeatable_mask
from rsr_basicsr.archs.residual_classifier_arch import ResidualClassifier
from rsr_basicsr.archs.statistics_classifier_arch import StatisticsClassifier
from rsr_basicsr.ops.caching import any_size

GATES = ('classifier', 'soft', 'always', 'never')
DECISIONS = ('image', 'batch', 'majority', 'tile')

#: By the name of ``defense: classifier: type``
CLASSIFIERS: dict[str, type[SampleClassifier]] = {
    'ensemble': EnsembleClassifier,
    'statistics': StatisticsClassifier,
    'residual': ResidualClassifier,
    'paper': FrequencyClassifier,
    'paper_rrdb': RRDBFrequencyClassifier,
}
DEFAULT_CLASSIFIER = 'ensemble'
UNTRAINED = 'untrained'

#: How much images are masked: one bool for all, or (B,), 0 for not at all and 1 for entirely.
Decision = bool | torch.Tensor
Masks = Callable[['Defense', torch.Tensor, int], torch.Tensor]


def build_classifier(options: Mapping[str, Any]) -> SampleClassifier:
    """The classifier of a block ``type``, ``weights`` (``builtin``, ``untrained`` or a file) and arguments.

    Without ``weights`` it is the built-in one where there is one of that type and no argument asks for another size.

    Raises:
        ValueError: there is no such type.
        WeightsError: the weights cannot be read, or are for another type.
    """
    options = dict(options)
    kind, weights = options.pop('type', DEFAULT_CLASSIFIER), options.pop('weights', None)
    if kind not in CLASSIFIERS:
        raise ValueError(f'classifier type must be one of {", ".join(CLASSIFIERS)}, got {kind!r}')
    if weights is None and not options and CLASSIFIERS[kind].builtin_weights().is_file():
        weights = BUILTIN
    net = CLASSIFIERS[kind](**options, weights=None if weights == UNTRAINED else weights)
    net.origin = weights or UNTRAINED
    return net


class Defense(nn.Module):
    """Masks, classifier and gate of one defended network; the options block ``network_g: defense:``.

    Args:
        mask: arguments of :class:`RandomFrequencyMask`.
        classifier: ``type``: one of :data:`CLASSIFIERS`; ``weights``: ``builtin`` for those that come with the
            package, ``untrained``, or a file with its state dict; ``threshold``: an image counts as attacked when
            P(clean) is below it, None for the one that is kept with the weights; the rest is for the class.
        gate: ``classifier`` masks the images it takes for attacked, ``soft`` blends masked and unmasked by
            P(attacked) at every mask point, ``always`` masks all, ``never`` none.
        decision: what the classifier decides on: each ``image``; the ``batch``, by the mean of P(clean), as the
            published code does; the batch by ``majority``: all its images are masked if more than half of them count
            as attacked, as the published RRDB does; or each ``tile`` where images are processed in tiles.
        mask_samples: in evaluation, average the outputs of this many draws of the masks; each costs a pass.
        seed: in evaluation, the masks depend on this number, their place and their size only, as do the crops of a
            classifier that looks at some, and every image passes the network alone: its result is the same in any
            batch, unless the batch decides. None draws anew at every call.
    """

    def __init__(
        self,
        mask: dict | None = None,
        classifier: dict | None = None,
        gate: str = 'classifier',
        decision: str = 'image',
        mask_samples: int = 1,
        seed: int | None = None,
    ):
        super().__init__()
        for name, value, known in (('gate', gate, GATES), ('decision', decision, DECISIONS)):
            if value not in known:
                raise ValueError(f'{name} must be one of {", ".join(known)}, got {value!r}')
        if mask_samples < 1:
            raise ValueError(f'mask_samples must be at least 1, got {mask_samples}')
        if seed is not None and seed < 0:
            raise ValueError(f'seed must be at least 0, got {seed}')
        classifier = dict(classifier or {})
        self.gate, self.decision = gate, decision
        self.mask_samples, self.seed = mask_samples, seed
        self.threshold: float | None = classifier.pop('threshold', None)
        self.mask = RandomFrequencyMask(**(mask or {}))
        self.classifier = build_classifier(classifier)
        self._forced: Decision | None = None
        self._straight_through = False
        self._masks: Masks | None = None
        self._obeyed: Decision = False
        self._masks_drawn = 0

    @contextlib.contextmanager
    def forced(self, decision: Decision):
        """Overrule the gate within the block: one bool for all images, or what :meth:`decide` returns."""
        previous, self._forced = self._forced, decision
        try:
            yield self
        finally:
            self._forced = previous

    @contextlib.contextmanager
    def straight_through(self):
        """Within the block gradients pass the gate ``classifier`` as if it were soft: for attacks that know of it.

        The decision stays as it is; its gradient is that of P(attacked), by which an attack can steer it.
        """
        previous, self._straight_through = self._straight_through, True
        try:
            yield self
        finally:
            self._straight_through = previous

    def attacked(self, x: torch.Tensor) -> torch.Tensor:
        """The classifier's verdict on images ``x``, (B, 3, H, W) in [0, 1]: bool (B,), True where attacked."""
        with torch.no_grad():
            return self.below_threshold(self.clean_probability(x))

    def logit(self, x: torch.Tensor) -> torch.Tensor:
        """How far each of the images ``x`` is on the attacked side of the threshold: (B,), above 0 where it is.

        The log odds of attacked against clean, less those at the threshold.
        """
        odds = log_odds(self.classifier(self._seen(x)))
        return odds + self.threshold_in_effect.to(odds).logit(eps=1e-6)

    def decide(self, x: torch.Tensor) -> Decision:
        """How much images ``x``, (B, 3, H, W) in [0, 1], are masked.

        Returns:
            One bool for all, or (B,) with 0 for not at all and 1 for entirely: bool, but float for the gate ``soft``
            and within :meth:`straight_through`.
        """
        if self._forced is not None:
            return self._forced if isinstance(self._forced, bool) else self._forced.to(x.device)
        if self.gate in ('always', 'never'):
            return self.gate == 'always'
        if self.gate == 'soft':
            return 1 - self.clean_probability(x)
        if not self._straight_through:
            return self.attacked(x)
        clean = self.clean_probability(x)
        return self.below_threshold(clean).to(clean.dtype) - (clean - clean.detach())

    def decision_for(self, clean: torch.Tensor) -> Decision:
        """As :meth:`decide`, of images whose P(clean) is known, (B,), and regardless of :meth:`forced`."""
        by_gate = {'always': True, 'never': False, 'soft': 1 - clean, 'classifier': self.below_threshold(clean)}
        return by_gate[self.gate]

    @contextlib.contextmanager
    def obeying(self, decision: Decision):
        """Within the block, one pass of the network, :meth:`apply_mask` obeys ``decision``."""
        # Clean images should not pay for masks that are thrown away. But in training the host must not wait for the
        # device, and every rank must take the same way through the network; a compiled one has no other way.
        if not (isinstance(decision, bool) or self.training or decision.requires_grad or torch.compiler.is_compiling()):
            decision = decision if decision.any() else False
        self._obeyed, self._masks_drawn = decision, 0
        try:
            yield decision
        finally:
            self._obeyed = False

    @contextlib.contextmanager
    def masking_by(self, masks: Masks):
        """Within the block, :meth:`apply_mask` leaves to a function what a mask makes of a tensor.

        For networks that see an image tile by tile, see :class:`rsr_basicsr.ops.whole_masks.WholeMasks`.

        Args:
            masks: called with this defence, the tensor and the number of the mask in this pass.
        """
        previous, self._masks = self._masks, masks
        try:
            yield self
        finally:
            self._masks = previous

    def apply_mask(self, x: torch.Tensor, repeat: int = 1) -> torch.Tensor:
        """Mask the samples of ``x``, (B, C, H, W), as far as the decision says."""
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
        """The masks for ``x``, (B, C, H, W), as the ``place``-th of a pass: (B, 1, H, W) or (1, 1, H, W)."""
        if not self.repeatable:
            return self.mask.draw(x)
        return repeatable_mask(self.mask.keep_radius, self.seed, place, *x.shape[-2:], x.device)

    def blend(self, x: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """Between ``x`` and what the masks make of it, as far as the decision says."""
        if self._obeyed is True:
            return masked
        share = self._obeyed.to(x).view(-1, 1, 1, 1)
        return x * (1 - share) + masked * share if any_size() else torch.lerp(x, masked, share)

    @property
    def repeatable(self) -> bool:
        """Whether the masks are those of the seed."""
        return self.seed is not None and not self.training

    @property
    def threshold_in_effect(self) -> torch.Tensor:
        """P(clean) below which an image counts as attacked, a scalar: the own one, else that of the classifier."""
        kept = self.classifier.threshold
        # Filled on the device: a copy from the host would make it wait at every pass.
        return kept if self.threshold is None else torch.full_like(kept, self.threshold)

    def below_threshold(self, clean: torch.Tensor) -> torch.Tensor:
        """Whether images with these P(clean) count as attacked."""
        # And not a number, too: a broken image must not open a way around.
        return ~(clean >= self.threshold_in_effect)

    def clean_probability(self, x: torch.Tensor) -> torch.Tensor:
        """P(clean) of images ``x``, (B, 3, H, W) in [0, 1]: (B,).

        Where the batch decides, that of the batch: the mean, or the value that is below a threshold just when more
        than half of the batch is.
        """
        # The last bits of a matrix product depend on its number of rows.
        parts = x.split(1) if self.repeatable else [x]
        clean = torch.cat([self.classifier.clean_probability(self._seen(part)) for part in parts])
        if self.decision == 'batch':
            return clean.mean(dim=0, keepdim=True).expand_as(clean)
        return _of_majority(clean).expand_as(clean) if self.decision == 'majority' else clean

    def _seen(self, x: torch.Tensor) -> torch.Tensor:
        """What the classifier looks at of images (B, 3, H, W): the crop of the seed where there is one."""
        return self.classifier.seen(x, self.seed) if self.repeatable else x

    def extra_repr(self) -> str:
        return (
            f'gate={self.gate}, threshold={"that of the weights" if self.threshold is None else self.threshold}, '
            f'decision={self.decision}, mask_samples={self.mask_samples}, seed={self.seed}'
        )


def _of_majority(clean: torch.Tensor) -> torch.Tensor:
    """The P(clean) that decides the vote of a batch, (B,) -> (1,): the median, the upper one of an even number."""
    clean = torch.where(clean.isnan(), torch.zeros_like(clean), clean)  # votes for attacked
    middle = torch.ones_like(clean, dtype=torch.long).sum() // 2  # exporters take no number that depends on the batch
    return clean.sort().values.index_select(0, middle.view(1))
