"""The options of ``rsr adversarial-set`` and of AdversarialImagesDataset, and their check."""

from __future__ import annotations

import os.path as osp
from typing import Any

from rsr_basicsr.attacks import build_attack
from rsr_basicsr.data.clean_images import REAL_ESRGAN, RealESRGANDegradations
from rsr_basicsr.data.clean_kinds import KINDS
from rsr_basicsr.inference.listing import find_images
from rsr_basicsr.options.blocks import adversarial_attack
from rsr_basicsr.options.host import BLUR, DEGRADATIONS, FINAL_SINC, KERNEL_SIZES
from rsr_basicsr.options.networks import check_source
from rsr_basicsr.options.types import (
    Key,
    block,
    integer,
    interval,
    list_of,
    names,
    nearest,
    number,
    parse_block,
    parse_open,
    some_eps,
    text,
)
from rsr_basicsr.utils.errors import ImageError, OptionsError

#: The top level of the options file
ADVERSARIAL_SET = {
    'photos': Key(names, required=True),  # folders
    'dataroot': Key(text),  # where the set goes
    'count': Key(integer(1), required=True),
    'seed': Key(integer(0), default=0),
    'size': Key(integer(16), default=64),  # pixels
    'kinds': Key(block, required=True),  # share of each kind of clean image
    'real_esrgan': Key(block),
    'networks': Key(block, default={}),
    'attacks': Key(list_of(adversarial_attack), default=[]),
    'eps': Key(interval(some_eps), default=[0.5, 16]),  # 1/255
}
_DEGRADATIONS = {
    **{key: rule for key, rule in DEGRADATIONS.items() if key != 'gt_size'},
    **KERNEL_SIZES,
    **FINAL_SINC,
    **BLUR,
    **{f'{key}2': rule for key, rule in BLUR.items()},
}


def check_adversarial_set(options: dict[str, Any], where: str = '') -> dict[str, Any]:
    """The options with every value in its final type, ``photos`` as a list of files.

    Every network is built and its weights are compared with it.

    Raises:
        OptionsError: one sentence with the key, the value and the remedy.
    """
    parsed = parse_block(options, ADVERSARIAL_SET, where)
    dot = f'{where}.' if where else ''
    try:
        parsed['photos'] = find_images([osp.expanduser(folder) for folder in parsed['photos']])
    except ImageError as error:
        raise OptionsError(f'{dot}photos: {error}') from None
    _check_kinds(parsed, dot)
    if bool(parsed['networks']) != bool(parsed['attacks']):
        raise OptionsError(f'{dot}networks and {dot}attacks need each other; leave out both for clean images only')
    for name, network in parsed['networks'].items():
        parse_open(parsed['networks'], {name: Key(block)}, f'{dot}networks')
        parse_open(network, {'share': _SHARE}, f'{dot}networks.{name}')
        checked = {key: value for key, value in network.items() if key != 'share'}
        check_source(checked, f'{dot}networks.{name}')
        network.update(checked)
    for number_, attack in enumerate(parsed['attacks'], start=1):
        given = {key: value for key, value in attack.items() if key != 'share'}
        try:
            build_attack({**given, 'eps': 1})
        except ValueError as error:
            raise OptionsError(f'{dot}attacks, number {number_}: {error}') from None
    return parsed


_SHARE = Key(number(0, above=True))


def _check_kinds(parsed, dot):
    known = [*KINDS, REAL_ESRGAN]
    for name in parsed['kinds']:
        if name not in known:
            raise OptionsError(f'{dot}kinds: unknown key {name!r}{nearest(name, known)}')
        parse_open(parsed['kinds'], {name: _SHARE}, f'{dot}kinds')
    if not parsed['kinds']:
        raise OptionsError(f'{dot}kinds: there is none; known are {", ".join(known)}')
    if REAL_ESRGAN not in parsed['kinds']:
        return
    if 'real_esrgan' not in parsed:
        raise OptionsError(f'{dot}kinds: {REAL_ESRGAN} needs the degradations in a block {dot}real_esrgan')
    parse_open(parsed['real_esrgan'], _DEGRADATIONS, f'{dot}real_esrgan')
    for key in ('resize_prob', 'resize_prob2'):
        if len(parsed['real_esrgan'][key]) != 3:
            raise OptionsError(
                f'{dot}real_esrgan.{key}: expected three numbers, for up, down and keep, got '
                f'{parsed["real_esrgan"][key]!r}'
            )
    largest = RealESRGANDegradations.GT_SIZE // parsed['real_esrgan']['scale']
    if parsed['size'] > largest:
        raise OptionsError(
            f'{dot}size: {parsed["size"]} is more than {largest}, the images that {REAL_ESRGAN} makes '
            f'at scale {parsed["real_esrgan"]["scale"]}'
        )
