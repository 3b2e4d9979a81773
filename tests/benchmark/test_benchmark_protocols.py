"""Shipped protocols, classes of the user, untrained networks, and detectors without a gradient."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from basicsr.utils.registry import ARCH_REGISTRY, METRIC_REGISTRY

from benchmark_runs import SMALL, benchmark, figures, offline
from helpers import OPTIONS
from rsr_basicsr.benchmark.matrix import Matrix
from rsr_basicsr.benchmark.options import check_benchmark
from rsr_basicsr.benchmark.record import read_records
from rsr_basicsr.cli import main
from rsr_basicsr.utils.errors import OptionsError


def test_classes_of_the_document(options, tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / 'docs' / 'benchmark.md').read_text(encoding='utf-8')
    (code,) = re.findall(r'```python\n(.*?)```', text, flags=re.DOTALL)
    (tmp_path / 'mine_of_the_document.py').write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    options.update(
        networks={'mine': {'type': 'Sharp', 'amount': 0.5}},
        defenses={'half': {'type': 'Shrink', 'factor': 0.5}},
        metrics={'moved': {'type': 'calculate_moved', 'better': 'lower'}},
        eps=[4],
    )
    options['attacks'] = {'long': {'type': 'LongStep', 'steps': 3}}
    found = figures(benchmark(options, tmp_path, '--import', 'mine_of_the_document'))
    assert found['mine', 'half', 'long', 4, 'stability'] > found['mine', 'none', 'long', 4, 'stability']
    assert 0 < found['mine', 'none', 'long', 4, 'moved'] <= 1
    METRIC_REGISTRY._obj_map.pop('calculate_moved')


@pytest.mark.parametrize('file', sorted((OPTIONS / 'benchmark').glob('*.yml')), ids=lambda file: file.stem)
def test_committed_protocols(file, pairs, tmp_path):
    opt = yaml.safe_load(file.read_text(encoding='utf-8'))
    for name, depth in (('w', 32), ('s', 16)):
        net = SRVGGNetCompact(**{**SMALL, 'num_feat': 64, 'num_conv': depth})
        torch.save({'params': net.state_dict()}, tmp_path / f'{name}.pth')
    if 'auto' in file.read_text(encoding='utf-8').replace('num_gpu: auto', ''):
        opt = offline(opt)
    files = {32: 'w.pth', 16: 's.pth'}
    for network in opt['networks'].values():
        file_of = files.get(network.get('num_conv'))
        if network['type'] != 'Interpolation':
            network['weights'] = str(tmp_path / file_of) if file_of else 'untrained'
    for attack in opt['attacks'].values():
        if 'source' in attack:
            attack['source']['weights'] = str(tmp_path / files[attack['source']['num_conv']])
        if isinstance(attack.get('objective'), dict):
            attack['objective']['measure'] = 'local_contrast'
    for metric in opt['metrics'].values():  # the backbone of LPIPS would be downloaded
        if metric['type'] in ('calculate_lpips', 'calculate_perceptual', 'calculate_perceptual_stability'):
            metric['measure'] = 'local_contrast'
        if metric['type'] == 'calculate_lpips':
            metric['type'] = 'calculate_perceptual'
    opt['datasets'] = {
        'pairs': {
            'type': 'PairedImageDataset',
            'dataroot_gt': str(pairs / 'gt'),
            'dataroot_lq': str(pairs / 'lq'),
            'num_images': 1,
        }
    }
    options, images = check_benchmark(opt)
    if file.stem in ('quick', 'standard', 'adaptive'):
        plane = options['plane']
        assert (plane['measure'], plane['reference'], plane['match']) == ('perceptual', 'general-x4v3', True)
        objective = {'type': 'perceptual', 'measure': 'local_contrast', 'to': 'ground_truth'}
        assert [name for name, attack in opt['attacks'].items() if attack.get('objective') == objective] == [
            'perceptual'
        ]
    cells = Matrix(options, images, torch.device('cpu')).cells
    there = {(cell.network, cell.defense, cell.attack) for cell in cells}
    assert opt['name'] == file.stem and {name for _, _, name in there} == {'clean', 'random noise', *opt['attacks']}
    gated = {'straight_through', 'masks_on', 'masks_off', 'detector_aware'}
    assert not [name for network, _, name in there if network == 'general-x4v3' and name in gated]
    assert {defense for _, defense, _ in there} == {'none', *opt.get('defenses', {})}


def test_the_protocol_of_the_paper(pairs):
    opt = yaml.safe_load((OPTIONS / 'benchmark' / 'paper.yml').read_text())
    assert opt['attacks']['ifgsm_published'] == {
        'type': 'IFGSM',
        'steps': 10,
        'objective': 'stability',
        'clamp': 'end',
        'quantize': 'floor',
    }
    assert opt['metrics']['ssim_published'] == {'type': 'calculate_ssim_zero_padded'}
    opt['networks'] = {'cdc': {**opt['networks']['cdc'], 'weights': 'untrained'}}
    opt['datasets']['RealSR'].update(dataroot_gt=str(pairs / 'gt'), dataroot_lq=str(pairs / 'lq'), num_images=1)
    del opt['metrics']['lpips']
    opt, _ = check_benchmark(opt)
    net = ARCH_REGISTRY.get('DefendedCDC')(
        **{
            key: value
            for key, value in opt['networks']['cdc'].items()
            if key not in ('type', 'weights', 'defenses', 'card')
        }
    )
    assert sum(parameter.numel() for key, parameter in net.named_parameters() if 'defense.' not in key) == 39_920_530
    assert len(list(net._masked_modules())) + ('input' in net.mask_points) == 13
    assert type(net.defense.classifier).__name__ == 'FrequencyClassifier' and net.defense.threshold == 0.9


def test_untrained_network_depends_on_the_seed(options, tmp_path, capsys):
    network = {
        'type': 'DefendedSRVGGNetCompact',
        **SMALL,
        'weights': 'untrained',
        'defenses': ['none'],
        'defense': {'points': ['input'], 'classifier': {'type': 'paper'}},
    }
    options['networks'] = {'new': network}
    found, facts = {}, {}
    for folder, seed in (('first', 0), ('again', 0), ('other', 1)):
        options['seed'] = seed
        torch.manual_seed(seed + len(folder))  # which must not matter
        (tmp_path / folder).mkdir()
        out = benchmark(options, tmp_path / folder)
        found[folder] = figures(out)
        facts[folder] = read_records(out)[0].facts
        assert f'Warning: new is untrained: its weights are drawn from seed {seed}. Its' in capsys.readouterr().out
        assert '>untrained</td>' in (out / 'report.html').read_text()
        assert json.loads((out / 'cards.jsonl').read_text())['weights'] == 'untrained'
    assert found['first'] == found['again'] != found['other']
    assert facts['first'] == facts['again'] and facts['first']['fingerprint'] != facts['other']['fingerprint']
    assert facts['first']['weights'] == 'untrained' and facts['first']['sha256'] is None
    assert main(['leaderboard', str(tmp_path / 'first' / 'out' / 'cards.jsonl'), '-o', str(tmp_path / 'l.md')]) == 0
    assert '| untrained |' in (tmp_path / 'l.md').read_text()
    # The seed's network, built here.
    matrix = Matrix(*check_benchmark(options), torch.device('cpu'))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence([1, 0]).generate_state(1)[0]))
        expected = ARCH_REGISTRY.get('DefendedSRVGGNetCompact')(**SMALL, defense=network['defense']).state_dict()
    state = matrix.network('new').state_dict()
    assert all(torch.equal(state[key], value) for key, value in expected.items())


def test_unknown_weights_are_a_missing_file(options):
    options['networks']['plain']['weights'] = 'untrain'
    with pytest.raises(OptionsError, match="networks.plain.weights: no such file, got 'untrain'"):
        check_benchmark(options)


def test_detector_without_a_gradient(options, tmp_path, capsys):
    blind = {
        'type': 'DefendedSRVGGNetCompact',
        **SMALL,
        'weights': 'untrained',
        'defenses': ['none'],
        'defense': {'points': ['input'], 'classifier': {'type': 'paper_rrdb', 'weights': 'untrained'}},
    }
    options['networks'] = {'blind': blind}
    options['attacks'] = {
        'pgd': {'type': 'PGD', 'steps': 2, 'eps': 8},
        'aware': {'type': 'DetectorAware', 'steps': 2, 'weights': [1], 'eps': 8},
    }
    with pytest.raises(
        OptionsError,
        match='attacks.aware: it is for networks that decide by a detector with a gradient, and none of these does',
    ):
        check_benchmark(options)
    options['networks']['seeing'] = {**blind, 'defense': {**blind['defense'], 'classifier': {'type': 'ensemble'}}}
    folder = benchmark(options, tmp_path)
    printed = ' '.join(capsys.readouterr().out.split())
    assert 'photos, blind: its detector has no gradient, so DetectorAware could not try to evade it' in printed
    assert 'not finished' not in printed and 'seeing: it has a detector, but' not in printed
    records = read_records(folder)
    assert {record.network for record in records if record.attack == 'aware'} == {'seeing'}
    assert all(record.score is not None and not record.error for record in records)
