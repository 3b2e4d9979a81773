"""The block ``plane:`` of a benchmark, which compares networks at equal sharpness, and its check."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from rsr_basicsr.benchmark.images import BenchmarkImage
from rsr_basicsr.benchmark.names import NO_DEFENSE
from rsr_basicsr.metrics.inputs import is_higher_better, needs
from rsr_basicsr.options.messages import Problems
from rsr_basicsr.options.parsing import Block, key
from rsr_basicsr.options.types import BLOCK, LIST, Flag, Listed, Range, Text
from rsr_basicsr.utils.errors import OptionsError
from rsr_basicsr.utils.hints import did_you_mean

#: Metrics that a plane takes by default
PERCEPTUAL = ('calculate_perceptual', 'calculate_lpips')
BLEND = 'Blend'
#: In place of a reference: the least sharp network, which all others reach by blending with bicubic upscaling
BLURRIEST = 'blurriest'

Alpha = Annotated[float, Range(ge=0, le=10)]
_Alphas = Annotated[list[Alpha], Listed()]


class PlaneOptions(Block):
    """Comparison at equal sharpness; a key without a value is chosen from the other blocks."""

    measure: Text | None = key(
        'a metric: its distance to the original is the sharpness', by_default='the first perceptual one'
    )
    reference: Text | None = key(
        'a network, whose clean distance the others are brought to; `blurriest`: the least sharp one, so that all '
        'others reach it',
        by_default='the first that is no interpolation',
    )
    match: Flag = key('measure the blend of each other network that is as sharp as the reference', True)
    alphas: (
        Annotated[
            Annotated[_Alphas, Tag(LIST)] | Annotated[dict[str, _Alphas], Tag(BLOCK)],
            Discriminator(lambda value: BLOCK if isinstance(value, Mapping) else LIST),
        ]
        | None
    ) = key('further blends of the reference, or a block NETWORK: list')


def check_plane(options: dict[str, Any], images: Sequence[BenchmarkImage], problems: Problems) -> None:
    """Fill in the block, in place, and note what is wrong; the other blocks have been checked.

    Afterwards it holds ``measure``, ``reference``, ``match``, ``dataset`` (on which networks are matched) and
    ``alphas`` (network -> list). Nothing happens without the block, or if the blocks it names are broken.
    """
    plane = options.get('plane')
    if plane is None or problems:
        return
    with problems.noted():
        plane['measure'] = _measure(options['metrics'], plane.get('measure'))
    with problems.noted():
        plane['reference'] = _reference(options['networks'], plane.get('reference'))
    with problems.noted():
        plane['dataset'] = next((image.dataset for image in images if image.has_gt), None)
        if plane['dataset'] is None:
            raise OptionsError(
                'plane: no data set has a ground truth, to which the measure could compare; add one, or remove plane'
            )
    alphas = plane.get('alphas') or {}
    plane['alphas'] = alphas if isinstance(alphas, dict) else {plane.get('reference', ''): alphas}
    if problems:
        return
    if BLURRIEST in plane['alphas'] and BLURRIEST not in options['networks']:
        if plane['alphas'][BLURRIEST]:
            problems.append(
                f'plane.alphas: {plane["alphas"][BLURRIEST]} with reference: {BLURRIEST} does not say of which '
                'network; write a block NETWORK: list'
            )
        del plane['alphas'][BLURRIEST]
    for network in plane['alphas']:
        if network not in options['networks']:
            problems.append(
                f'plane.alphas: {network!r} is not one of the networks; {did_you_mean(network, options["networks"])}'
            )
    if problems:
        return
    with problems.noted():
        with_blends(options, {})  # a name may be taken


def with_blends(options: Mapping[str, Any], matched: Mapping[str, float | None]) -> dict[str, Any]:
    """The options with the blends of the plane as defences of their networks.

    Args:
        options: as checked.
        matched: network -> the alpha at which it is as sharp as the reference; None if there is none.

    Raises:
        OptionsError: the name of a blend belongs to another defence.
    """
    resolved = copy.deepcopy(dict(options))
    for network, alpha in _pairs(options['plane'], matched):
        name, block = blend_name(alpha), {'type': BLEND, 'alpha': alpha}
        if resolved['defenses'].setdefault(name, block) != block:
            raise OptionsError(f'defenses.{name}: plane gives this name to {block}; give this defence another name')
        if name not in resolved['networks'][network]['defenses']:
            resolved['networks'][network]['defenses'].append(name)
    return resolved


def blend_name(alpha: float) -> str:
    """Name of the defence ``Blend`` with that alpha."""
    return f'blend {alpha:g}'


def is_interpolation(network: Mapping[str, Any]) -> bool:
    """Whether a network's block is plain interpolation, which is a reference and no network to compare."""
    return network.get('type') == 'Interpolation'


def _pairs(plane: Mapping[str, Any], matched: Mapping[str, float | None]) -> Iterator[tuple[str, float]]:
    found = [(network, alpha) for network, alphas in plane['alphas'].items() for alpha in alphas]
    for network, alpha in [*found, *matched.items()]:
        if alpha is not None and alpha != 1:  # 1 is the network itself
            yield network, alpha


def _measure(metrics: Mapping[str, Mapping[str, Any]], name: str | None) -> str:
    if name is None:
        name = next((name for name, metric in metrics.items() if metric['type'] in PERCEPTUAL), None)
        if name is None:
            raise OptionsError(
                f'plane: there is no metric of type {" or ".join(PERCEPTUAL)}; add one, or name in plane.measure '
                'another distance to the original'
            )
    if name not in metrics:
        raise OptionsError(f'plane.measure: {name!r} is not one of the metrics; {did_you_mean(name, metrics)}')
    if 'img2' not in needs(metrics[name]):
        raise OptionsError(
            f'plane.measure: {name} does not compare the output with the original; name a metric that does, such as '
            f'one of type {PERCEPTUAL[0]}'
        )
    if is_higher_better(metrics[name]):
        raise OptionsError(
            f'plane.measure: of {name} higher values are better; name a distance, such as a metric of type '
            f'{PERCEPTUAL[0]}'
        )
    return name


def _reference(networks: Mapping[str, Mapping[str, Any]], name: str | None) -> str:
    if name is None:
        name = next((name for name, network in networks.items() if not is_interpolation(network)), next(iter(networks)))
    if name == BLURRIEST and name not in networks:
        return name
    if name not in networks:
        raise OptionsError(f'plane.reference: {name!r} is not one of the networks; {did_you_mean(name, networks)}')
    if NO_DEFENSE not in networks[name]['defenses']:
        raise OptionsError(
            f'plane.reference: {name} is measured behind defences only; add {NO_DEFENSE} to networks.{name}.defenses'
        )
    return name
