"""Pairs of a clean image and the same under attack, each a function of a seed and its number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from rsr_basicsr.attacks import build_attack
from rsr_basicsr.data.clean_images import CleanImages
from rsr_basicsr.ops.tiled import defenses
from rsr_basicsr.weights.state_dict import file_sha256, load_network


class Pair(NamedTuple):
    """A clean image and what an attack made of it.

    Args:
        clean: uint8 RGB, (H, W, 3).
        attacked: the same with a perturbation, uint8 RGB; None where nothing attacks.
        facts: ``photo``, ``source`` (the kind of clean image), and of an attacked one ``network``, ``attack``,
            ``eps`` (1/255), ``changed`` (the share of its values that are others than in the clean one).
    """

    clean: np.ndarray
    attacked: np.ndarray | None
    facts: dict[str, Any]


class AdversarialImages:
    """A list of ``count`` pairs, made when they are asked for.

    Number ``index`` depends on ``seed`` and ``index`` alone: not on the images made before, nor on the process.
    To the last bit it does so where torch computes with one thread (``torch.set_num_threads(1)``).

    Args:
        photos: paths of the photos that the clean images are made of.
        kinds: share of each kind of clean image, see :class:`CleanImages`.
        networks: name -> ``type`` and arguments as ``network_g``, ``weights`` (file), ``share`` (1). Masks of a
            defended one stay shut, which is what an attack on it that goes unnoticed meets. Without networks there
            are clean images only.
        attacks: blocks of an attack, and ``share`` (1); rounded to 8 bit, since files are. ``eps`` of a block stands
            in the place of the one below.
        eps: [low, high] in 1/255; drawn from on a logarithmic scale.
        count: number of pairs.
        size: height and width in pixels.
        seed: of everything that is drawn.
        real_esrgan: options of Real-ESRGAN's degradations, for the kind of that name.
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
    ):
        networks = networks or {}
        self.clean = CleanImages(photos, kinds, size, real_esrgan)
        self.network_options, self.network_shares = _shares(networks.values())
        self.network_names = list(networks)
        blocks, self.attack_shares = _shares(attacks)
        self.radii = [_interval(block.pop('eps', eps)) for block in blocks]
        self.attacks = [
            build_attack({'quantize': 'nearest', **block, 'eps': high}) for block, (_, high) in zip(blocks, self.radii)
        ]
        self.count, self.seed = count, seed
        self._networks: dict[str, torch.nn.Module] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < self.count:
            raise IndexError(f'there are {self.count} pairs, and none with number {index}')
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
        """A network of the block ``networks``, on the CPU, loaded when it is first used."""
        if name not in self._networks:
            self._networks[name] = load_network(self.network_options[self.network_names.index(name)])
            for defense in defenses(self._networks[name]):
                defense.gate = 'never'
        return self._networks[name]

    def _attacked(self, name, attack, eps, clean, seed):
        lq = torch.from_numpy(clean).permute(2, 0, 1)[None].float() / 255
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach every GPU, too
            attacked = attack(
                self.network(name), lq, eps=torch.tensor([eps]), generator=torch.Generator().manual_seed(seed)
            )
        return (attacked[0] * 255).round().byte().permute(1, 2, 0).numpy()


def fingerprint(options: Mapping[str, Any]) -> str:
    """A text that is the same for two sets of options exactly where they make the same pairs, file contents included.

    Args:
        options: the arguments of :class:`AdversarialImages`.
    """
    relevant = {key: value for key, value in options.items() if key not in ('photos', 'networks', 'count')}
    networks = {
        name: {**network, 'weights': file_sha256(network['weights'])}
        for name, network in (options.get('networks') or {}).items()
    }
    return repr([relevant, networks, [file_sha256(photo) for photo in options['photos']]])


def _shares(blocks):
    """Blocks without their ``share``, and the shares, which add up to 1."""
    blocks = [dict(block) for block in blocks]
    shares = np.array([block.pop('share', 1) for block in blocks], dtype=float)
    return blocks, shares / max(shares.sum(), 1e-9)


def _interval(eps) -> list[float]:
    return list(eps) if isinstance(eps, (list, tuple)) else [eps, eps]
