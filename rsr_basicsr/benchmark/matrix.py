"""What a benchmark measures: every network behind every defence under every attack, image by image."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os.path as osp
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.archs.defense import UNTRAINED
from rsr_basicsr.attacks import Attack, DetectorAware, Universal, WorstOf, build_attack, worst_of
from rsr_basicsr.benchmark.images import BenchmarkImage, open_dataset
from rsr_basicsr.benchmark.names import CLEAN, NO_DEFENSE
from rsr_basicsr.benchmark.options import applicable, decides, detector_has_gradient
from rsr_basicsr.defenses import build_defense
from rsr_basicsr.ops.tiled import Padded, defenses
from rsr_basicsr.weights.state_dict import build_quietly, digest, file_sha256, load_network

# Of what a key is made of, and of what the options in it mean: since 3 the step of PGD falls.
_FORMAT = 3
_TRIALS = 8  # of a network, to see whether it draws at random: some do not always
_WITH_OWN_WAYS = (DetectorAware, Universal, WorstOf)  # through the gate
GATES = ('as it decides', 'always', 'never')


@dataclass(frozen=True)
class Cell:
    """One measurement: names as in the options, and the image.

    Args:
        key: digest of all that the result depends on.
        cost: roughly how long it takes, beside the others.
        shown: whether the report may show it.
    """

    network: str
    defense: str
    attack: str
    eps: float
    image: BenchmarkImage
    key: str
    cost: float
    shown: bool


class Matrix:
    """The cells of a benchmark, and what is needed to measure them, loaded when it is asked for.

    Args:
        options: as :func:`rsr_basicsr.benchmark.options.check_benchmark` returns them.
        images: likewise.
        device: where the networks compute.

    Attributes:
        cells: what is to be measured, in the order of the options.
        facts: of each network, for those who read the results.
    """

    def __init__(self, options: Mapping[str, Any], images: list[BenchmarkImage], device: torch.device):
        self.options, self.images, self.device = options, images, device
        self._datasets = {name: open_dataset(options, name) for name in options['datasets']}
        self._deployed: dict[tuple, nn.Module] = {}
        self._sources: dict[str, nn.Module] = {}
        self._random: tuple[nn.Module | None, bool] = (None, False)
        self.facts = {name: self._network_facts(name) for name in options['networks']}
        self.cells = list(self._cells())

    def network(self, name: str, defense: str = NO_DEFENSE) -> nn.Module:
        """A network behind a defence, on the device, in evaluation mode."""
        if (name, defense) not in self._deployed:
            self._deployed.clear()  # the cells come network by network
            options = _without(self.options['networks'][name], 'defenses', 'card')
            net = _built(options, self.options['seed']).requires_grad_(False)
            if options.get('window_size'):
                net = Padded(net, options['window_size'])
            if self.options['defenses'][defense]:
                net = build_defense(self.options['defenses'][defense], net)
            self._deployed[name, defense] = net.to(self.device).eval()
        return self._deployed[name, defense]

    def read(self, image: BenchmarkImage) -> dict[str, torch.Tensor]:
        """``lq`` and, where there is one, ``gt``, (1, 3, H, W) in [0, 1], on the device."""
        item = self._datasets[image.dataset][image.index]
        return {name: item[name][None].to(self.device) for name in ('lq', 'gt') if name in item}

    def attack(self, name: str, eps: float, net: nn.Module) -> Attack:
        """The attack of a cell, seeded; one with gradients on a network that decides by itself looks at every gate."""
        attack = build_attack({**_without(self.options['attacks'][name], 'eps'), 'eps': eps}, self._source)
        changes = {'seed': self.options['seed']} if _takes(attack, 'seed') and attack.seed is None else {}
        if self.options.get('tile') and _takes(attack, 'tile') and attack.tile is None and attack.memory is None:
            changes.update(tile=self.options['tile'], overlap=self.options['tile_overlap'])
        if _takes(attack, 'eot_samples') and attack.uses != 'nothing' and not self.draws_at_random(net):
            changes['eot_samples'] = 1  # the mean over equal passes
        attack = attack.but(**changes) if changes else attack
        if (
            not decides(net)
            or isinstance(attack, _WITH_OWN_WAYS)
            or attack.uses != 'gradients'
            or attack.gate is not None
        ):
            return attack
        ways = [attack, attack.but(gate='always'), attack.but(gate='never')]
        if isinstance(net, DefenseMixin):
            ways[-1] = ways[-1].but(eot_samples=1)  # without masks nothing is left to chance
        return worst_of([way.but(seed=None) if _takes(way, 'seed') else way for way in ways], seed=attack.seed)

    def draws_at_random(self, net: nn.Module) -> bool:
        """Whether a network gives the same image different outputs; the last answer is kept."""
        if self._random[0] is not net:
            try:
                self._random = net, self._differs(net)
            except Exception:  # a network that does not take the image says so in each of its cells
                self._random = net, True
        return self._random[1]

    def _differs(self, net):
        x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(self.device)
        with contextlib.ExitStack() as stack, torch.no_grad():
            for defense in defenses(net) if decides(net) else ():
                stack.enter_context(defense.forced(True))
            first, *others = (self._output(net, x, seed) for seed in range(_TRIALS))
        return not all(torch.equal(first, other) for other in others)

    def _output(self, net, x, seed):
        with drawing(seed, 0, self.device):
            return net(x)

    def _source(self, options):
        identity = json.dumps(options, sort_keys=True)
        if identity not in self._sources:
            self._sources[identity] = load_network(options).requires_grad_(False).to(self.device)
        return self._sources[identity]

    def _cells(self) -> Iterator[Cell]:
        """Network by network, so that one is in memory at a time, and image by image."""
        shown = {
            image
            for name in self.options['datasets']
            for image in [p for p in self.images if p.dataset == name][: self.options['gallery']]
        }
        for network, options in self.options['networks'].items():
            for defense in options['defenses']:
                net = self.network(network, defense)
                attacks = [
                    (name, eps, self.attack(name, eps, net))
                    for name in self.options['attacks']
                    for eps in self.strengths(name)
                ]
                attacks = [(CLEAN, 0.0, None), *(entry for entry in attacks if applicable(entry[2], net))]
                for image in self.images:
                    for name, eps, attack in attacks:
                        key = self._key(network, defense, name, eps, attack, image)
                        yield Cell(
                            network, defense, name, eps, image, key, self._cost(network, attack, image), image in shown
                        )

    def strengths(self, name: str) -> list[float]:
        """Every eps of an attack, in 1/255, ascending."""
        return sorted(set(self.options['attacks'][name].get('eps', self.options['eps'])))

    def _key(self, network, defense, name, eps, attack, image):
        options = _without(self.options['attacks'][name], 'eps') if eps else {}
        if getattr(attack, 'eot_samples', None) == 1:
            options.pop('eot_samples', None)  # however many the options ask for
        with_all = options.get('type') == 'Universal'
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
            sorted(p.digest for p in self.images if p.dataset == image.dataset) if with_all else None,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def _network_facts(self, name):
        options = self.options['networks'][name]
        net = self.network(name)
        built = by_content(_without(options, 'defenses', 'card', 'weights'))
        state = net.cpu().state_dict()
        if not decides(net):  # a classifier that nobody asks may have any weights
            state = {key: value for key, value in state.items() if 'defense.classifier.' not in key}
        identity = json.dumps([built, digest(state)], sort_keys=True)
        net.to(self.device)
        weights = options.get('weights')
        file = None if weights == UNTRAINED else weights
        return {
            'fingerprint': hashlib.sha256(identity.encode()).hexdigest(),
            'type': options['type'],
            'parameters': sum(p.numel() for key, p in net.named_parameters() if 'defense.' not in key),
            'weights': weights and osp.basename(weights),
            'sha256': file and _sha256(file),
            'decides': decides(net),
            'detector_has_gradient': detector_has_gradient(net),
            'card': dict(options.get('card') or {}),
        }

    def _cost(self, network, attack, image):
        # Convolutional networks work in proportion to their parameters and the pixels of the input.
        work = (self.facts[network]['parameters'] + 1e4) * image.size[0] * image.size[1]
        return work * (passes(attack) + 2 * len(self.options['mask_seeds']))


def _built(options: Mapping[str, Any], seed: int) -> nn.Module:
    """The network of a block, on the CPU; of ``weights: untrained`` with the numbers that a seed gives it."""
    if options.get('weights') != UNTRAINED:
        return load_network(options)
    with drawing(seed, 0, torch.device('cpu')):
        return build_quietly(_without(options, 'weights')).eval()


@contextlib.contextmanager
def drawing(seed: int, extra: int, device: torch.device) -> Iterator[None]:
    """Within the block torch draws the numbers of a seed; afterwards it goes on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):
        # 32 bits, since torch's generator on the CPU looks at no more.
        torch.manual_seed(int(np.random.SeedSequence([seed, extra]).generate_state(1)[0]))
        yield


def passes(attack: Attack | None) -> float:
    """Roughly how many forward passes an attack takes; a backward pass counts as one."""
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
    """Options in which the files are named by what is in them."""
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


_sha256 = functools.lru_cache(maxsize=None)(file_sha256)  # once a file, not once a cell


def _takes(attack, name):
    return name in attack.parameters()


def _without(options, *keys):
    return {key: value for key, value in options.items() if key not in keys}
