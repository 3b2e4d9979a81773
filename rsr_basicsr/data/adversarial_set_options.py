"""The options of ``rsr adversarial-set`` and of AdversarialImagesDataset, and their check."""

from __future__ import annotations

import os.path as osp
from typing import Annotated, Any

from rsr_basicsr.attacks import build_attack
from rsr_basicsr.data.clean_images import REAL_ESRGAN
from rsr_basicsr.data.clean_kinds import KINDS
from rsr_basicsr.data.degradations import GT_SIZE
from rsr_basicsr.inference.listing import find_images
from rsr_basicsr.options.attack_blocks import SetAttackOptions
from rsr_basicsr.options.host_blocks import Degradations, Kernels
from rsr_basicsr.options.networks import check_source
from rsr_basicsr.options.parsing import Block, OpenBlock, key, parse_block, parse_keys, parse_open
from rsr_basicsr.options.types import (
    Count,
    Keys,
    Listed,
    Names,
    Natural,
    Positive,
    PositiveEps,
    Range,
    Text,
)
from rsr_basicsr.utils.errors import ImageError, OptionsError
from rsr_basicsr.utils.hints import did_you_mean


class AdversarialSetOptions(Block):
    """The top level of the options file."""

    photos: Names = key(
        'what the clean images are made of; `--photos` overrules it', ..., values='folder, or list of folders'
    )
    dataroot: Text | None = key('where the set goes; `-o` overrules it', values='folder')
    count: Count = key('how many images', ...)
    size: Annotated[int, Range(ge=16)] = key('their height and width', 64, unit='pixels')
    seed: Natural = key('what all that is drawn depends on', 0)
    kinds: Keys = key(
        'share of each kind of clean image: `photo_as_it_is`, `reduced`, `upscaled`, `compressed`, `noisy`, `camera`, '
        '`sharpened`, `palette`, `line_art`, `screenshot`, `resampled`, `real_esrgan`',
        ...,
        values='kind: number above 0',
    )
    real_esrgan: Keys | None = key(
        'the degradation keys of a Real-ESRGAN options file, for the kind of that name', values='block'
    )
    networks: Keys = key(
        'the networks under attack; without networks and attacks the set is of clean images only',
        dict,
        values='name: block as `network_g`, `weights`, `share` (1)',
    )
    attacks: Annotated[list[SetAttackOptions], Listed()] = key(
        'the attacks; `eps` of a block overrides that of the set',
        list,
        values='list of blocks as `attack:`, `share` (1)',
    )
    eps: Annotated[list[PositiveEps], Listed(pair=True, ascending=True)] = key(
        'drawn on a logarithmic scale. Images have 8 bits: an L-inf attack below 1 leaves them as they are, and such '
        'pairs are left out when the set is read',
        [0.5, 16.0],
        unit='1/255',
    )


class _SetDegradations(Degradations, Kernels):
    """``real_esrgan:``."""


class _Shared(OpenBlock):
    """What a network has beside the arguments of its class."""

    share: Positive | None = None


def check_adversarial_set(options: dict[str, Any], where: str = '') -> dict[str, Any]:
    """Return the options with every value in its final type, and ``photos`` as a list of files.

    Every network is built and its weights are compared with it.

    Raises:
        OptionsError: one sentence with the key, the value and the remedy.
    """
    parsed = parse_block(options, AdversarialSetOptions, where)
    dot = f'{where}.' if where else ''
    try:
        parsed['photos'] = find_images([osp.expanduser(folder) for folder in parsed['photos']])
    except ImageError as error:
        raise OptionsError(f'{dot}photos: {error}') from None
    _check_kinds(parsed, dot)
    if bool(parsed['networks']) != bool(parsed['attacks']):
        raise OptionsError(f'{dot}networks and {dot}attacks need each other; leave out both for clean images only')
    for name, network in parsed['networks'].items():
        parse_keys(parsed['networks'], (name,), Keys, f'{dot}networks')
        parse_open(network, _Shared, f'{dot}networks.{name}')
        checked = {argument: value for argument, value in network.items() if argument != 'share'}
        check_source(checked, f'{dot}networks.{name}')
        network.update(checked)
    for number, attack in enumerate(parsed['attacks'], start=1):
        given = {argument: value for argument, value in attack.items() if argument != 'share'}
        try:
            build_attack({**given, 'eps': 1})
        except ValueError as error:
            raise OptionsError(f'{dot}attacks, number {number}: {error}') from None
    return parsed


def _check_kinds(parsed: dict[str, Any], dot: str) -> None:
    known = [*KINDS, REAL_ESRGAN]
    for name in parsed['kinds']:
        if name not in known:
            raise OptionsError(f'{dot}kinds: unknown key {name!r}; {did_you_mean(name, known)}')
        parse_keys(parsed['kinds'], (name,), Positive, f'{dot}kinds')
    if not parsed['kinds']:
        raise OptionsError(f'{dot}kinds: there is none; known are {", ".join(known)}')
    if REAL_ESRGAN not in parsed['kinds']:
        return
    if 'real_esrgan' not in parsed:
        raise OptionsError(f'{dot}kinds: {REAL_ESRGAN} needs the degradations in a block {dot}real_esrgan')
    parse_open(parsed['real_esrgan'], _SetDegradations, f'{dot}real_esrgan')
    for name in ('resize_prob', 'resize_prob2'):
        if len(parsed['real_esrgan'][name]) != 3:
            raise OptionsError(
                f'{dot}real_esrgan.{name}: expected three numbers, for up, down and keep, got '
                f'{parsed["real_esrgan"][name]!r}'
            )
    largest = GT_SIZE // parsed['real_esrgan']['scale']
    if parsed['size'] > largest:
        raise OptionsError(
            f'{dot}size: {parsed["size"]} is more than {largest}, the images that {REAL_ESRGAN} makes '
            f'at scale {parsed["real_esrgan"]["scale"]}'
        )
