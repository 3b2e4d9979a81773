"""Data sets of pairs of clean and attacked images for the training of a detector."""

from __future__ import annotations

from collections.abc import Mapping
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


class _Pairs(Dataset):
    """What both data sets do with a pair.

    Args (keys of ``opt``):
        use_hflip, use_rot: flip and turn at random.
        weaken: share of the attacked images whose perturbation is scaled down at random, to one grey level at
            the least: low-strength attacks without another attack.
        crop: height and width of a random window in pixels; None keeps the whole image.
    """

    def __init__(self, opt: Mapping[str, Any]):
        self.opt = opt
        self.weaken, self.crop = opt.get('weaken', 0), opt.get('crop')

    def _item(self, pair: Pair) -> dict[str, Any]:
        """``clean`` and ``attacked``, float32 (3, H, W) in [0, 1], with the facts of the pair.

        What cannot be attacked has no ``attacked`` and no ``eps``.
        """
        images, facts = [image for image in pair[:2] if image is not None], dict(pair.facts)
        if pair.attacked is not None and torch.rand(()) < self.weaken:
            images[1], facts['eps'] = _weakened(images[0], images[1], facts['eps'])
        tensors = self._turned(torch.stack([torch.from_numpy(np.ascontiguousarray(image)) for image in images]))
        tensors = tensors.permute(0, 3, 1, 2).float() / 255
        return {**dict(zip(('clean', 'attacked'), tensors)), **facts}

    def _turned(self, images):
        """Images (N, H, W, 3) in the same window, flipped and turned the same way."""
        if self.crop is not None:
            top, left = (int(torch.randint(max(side - self.crop, 0) + 1, ())) for side in images.shape[1:3])
            images = images[:, top : top + self.crop, left : left + self.crop]
        for flag, dim in (('use_hflip', 2), ('use_rot', 1)):
            if self.opt.get(flag) and torch.rand(()) < 0.5:
                images = images.flip(dim)
        return images.transpose(1, 2) if self.opt.get('use_rot') and torch.rand(()) < 0.5 else images


@DATASET_REGISTRY.register()
class AdversarialSetDataset(_Pairs):
    """Pairs that ``rsr adversarial-set`` wrote.

    Args (keys of ``opt``, beside those above):
        dataroot: folder of the set, or a list of folders.
        dataroot_extra: folder of a set of clean images, or a list of folders; each item has one more of them, as
            ``extra``.
        transplant: share of the items that get the perturbation of another one on top of ``extra`` instead of their
            own attacked image: attacks of the same kind on many more images.
    """

    def __init__(self, opt: Mapping[str, Any]):
        super().__init__(opt)
        self.transplant = opt.get('transplant', 0)
        # Rounded to 8 bit, a perturbation below one grey level is none.
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
                if not torch.equal(moved, item['extra']):  # as on an image that is black and white only
                    item['attacked'] = moved
        return item


@DATASET_REGISTRY.register()
class AdversarialImagesDataset(_Pairs):
    """The same pairs, made when they are asked for.

    Args (keys of ``opt``, beside those above): the options of ``rsr adversarial-set``. The pairs that one attack of
    several steps makes in a loader process take seconds each.
    """

    def __init__(self, opt: Mapping[str, Any]):
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
            if pair.facts.get('changed', 1) > 0:  # others are no attacks; the next one stands in
                return self._item(pair)
        raise OptionsError(f'eps: {self.opt.get("eps")}: no attack of the set changes an image of 8 bit')


def _listed(roots):
    """The facts of each pair in a folder or in several, with its folder."""
    return [
        (Path(root), facts)
        for root in ([roots] if isinstance(roots, str) else roots)
        for facts in read_facts(Path(root))
    ]


def _read(root, side, key):
    # Opened for one image only, which takes a tenth of a millisecond: LMDB opens a path once a process, however many
    # data sets read it, and what is open does not outlive the fork of a loader's worker.
    with lmdb.open(str(root / f'{side}.lmdb'), readonly=True, lock=False, readahead=False) as env, env.begin() as txn:
        return imfrombytes(txn.get(key.encode('ascii')))[..., ::-1]


def _weakened(clean, attacked, eps):
    """An attacked image with its perturbation scaled down, to one grey level at the least, and its radius."""
    change = attacked.astype(np.float32) - clean
    least = 0.51 / max(np.abs(change).max(), 1)  # what still rounds to one
    factor = float(torch.empty(()).uniform_(min(least, 1), 1))
    return (clean + np.round(change * factor)).astype(np.uint8), round(eps * factor, 2)
