"""Files that describe networks: built within the size of their tensors, whatever they say."""

import resource
import time

import pytest
import torch
from basicsr.archs import build_network
from torch import nn

from helpers import SMALL_NETWORKS
from rsr_basicsr.inference.recognition import open_network
from rsr_basicsr.utils.errors import WeightsError
from rsr_basicsr.weights.bounds import built_within


def saved(network, folder, **stated):
    net = build_network(dict(network))
    torch.save({'params': net.state_dict(), 'network_g': {**network, **stated}}, folder / 'net.pth')
    return net.eval(), str(folder / 'net.pth')


def defended(name, **more):
    return {'type': f'Defended{name}', **SMALL_NETWORKS[name], 'defense': {'classifier': {'type': 'ensemble'}}, **more}


@pytest.mark.parametrize('name', sorted(SMALL_NETWORKS))
def test_every_network_opens_from_its_file(name, tmp_path):
    net, path = saved(defended(name), tmp_path)
    opened = open_network(path)
    assert type(opened) is type(net)
    assert all(torch.equal(value, opened.state_dict()[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize('name, size', [('RRDBNet', dict(num_feat=64, num_block=23)), ('SwinIR', dict(img_size=64))])
def test_networks_of_full_size_stay_within_the_bounds(name, size):
    network = {'type': name, **SMALL_NETWORKS[name], **size}
    state = build_network(dict(network)).state_dict()
    assert built_within(lambda: build_network(dict(network)), state).state_dict().keys() == state.keys()


@pytest.mark.parametrize(
    'name, stated',
    [
        ('SRVGGNetCompact', {'num_feat': 1_000_000}),
        ('SRVGGNetCompact', {'num_conv': 1_000_000_000}),
        ('SRVGGNetCompact', {'num_feat': 1, 'num_conv': 1_000_000_000}),
        ('RRDBNet', {'num_block': 100_000_000}),
        ('RRDBNet', {'num_grow_ch': 10_000_000}),
        ('SwinIR', {'img_size': 40_000}),
        ('SwinIR', {'depths': [1_000_000]}),
    ],
)
def test_a_record_that_claims_more_costs_little(name, stated, tmp_path):
    _, path = saved(defended(name), tmp_path, **stated)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(WeightsError, match='net.pth: network_g cannot be built'):
        open_network(path)
    assert time.monotonic() - start < 20  # seconds on a busy machine; without bounds, minutes or no end
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB


def test_bounds_are_counted_before_memory_is_taken():
    with pytest.raises(WeightsError, match='far larger than its tensors'):
        built_within(lambda: nn.Conv2d(1_000_000, 1_000_000, 3), {'weight': torch.zeros(3)})
