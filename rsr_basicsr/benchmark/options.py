"""The options of ``rsr benchmark`` and their check, which reports all problems at once."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Annotated, Any, cast

import torch
from pydantic import BeforeValidator, ConfigDict
from torch import nn

from rsr_basicsr.attacks import ATTACKS, Attack, DetectorAware, RandomNoise, build_attack
from rsr_basicsr.benchmark.cards import CardOptions
from rsr_basicsr.benchmark.images import BenchmarkImage, check_datasets
from rsr_basicsr.benchmark.names import NO_DEFENSE, NOISE, RESERVED, SECTIONS, STABILITY
from rsr_basicsr.benchmark.plane_options import PlaneOptions, check_plane
from rsr_basicsr.catalog.choices import UNTRAINED
from rsr_basicsr.defenses import build_defense
from rsr_basicsr.ops.tiled import OVERLAP, defenses
from rsr_basicsr.options.attack_blocks import MeasuredAttackOptions
from rsr_basicsr.options.host_blocks import Typed
from rsr_basicsr.options.messages import Problems
from rsr_basicsr.options.metrics import check_metric
from rsr_basicsr.options.networks import brings_defense, check_network, check_source
from rsr_basicsr.options.parsing import Block, OpenBlock, key, parse_each, parse_keys, parse_open, refuse_unknown
from rsr_basicsr.options.types import (
    Count,
    Keys,
    Listed,
    Names,
    Natural,
    NumGpu,
    PlainName,
    PositiveEps,
    Text,
)
from rsr_basicsr.utils.errors import OptionsError, RSRError, in_one_line
from rsr_basicsr.utils.hints import did_you_mean
from rsr_basicsr.weights.spandrel_network import architecture_of
from rsr_basicsr.weights.state_dict import load_state


class BenchmarkOptions(Block):
    """The top level of the options file."""

    name: PlainName = key('of the folder of the results', ...)
    description: Text = key('what the report says of it', '')
    scale: Count = key('what the networks upscale by', 4)
    num_gpu: NumGpu = key('GPUs, each with a process', 'auto', values='whole number, `auto`')
    threads: Count = key('of a process on the CPU; the last bits depend on it', 1)
    seed: Natural = key('of the attacks', 0)
    mask_seeds: Annotated[list[Natural], Listed()] = key("of the network's own randomness", [0, 1, 2])
    tile: Count | None = key('upscale larger images in tiles', unit='pixels of the input')
    tile_overlap: Natural = key('what the network sees around each tile', OVERLAP, unit='pixels of the input')
    gallery: Natural = key('images of each data set that the report shows', 3)
    networks: Keys = key('name: block as `network_g`, `weights`, `defenses`, `card`', ...)
    defenses: Keys = key('name: block of a baseline defence', dict)
    attacks: Keys = key('name: block as `val: attack:`', ...)
    eps: Annotated[list[PositiveEps], Listed()] = key('radii of the ball', ..., unit='1/255')
    datasets: Keys = key('name: block of a data set of BasicSR', ...)
    metrics: Keys = key(
        'name: block of a metric',
        {
            'psnr': {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': True},
            'ssim': {'type': 'calculate_ssim', 'crop_border': 4, 'test_y_channel': True},
        },
    )
    plane: PlaneOptions | None = key('compare networks at equal sharpness', by_default='no comparison')


class BenchmarkAttackOptions(MeasuredAttackOptions):
    """A block of ``attacks:``; arguments of a user's own attack are allowed."""

    model_config = ConfigDict(extra='ignore')

    type: Text = key('an attack', ...)
    eps: (
        Annotated[
            list[PositiveEps],
            Listed(),
            BeforeValidator(lambda value: value if isinstance(value, (list, tuple)) else [value]),
        ]
        | None
    ) = key('overrides the radii of the file', unit='1/255')


class BenchmarkNetworkOptions(OpenBlock):
    """What a block of ``networks:`` has beside the arguments of its class."""

    defenses: Names | None = None
    card: CardOptions | None = None


def check_benchmark(options: dict[str, Any]) -> tuple[dict[str, Any], list[BenchmarkImage]]:
    """Return the options with every value in its final type, and the images, each read once.

    Raises:
        OptionsError: one line per problem.
    """
    options, problems = copy.deepcopy(options), Problems()
    refuse_unknown(options, BenchmarkOptions.model_fields, '', problems)
    parse_each(options, (BenchmarkOptions,), '', problems)
    problems.stop()  # what follows needs the sections
    for section in SECTIONS:  # an entry without a value counts as removed
        options[section] = {str(name): entry for name, entry in options[section].items() if entry is not None}
    with problems.noted():
        if isinstance(options['num_gpu'], int) and options['num_gpu'] > 0 and not torch.cuda.is_available():
            raise OptionsError(f'num_gpu: {options["num_gpu"]}, but torch sees no GPU here; write num_gpu: auto or 0')
    _check_defenses(options, problems)
    nets = _check_networks(options, problems)
    images = check_datasets(options, problems)
    _check_attacks(options, nets, images, problems)
    _check_metrics(options, problems)
    check_plane(options, images, problems)
    problems.stop()
    try:
        json.dumps(options)
    except (TypeError, ValueError) as error:  # ValueError: a block that holds itself
        raise OptionsError(
            f'{error}: an options file holds words, numbers, lists and blocks; put others in quotes'
        ) from None
    return options, images


def applicable(attack: Attack, net: nn.Module) -> bool:
    """Whether an attack can be made on a network.

    An attack on the gate or the detector needs a detector that decides; DetectorAware needs its gradient.
    """
    every = [attack, *_parts(attack)]
    if not decides(net):
        return not any(map(_asks_for_gate, every))
    return detector_has_gradient(net) or not any(map(_asks_for_detector, every))


def decides(net: nn.Module) -> bool:
    """Whether a network decides by a detector if it masks."""
    return any(defense.gate in ('classifier', 'soft') for defense in defenses(net))


def parameter_counts(net: nn.Module) -> dict[str, int]:
    """Number of parameters of a network without its defence, and of its detector; 0 where that decides nothing."""
    counts = {True: 0, False: 0}
    for name, parameter in net.named_parameters():
        counts['defense.' in name] += parameter.numel()
    return {'parameters': counts[False], 'detector_parameters': counts[True] if decides(net) else 0}


def detector_has_gradient(net: nn.Module) -> bool:
    """Whether an attack can follow the gradient of the network's detector; False without one."""
    return decides(net) and all(cast(Any, defense.classifier).has_gradient for defense in defenses(net))


def _check_defenses(options: dict[str, Any], problems: Problems) -> None:
    for name, defense in options['defenses'].items():
        with problems.noted(f'defenses.{name}: '):
            if name == NO_DEFENSE and defense:
                raise ValueError(f'{NO_DEFENSE} is the network as it is; give this defence another name')
            if defense:
                build_defense(defense, nn.Identity())
            elif name != NO_DEFENSE:
                raise ValueError('expected a block with type and arguments')
    options['defenses'] = {NO_DEFENSE: {}, **options['defenses']}


def _check_networks(options: dict[str, Any], problems: Problems) -> dict[str, nn.Module]:
    nets = {}
    if not options['networks']:
        problems.append('networks: there is none')
    for name, network in options['networks'].items():
        where = f'networks.{name}'
        with problems.noted():
            parse_keys(options['networks'], (name,), Keys, 'networks', required=True)
            parse_open(network, BenchmarkNetworkOptions, where)
            network.setdefault('defenses', list(options['defenses']))
            for defense in network['defenses']:
                if defense not in options['defenses']:
                    raise OptionsError(
                        f'{where}.defenses: {defense!r} is not one of the defenses'
                        f'; {did_you_mean(defense, options["defenses"])}'
                    )
            built = {key: value for key, value in network.items() if key not in ('defenses', 'card')}
            nets[name] = _checked_network(built, where, options['scale'])
            network.update(built)
            _check_scale(nets[name].eval(), network, options['scale'], where)
            _check_trained(nets[name], network, where)
    return nets


def _checked_network(network: dict[str, Any], where: str, scale: int) -> nn.Module:
    """As :func:`check_source`; ``weights: untrained`` means random weights from the seed."""
    if network.get('weights') != UNTRAINED:
        return check_source(network, where, scale)
    parse_open(network, Typed, where)
    bare = {key: value for key, value in network.items() if key != 'weights'}
    net = check_network({where: bare, 'scale': scale}, where)
    network.update(bare)
    return net


def _check_trained(net: nn.Module, network: Mapping[str, Any], where: str) -> None:
    """Refuse a classifier with random weights, which differ in each process unless they are from the seed."""
    if (
        network.get('weights') != UNTRAINED
        and decides(net)
        and any(cast(Any, defense.classifier).origin == UNTRAINED for defense in defenses(net))
        and not brings_defense(net, load_state(network['weights']))
    ):
        raise OptionsError(
            f'{where}.weights: {network["weights"]} is a plain backbone without a trained classifier; '
            f'write builtin or name a file in {where}.defense.classifier.weights, or set gate to always '
            'or never'
        )


def _check_scale(net: nn.Module, network: Mapping[str, Any], scale: int, where: str) -> None:
    side = network.get('window_size', 16)
    try:
        with torch.no_grad():
            size = tuple(net(torch.zeros(1, 3, side, side)).shape[-2:])
    except Exception as error:  # networks raise anything on a size they do not take
        raise OptionsError(
            f'{where}: {architecture_of(net)} does not take an image of {side}x{side}: {in_one_line(error)}'
        ) from error
    if size != (scale * side, scale * side):
        raise OptionsError(f'{where}: it upscales by {size[0] / side:g}, but scale is {scale}')


def _check_attacks(
    options: dict[str, Any], nets: dict[str, nn.Module], images: list[BenchmarkImage], problems: Problems
) -> None:
    blind = sorted({image.dataset for image in images if not image.has_gt})
    attacks = {}
    for name, attack in options['attacks'].items():
        where = f'attacks.{name}'
        with problems.noted(f'{where}: '):
            if name in RESERVED:
                raise ValueError(f'{name} stands for {RESERVED[name]}; give this attack another name')
            options['attacks'][name] = attack = _attack_block(attack)
            attacks[name] = built = _built(attack)
            if built.objective.needs_ground_truth and blind:
                raise ValueError(
                    f'{built.objective} needs a ground truth, which {", ".join(blind)} does not have; '
                    'write objective: stability'
                )
            if nets and not any(applicable(built, net) for net in nets.values()):
                raise ValueError(
                    'it is for networks that decide by a detector'
                    f'{" with a gradient" * _asks_for_detector(built)}, and none of these does'
                )
    every = sorted({eps for name in attacks for eps in options['attacks'][name].get('eps', options['eps'])})
    control = {'type': 'RandomNoise', 'quantize': 'nearest'}
    if not any(_is_control(options, name, attack, every) for name, attack in attacks.items()):
        options['attacks'] = {NOISE: {**control, 'eps': every}, **options['attacks']}


def _built(attack: dict[str, Any]) -> Attack:
    try:
        return build_attack({**attack, 'eps': 1}, lambda source: check_source(cast(dict[str, Any], source), 'source'))
    except (RSRError, ValueError):
        raise
    except Exception as error:  # constructors raise anything on wrong arguments
        raise ValueError(f'{attack["type"]} cannot be built: {in_one_line(error)}') from error


def _is_control(options: dict[str, Any], name: str, attack: Attack, every: list[float]) -> bool:
    """Whether an attack can be the control: random noise of every strength."""
    return (
        type(attack) is RandomNoise
        and attack.norm == 'Linf'
        and attack.distribution in (None, 'sign')
        and attack.quantize == 'nearest'
        and attack.clamp is True
        and attack.restarts == 1
        and set(options['attacks'][name].get('eps', options['eps'])) >= set(every)
    )


def _attack_block(attack: Any) -> dict[str, Any]:
    """The block with every value in its final type; arguments of a user's own attack are kept."""
    if not isinstance(attack, Mapping):
        raise ValueError(f'expected a block of keys, got {attack!r}')
    attack = dict(attack)
    kind = attack.get('type')
    if not isinstance(kind, str) or kind not in ATTACKS:
        raise ValueError(f'type: expected one of {", ".join(ATTACKS)}, got {kind!r}')
    known = [*BenchmarkAttackOptions.model_fields, *ATTACKS[kind].parameters()]
    for name in attack:
        if name not in known:
            raise ValueError(f'unknown key {name!r}; {did_you_mean(name, known)}')
    try:
        parse_open(attack, BenchmarkAttackOptions, '')
    except OptionsError as error:
        raise ValueError(str(error)) from None
    return attack


def _check_metrics(options: dict[str, Any], problems: Problems) -> None:
    options['metrics'] = {STABILITY: {'type': 'calculate_stability', 'crop_border': 4}, **options['metrics']}
    for name, metric in options['metrics'].items():
        with problems.noted():
            parse_keys(options['metrics'], (name,), Keys, 'metrics', required=True)
            check_metric(metric, f'metrics.{name}')


def _parts(attack: Any) -> list[Any]:
    return [part for inner in getattr(attack, 'attacks', ()) for part in (inner, *_parts(inner))]


def _asks_for_gate(attack: Any) -> bool:
    return getattr(attack, 'gate', None) is not None or _asks_for_detector(attack)


def _asks_for_detector(attack: Any) -> bool:
    return isinstance(attack, DetectorAware) and attack.detector is None
