"""Data sets of pairs of clean and attacked images, for training a detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch
from basicsr.utils import imfrombytes
from basicsr.utils.registry import DATASET_REGISTRY
from torch.utils.data import Dataset

from rsr_basicsr.data.adversarial_images import AdversarialImages, Pair
from rsr_basicsr.data.adversarial_set import read_facts
from rsr_basicsr.inference.listing import find_images
from rsr_basicsr.utils.errors import OptionsError


class _Pairs(Dataset[dict[str, Any]]):
    """Augments a pair and turns it into tensors.

    Args (keys of ``opt``):
        use_hflip, use_rot: flip and rotate at random.
        weaken: share of the attacked images whose perturbation is scaled down at random, to at least one grey level:
            weak attacks without running another one.
        crop: side of a random window in pixels; None keeps the whole image.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.opt = opt
        self.weaken, self.crop = opt.get('weaken', 0), opt.get('crop')

    def _item(self, pair: Pair) -> dict[str, Any]:
        """``clean`` and ``attacked``, float32 (3, H, W) in [0, 1], and the facts of the pair.

        A pair without an attack has no ``attacked`` and no ``eps``.
        """
        images, facts = [image for image in pair[:2] if image is not None], dict(pair.facts)
        if pair.attacked is not None and torch.rand(()) < self.weaken:
            images[1], facts['eps'] = _weakened(images[0], images[1], facts['eps'])
        tensors = self._augmented(torch.stack([torch.from_numpy(np.ascontiguousarray(image)) for image in images]))
        tensors = tensors.permute(0, 3, 1, 2).float() / 255
        return {**dict(zip(('clean', 'attacked'), tensors)), **facts}

    def _augmented(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, H, W, 3), all cropped, flipped and rotated the same way."""
        if self.crop is not None:
            top, left = (int(torch.randint(max(side - self.crop, 0) + 1, ())) for side in images.shape[1:3])
            images = images[:, top : top + self.crop, left : left + self.crop]
        for flag, dim in (('use_hflip', 2), ('use_rot', 1)):
            if self.opt.get(flag) and torch.rand(()) < 0.5:
                images = images.flip(dim)
        return images.transpose(1, 2) if self.opt.get('use_rot') and torch.rand(()) < 0.5 else images


@DATASET_REGISTRY.register()
class AdversarialSetDataset(_Pairs):
    """Pairs written by ``rsr adversarial-set``.

    Args (keys of ``opt``, besides those of ``_Pairs``):
        dataroot: folder of the set, or a list of folders.
        dataroot_extra: folder of a set of clean images, or a list of folders; each item gets one of them at random,
            as ``extra``.
        transplant: share of the items whose ``attacked`` becomes ``extra`` plus the item's perturbation: the same
            attacks on many more images.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__(opt)
        self.transplant = opt.get('transplant', 0)
        # Rounding to 8 bits can remove a perturbation altogether.
        self.entries = [(root, facts) for root, facts in _listed(opt['dataroot']) if facts.get('changed', 1) > 0]
        self.extras = _listed(opt.get('dataroot_extra') or [])

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> dict[str, Any]:
        root, facts = self.entries[index]
        sides = ('clean', 'attacked') if 'attack' in facts else ('clean',)
        images = {side: _read(root, side, facts['key']) for side in sides}
        item = self._item(Pair(images['clean'], images.get('attacked'), facts))
        if self.extras:
            root, extra = self.extras[int(torch.randint(len(self.extras), ()))]
            item['extra'] = self._item(Pair(_read(root, 'clean', extra['key']), None, {}))['clean']
            if 'attacked' in item and torch.rand(()) < self.transplant:
                moved = (item['extra'] + item['attacked'] - item['clean']).clamp(0, 1)
                if not torch.equal(moved, item['extra']):  # all of it can be clipped, as on pure black and white
                    item['attacked'] = moved
        return item


@DATASET_REGISTRY.register()
class AdversarialImagesDataset(_Pairs):
    """Pairs generated on access; an attack of several steps takes seconds per pair in a loader process.

    Args (keys of ``opt``, besides those of ``_Pairs``): the options of ``rsr adversarial-set``.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__(opt)
        self._images: AdversarialImages | None = None

    def __len__(self) -> int:
        return self.opt['count']

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self._images is None:
            keys = ('kinds', 'networks', 'attacks', 'eps', 'count', 'size', 'seed', 'real_esrgan')
            self._images = AdversarialImages(
                photos=find_images(self.opt['photos']), **{key: self.opt[key] for key in keys if key in self.opt}
            )
        for number in (*range(index, len(self)), *range(index)):
            pair = self._images[number]
            if pair.facts.get('changed', 1) > 0:  # else the next pair replaces it
                return self._item(pair)
        raise OptionsError(f'eps: {self.opt.get("eps")}: no attack of the set changes an 8-bit image; raise eps')


def _listed(roots: str | Sequence[str]) -> list[tuple[Path, dict[str, Any]]]:
    """The folder and the facts of each pair in one or several folders."""
    return [
        (Path(root), facts)
        for root in ([roots] if isinstance(roots, str) else roots)
        for facts in read_facts(Path(root))
    ]


def _read(root: Path, side: str, key: str) -> np.ndarray:
    # Opened per image, which takes 0.1 ms: LMDB allows one open handle per path and process, which several data sets
    # would share, and a handle does not survive the fork of a loader's worker.
    with lmdb.open(str(root / f'{side}.lmdb'), readonly=True, lock=False, readahead=False) as env, env.begin() as txn:
        return imfrombytes(txn.get(key.encode('ascii')))[..., ::-1]


def _weakened(clean: np.ndarray, attacked: np.ndarray, eps: float) -> tuple[np.ndarray, float]:
    """The attacked image with its perturbation scaled down, to at least one grey level, and its eps."""
    change = attacked.astype(np.float32) - clean
    least = 0.51 / max(np.abs(change).max(), 1)  # still rounds to one level
    factor = float(torch.empty(()).uniform_(min(least, 1), 1))
    return (clean + np.round(change * factor)).astype(np.uint8), round(eps * factor, 2)
