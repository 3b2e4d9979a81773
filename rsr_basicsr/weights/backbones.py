"""Weights of torchvision's ImageNet networks, on which LPIPS builds: in torch's cache, or downloaded into it."""

from __future__ import annotations

import os.path as osp
import re
import threading
from pathlib import Path

import torch
from torchvision.models import AlexNet_Weights, SqueezeNet1_1_Weights, WeightsEnum

from rsr_basicsr.utils.errors import WeightsError, in_one_line
from rsr_basicsr.weights.official import socket_timeout
from rsr_basicsr.weights.packages import TIMEOUT
from rsr_basicsr.weights.state_dict import load_state

#: By the name of the network in the package lpips
BACKBONES: dict[str, WeightsEnum] = {
    'alex': AlexNet_Weights.IMAGENET1K_V1,
    'squeeze': SqueezeNet1_1_Weights.IMAGENET1K_V1,
}


def cached_at(network: str) -> Path:
    """Where torch's cache has the weights of a network of :data:`BACKBONES`, or would have them."""
    return Path(torch.hub.get_dir()) / 'checkpoints' / osp.basename(BACKBONES[network].url)


def fetch_backbone(network: str, seconds: float | None = None) -> dict[str, torch.Tensor]:
    """Read the weights of a network from torch's cache; download them if they are not there.

    Args:
        network: a name of :data:`BACKBONES`.
        seconds: give up a download after this time; None waits as long as data arrives.

    Raises:
        WeightsError: the weights cannot be downloaded, or the file is damaged.
    """
    path = cached_at(network)
    if not path.is_file():
        _download(BACKBONES[network].url, path, seconds)
    return load_state(path)


def _download(url: str, path: Path, seconds: float | None) -> None:
    failures: list[Exception] = []

    def work() -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # The file gets its name when it is complete and its hash is right.
            torch.hub.download_url_to_file(url, str(path), _hash_prefix(url), progress=seconds is None)
        except Exception as error:  # of the network, the disk or the hash
            failures.append(error)

    # A time-out of sockets bounds neither a slow server nor the look-up of a name. A thread can be left behind.
    thread = threading.Thread(target=work, daemon=True)
    with socket_timeout(TIMEOUT if seconds is None else min(TIMEOUT, seconds)):
        thread.start()
        thread.join(seconds)
    if thread.is_alive():
        raise WeightsError(f'{url} did not arrive within {seconds:g} s; download it by hand to {path}')
    if failures:
        raise WeightsError(f'{url} cannot be downloaded ({in_one_line(failures[0])}); put it into {path.parent}')


def _hash_prefix(url: str) -> str | None:
    """The first digits of the file's SHA-256, which torchvision puts into its name."""
    found = re.search(r'-([0-9a-f]{8,})\.pth$', url)
    return found[1] if found else None
