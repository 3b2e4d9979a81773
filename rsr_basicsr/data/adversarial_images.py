"""Pairs of a clean image and its attacked version, each a function of a seed and an index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from rsr_basicsr.attacks import Attack, build_attack
from rsr_basicsr.data.clean_images import CleanImages
from rsr_basicsr.ops.tiled import defenses
from rsr_basicsr.weights.state_dict import file_sha256, load_network


class Pair(NamedTuple):
    """A clean image and its attacked version.

    Args:
        clean: uint8 RGB, (H, W, 3).
        attacked: uint8 RGB, (H, W, 3); None without an attack.
        facts: ``photo`` and ``source`` (the kind of clean image); with an attack also ``network``, ``attack``,
            ``eps`` (in 1/255) and ``changed`` (share of the values that differ from the clean image).
    """

    clean: np.ndarray
    attacked: np.ndarray | None
    facts: dict[str, Any]


class AdversarialImages:
    """A sequence of ``count`` pairs, computed on access.

    The pair at ``index`` depends on ``seed`` and ``index`` alone, not on earlier pairs or the process. It is
    bit-identical on CPUs where torch uses one thread (``torch.set_num_threads(1)``); another kind of device changes the
    last bits of the gradients, and so some values of the attacked images.

    Args:
        photos: paths of the photos behind the clean images.
        kinds: share of each kind of clean image, see :class:`CleanImages`.
        count: number of pairs.
        networks: name -> block like ``network_g`` with ``weights`` (file) and ``share`` (default 1). The gate of a
            defended network is off, as for an attack that goes undetected. Without networks, all images are clean.
        attacks: attack blocks with ``share`` (default 1) and optionally ``eps``, which overrides the one below.
            Attacked images are rounded to 8 bits, as in a file.
        eps: [low, high] in 1/255; sampled on a logarithmic scale.
        size: height and width in pixels.
        seed: of all random choices.
        real_esrgan: options of Real-ESRGAN's degradations, for the kind of that name.
        device: of the networks under attack.
    """

    def __init__(
        self,
        photos: Sequence[str],
        kinds: Mapping[str, float],
        count: int,
        networks: Mapping[str, Mapping[str, Any]] | None = None,
        attacks: Sequence[Mapping[str, Any]] = (),
        eps: Sequence[float] = (0.5, 16),
        size: int = 64,
        seed: int = 0,
        real_esrgan: Mapping[str, Any] | None = None,
        device: str = 'cpu',
    ) -> None:
        networks = networks or {}
        self.clean = CleanImages(photos, kinds, size, real_esrgan)
        self.network_options, self.network_shares = _shares(networks.values())
        self.network_names = list(networks)
        blocks, self.attack_shares = _shares(attacks)
        self.radii = [_interval(block.pop('eps', eps)) for block in blocks]
        self.attacks = [
            build_attack({'quantize': 'nearest', **block, 'eps': high}) for block, (_, high) in zip(blocks, self.radii)
        ]
        self.count, self.seed, self.device = count, seed, torch.device(device)
        self._networks: dict[str, torch.nn.Module] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < self.count:
            raise IndexError(f'index {index} is out of range: there are {self.count} pairs')
        rng = np.random.default_rng([self.seed, index])
        clean, source, photo = self.clean.draw(rng)
        if not self.network_names:
            return Pair(clean, None, {'photo': photo, 'source': source})
        name = self.network_names[int(rng.choice(len(self.network_names), p=self.network_shares))]
        chosen = int(rng.choice(len(self.attacks), p=self.attack_shares))
        attack, (low, high) = self.attacks[chosen], self.radii[chosen]
        eps = min(max(round(float(np.exp(rng.uniform(np.log(low), np.log(high)))), 2), low), high)
        attacked = self._attacked(name, attack, eps, clean, int(rng.integers(2**31)))
        return Pair(
            clean,
            attacked,
            {
                'photo': photo,
                'source': source,
                'network': name,
                'attack': type(attack).__name__,
                'eps': eps,
                'changed': round(float((attacked != clean).mean()), 4),
            },
        )

    def network(self, name: str) -> torch.nn.Module:
        """A network of the block ``networks``, on the device, loaded at first use."""
        if name not in self._networks:
            net = load_network(self.network_options[self.network_names.index(name)])
            self._networks[name] = net.to(self.device)
            inner: list[Any] = defenses(self._networks[name])
            for defense in inner:
                defense.gate = 'never'
        return self._networks[name]

    def _attacked(self, name: str, attack: Attack, eps: float, clean: np.ndarray, seed: int) -> np.ndarray:
        lq = torch.from_numpy(clean).to(self.device).permute(2, 0, 1)[None].float() / 255
        with torch.random.fork_rng(devices=[self.device] if self.device.type == 'cuda' else []):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed every GPU
            if self.device.type == 'cuda':
                with torch.cuda.device(self.device):
                    torch.cuda.manual_seed(seed)
            attacked = attack(
                self.network(name), lq, eps=torch.tensor([eps]), generator=torch.Generator().manual_seed(seed)
            )
        return (attacked[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def fingerprint(options: Mapping[str, Any]) -> str:
    """A text that is equal for two sets of options exactly if they give the same pairs; covers file contents.

    Args:
        options: the arguments of :class:`AdversarialImages`.
    """
    relevant = {key: value for key, value in options.items() if key not in ('photos', 'networks', 'count', 'device')}
    kind = torch.device(options.get('device', 'cpu')).type
    if kind != 'cpu':  # sets that were begun before there was a choice go on
        relevant['device'] = kind
    networks = {
        name: {**network, 'weights': file_sha256(network['weights'])}
        for name, network in (options.get('networks') or {}).items()
    }
    return repr([relevant, networks, [file_sha256(photo) for photo in options['photos']]])


def _shares(given: Iterable[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Blocks without their ``share``, and the shares, normalised to a sum of 1."""
    blocks = [dict(block) for block in given]
    shares = np.array([block.pop('share', 1) for block in blocks], dtype=float)
    return blocks, shares / max(shares.sum(), 1e-9)


def _interval(eps: float | Sequence[float]) -> list[float]:
    return [eps, eps] if isinstance(eps, (int, float)) else list(eps)
