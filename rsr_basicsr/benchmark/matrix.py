"""The cells of a benchmark: every network behind every defence under every attack on every image."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os.path as osp
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.attacks import Attack, DetectorAware, Universal, WorstOf, build_attack, worst_of
from rsr_basicsr.benchmark.images import BenchmarkImage, open_dataset
from rsr_basicsr.benchmark.names import CLEAN, NO_DEFENSE
from rsr_basicsr.benchmark.options import applicable, decides, detector_has_gradient, parameter_counts
from rsr_basicsr.catalog.choices import UNTRAINED
from rsr_basicsr.defenses import build_defense
from rsr_basicsr.ops.tiled import OVERLAP, Padded, defenses, upscale
from rsr_basicsr.weights.state_dict import build_quietly, digest, file_sha256, load_network

# Version of the keys and of the meaning of the options in them; since 3 the step size of PGD decreases.
_FORMAT = 3
_TRIALS = 8  # forward passes to find out whether a network is random: some are not in every pass
_OWN_GATE_SETTINGS = (DetectorAware, Universal, WorstOf)
#: Gate settings under which an attack with gradients is made on a network with a detector
GATE_SETTINGS = ('as it decides', 'always', 'never')


@dataclass(frozen=True)
class Cell:
    """One measurement: names as in the options, and the image.

    Args:
        key: digest of everything the result depends on.
        cost: estimated relative duration.
        in_gallery: whether its images are kept for the gallery of the report.
    """

    network: str
    defense: str
    attack: str
    eps: float
    image: BenchmarkImage
    key: str
    cost: float
    in_gallery: bool


class Matrix:
    """The cells of a benchmark and the networks, attacks and images to measure them, loaded on demand.

    Args:
        options: as returned by :func:`rsr_basicsr.benchmark.options.check_benchmark`.
        images: likewise.
        device: device of the networks.

    Attributes:
        cells: all cells, in the order of the options.
        facts: network name -> facts for reports, such as its fingerprint and number of parameters.
    """

    def __init__(self, options: Mapping[str, Any], images: list[BenchmarkImage], device: torch.device) -> None:
        self.options, self.images, self.device = options, images, device
        self._datasets = {name: open_dataset(options, name) for name in options['datasets']}
        self._deployed: dict[tuple[str, str], nn.Module] = {}
        self._sources: dict[str, nn.Module] = {}
        self._random: tuple[nn.Module | None, bool] = (None, False)

    @functools.cached_property
    def facts(self) -> dict[str, dict[str, Any]]:
        return {name: self._network_facts(name) for name in self.options['networks']}

    @functools.cached_property
    def cells(self) -> list[Cell]:
        return list(self._cells())

    def network(self, name: str, defense: str = NO_DEFENSE) -> nn.Module:
        """The network behind a defence, on the device, in evaluation mode."""
        if (name, defense) not in self._deployed:
            self._deployed.clear()  # cells are ordered by network: keep only one in memory
            options = _without(self.options['networks'][name], 'defenses', 'card')
            net = _built(options, self.options['seed']).requires_grad_(False)
            if options.get('window_size'):
                net = Padded(net, options['window_size'])
            if self.options['defenses'][defense]:
                net = build_defense(self.options['defenses'][defense], net)
            self._deployed[name, defense] = net.to(self.device).eval()
        return self._deployed[name, defense]

    def outputs(self, net: nn.Module, lq: torch.Tensor, seeds: Sequence[int]) -> Iterator[torch.Tensor]:
        """As :func:`upscaled_under`, in the tiles of the options."""
        return upscaled_under(net, lq, seeds, self.options.get('tile'), self.options['tile_overlap'])

    def read(self, image: BenchmarkImage) -> dict[str, torch.Tensor]:
        """``lq`` and, if available, ``gt``, each (1, 3, H, W) in [0, 1], on the device."""
        item = self._datasets[image.dataset][image.position]
        return {name: item[name][None].to(self.device) for name in ('lq', 'gt') if name in item}

    def attack(self, name: str, eps: float, net: nn.Module) -> Attack:
        """The seeded attack of a cell; on a network with a detector, gradient attacks try every gate setting."""
        attack = build_attack({**_without(self.options['attacks'][name], 'eps'), 'eps': eps}, self._source)
        changes = {'seed': self.options['seed']} if _takes(attack, 'seed') and attack.seed is None else {}
        if self.options.get('tile') and _takes(attack, 'tile') and attack.tile is None and attack.memory is None:
            changes.update(tile=self.options['tile'], overlap=self.options['tile_overlap'])
        if _takes(attack, 'eot_samples') and attack.uses != 'nothing' and not self.draws_at_random(net):
            changes['eot_samples'] = 1  # the passes would all be equal
        return every_gate_setting(attack.but(**changes) if changes else attack, net)

    def draws_at_random(self, net: nn.Module) -> bool:
        """Whether a network gives different outputs for the same image; the answer for the last network is cached."""
        if self._random[0] is not net:
            try:
                self._random = net, is_random(net, self.device)
            except Exception:  # a network that rejects this image reports the error in its cells
                self._random = net, True
        return self._random[1]

    def _source(self, options: Mapping[str, Any]) -> nn.Module:
        identity = json.dumps(options, sort_keys=True)
        if identity not in self._sources:
            self._sources[identity] = load_network(options).requires_grad_(False).to(self.device)
        return self._sources[identity]

    def _cells(self) -> Iterator[Cell]:
        """Ordered by network, so that one is in memory at a time, then by image."""
        in_gallery = {
            image
            for name in self.options['datasets']
            for image in [p for p in self.images if p.dataset == name][: self.options['gallery']]
        }
        for network, options in self.options['networks'].items():
            for defense in options['defenses']:
                net = self.network(network, defense)
                attacks = list(self._attacks_on(net))
                for image in self.images:
                    for name, eps, attack in attacks:
                        key = self._key(network, defense, name, eps, attack, image)
                        yield Cell(
                            network,
                            defense,
                            name,
                            eps,
                            image,
                            key,
                            self._cost(network, attack, image),
                            image in in_gallery,
                        )

    def _attacks_on(self, net: nn.Module) -> Iterator[tuple[str, float, Attack | None]]:
        """Name, eps and attack of each cell of a network and image, the clean one first."""
        yield CLEAN, 0.0, None
        for name in self.options['attacks']:
            for eps in self.strengths(name):
                attack = self.attack(name, eps, net)
                if applicable(attack, net):
                    yield name, eps, attack

    def strengths(self, name: str) -> list[float]:
        """Every eps of an attack in 1/255, ascending."""
        return sorted(set(self.options['attacks'][name].get('eps', self.options['eps'])))

    def _key(
        self, network: str, defense: str, name: str, eps: float, attack: Attack | None, image: BenchmarkImage
    ) -> str:
        """Digest of everything the result of a cell depends on."""
        options = _without(self.options['attacks'][name], 'eps') if eps else {}
        if getattr(attack, 'eot_samples', None) == 1:
            options.pop('eot_samples', None)  # the number in the options has no effect
        fits_all_images = options.get('type') == 'Universal'
        parts = [
            _FORMAT,
            self.facts[network]['fingerprint'],
            self.options['defenses'][defense],
            by_content(options),
            eps,
            image.digest,
            self.options['seed'],
            self.options['mask_seeds'],
            by_content(self.options['metrics']),
            self.options.get('tile'),
            self.options['tile_overlap'],
            self.options['threads'],
            self.device.type,
            sorted(p.digest for p in self.images if p.dataset == image.dataset) if fits_all_images else None,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def _network_facts(self, name: str) -> dict[str, Any]:
        options = self.options['networks'][name]
        net = self.network(name)
        built = by_content(_without(options, 'defenses', 'card', 'weights'))
        state = net.cpu().state_dict()
        if not decides(net):  # an unused classifier may have any weights
            state = {key: value for key, value in state.items() if 'defense.classifier.' not in key}
        identity = json.dumps([built, digest(state)], sort_keys=True)
        net.to(self.device)
        weights = options.get('weights')
        file = None if weights == UNTRAINED else weights
        return {
            'fingerprint': hashlib.sha256(identity.encode()).hexdigest(),
            'type': getattr(net, 'architecture', options['type']),
            **parameter_counts(net),
            'weights': weights and osp.basename(weights),
            'sha256': file and _sha256(file),
            'decides': decides(net),
            'detector_has_gradient': detector_has_gradient(net),
            'card': dict(options.get('card') or {}),
        }

    def _cost(self, network: str, attack: Attack | None, image: BenchmarkImage) -> float:
        # The cost of a convolutional network is proportional to its parameters and the pixels of the input.
        work = (self.facts[network]['parameters'] + 1e4) * image.size[0] * image.size[1]
        return work * (passes(attack) + 2 * len(self.options['mask_seeds']))


def every_gate_setting(attack: Attack, net: nn.Module) -> Attack:
    """The attack under each of :data:`GATE_SETTINGS`, if it follows gradients and the network has a detector.

    The setting that is the worst for the deployed network counts, per image. An attack that sets the gate itself is
    returned as it is.
    """
    if (
        not decides(net)
        or isinstance(attack, _OWN_GATE_SETTINGS)
        or attack.uses != 'gradients'
        or attack.gate is not None
    ):
        return attack
    variants = [attack, attack.but(gate='always'), attack.but(gate='never')]  # in the order of GATE_SETTINGS
    if isinstance(net, DefenseMixin):
        variants[-1] = variants[-1].but(eot_samples=1)  # without masks the network is deterministic
    unseeded = [variant.but(seed=None) if _takes(variant, 'seed') else variant for variant in variants]
    return worst_of(unseeded, seed=attack.seed)


def is_random(net: nn.Module, device: torch.device) -> bool:
    """Whether a network on this device gives different outputs for the same image, masks included."""
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)
    with contextlib.ExitStack() as stack, torch.no_grad():
        gates: list[Any] = defenses(net) if decides(net) else []
        for defense in gates:
            stack.enter_context(defense.forced(True))
        first, *others = upscaled_under(net, x, range(_TRIALS))
    return not all(torch.equal(first, other) for other in others)


def _built(options: Mapping[str, Any], seed: int) -> nn.Module:
    """The network of a block, on the CPU; ``weights: untrained`` draws its weights from the seed."""
    if options.get('weights') != UNTRAINED:
        return load_network(options)
    with seeded(seed, 0, torch.device('cpu')):
        return build_quietly(_without(options, 'weights')).eval()


def upscaled_under(
    net: nn.Module, lq: torch.Tensor, seeds: Sequence[int], tile: int | None = None, overlap: int = OVERLAP
) -> Iterator[torch.Tensor]:
    """Yield the outputs of a network for images (B, 3, H, W) on its device, one per mask seed, without a gradient.

    Args:
        net: the network.
        lq: the images.
        seeds: seeds of the network's own randomness.
        tile, overlap: as of :func:`rsr_basicsr.ops.tiled.upscale`.
    """
    for seed in seeds:
        with seeded(seed, 0, lq.device), torch.no_grad():
            output = upscale(net, lq, tile=tile, overlap=overlap)
        yield output


@contextlib.contextmanager
def seeded(seed: int, extra: int, device: torch.device) -> Iterator[None]:
    """Seed torch within the block, from two numbers, and restore its random state afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):
        # 32 bits: torch's CPU generator uses no more.
        torch.manual_seed(int(np.random.SeedSequence([seed, extra]).generate_state(1)[0]))
        yield


def passes(attack: Attack | None) -> float:
    """Estimated number of forward passes of an attack; a backward pass counts as one."""
    if attack is None:
        return 0
    if hasattr(attack, 'attacks'):
        return sum(map(passes, attack.attacks))
    if hasattr(attack, 'queries'):
        return attack.queries * attack.restarts
    inner = getattr(attack, 'attack', attack)
    each = 2 * getattr(inner, 'steps', 0) * getattr(inner, 'eot_samples', 1) * getattr(inner, 'restarts', 1)
    return each * len(getattr(inner, 'weights', (1,)))


def by_content(options: Any) -> Any:
    """The options with files of weights replaced by their SHA-256."""
    if isinstance(options, Mapping):
        return {
            key: _sha256(value)
            if key in ('weights', 'backbone') and isinstance(value, str) and osp.isfile(value)
            else by_content(value)
            for key, value in options.items()
        }
    if isinstance(options, (list, tuple)):
        return [by_content(value) for value in options]
    return options


_sha256 = functools.lru_cache(maxsize=None)(file_sha256)  # once per file, not per cell


def _takes(attack: Attack, name: str) -> bool:
    return name in attack.parameters()


def _without(options: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in keys}
