"""Warnings of a benchmark: planted defects are reported, sound networks are not."""

from __future__ import annotations

import dataclasses
import re

from benchmark_records import ATTACK, make_records, results_of
from benchmark_runs import benchmark, figures
from rsr_basicsr.attacks import BPDA
from rsr_basicsr.benchmark.record import read_records
from rsr_basicsr.benchmark.report.warnings import attack_of, warnings
from rsr_basicsr.defenses import DEFENSE_REGISTRY, InputTransform


@DEFENSE_REGISTRY.register()
class FakeRounding(InputTransform):
    """Rounds to 32 levels, so that there is no gradient, and protects hardly at all."""

    def transform(self, x):
        return (x * 31).round() / 31


@DEFENSE_REGISTRY.register()
class HonestRounding(InputTransform):
    """The same with a gradient."""

    def transform(self, x):
        return BPDA(lambda x: (x * 31).round() / 31)(x)


def test_masked_gradients_are_reported(options, tmp_path, capsys):
    options['networks'] = {'plain': {**options['networks']['plain'], 'defenses': ['none', 'fake', 'honest']}}
    options['defenses'] = {'fake': {'type': 'FakeRounding'}, 'honest': {'type': 'HonestRounding'}}
    options['attacks'] = {'pgd': {'type': 'PGD', 'steps': 10}, 'square': {'type': 'Square', 'queries': 100}}
    benchmark(options, tmp_path)
    masked = [line for line in capsys.readouterr().out.splitlines() if 'gradients may hide' in line]
    assert any('plain + fake: pgd (eps 8): 100% of the gradient is exactly zero' in line for line in masked)
    assert any('plain + fake: square (eps 8) uses no gradient, yet its loss is' in line for line in masked)
    # A stand-in for the gradient is not the best one, but there is one; and the network itself hides nothing.
    assert not any('plain + honest:' in line and 'exactly zero' in line for line in masked)
    assert all('plain + ' in line for line in masked)


def test_honest_networks_are_not_suspected(options, tmp_path, capsys):
    """Masks and sizes drawn at random, a median, attacks with two objectives, radii that 8 bit do not tell apart."""
    options['networks'] = {
        'plain': {**options['networks']['plain'], 'defenses': ['none', 'median', 'random']},
        'defended': options['networks']['defended'],
    }
    options['defenses'] = {'median': {'type': 'Median'}, 'random': {'type': 'RandomResizePad'}}
    options['attacks'] = {
        'pgd': {'type': 'PGD', 'steps': 10, 'eot_samples': 4},
        'pgd_truth': {'type': 'PGD', 'steps': 10, 'objective': 'ground_truth', 'eot_samples': 4},
    }
    options['eps'] = [1, 1.5, 4]
    folder = benchmark(options, tmp_path)
    said = capsys.readouterr().out
    assert 'is random' not in said and 'exactly zero' not in said
    # At eps 1 noise and attack are one grey level; where it does as much, that is no sign of masks.
    assert not [line for line in said.splitlines() if 'with eps' in line], said
    drawn = {(record.network, record.defense): record.random for record in read_records(folder)}
    assert drawn == {
        ('plain', 'none'): False,
        ('plain', 'median'): False,
        ('plain', 'random'): True,
        ('defended', 'none'): True,
    }


def test_undefended_network_under_random_noise_is_not_suspected(options, tmp_path, capsys):
    options['networks'] = {'plain': {**options['networks']['plain'], 'defenses': ['none']}}
    options['attacks'] = {'noise': {'type': 'RandomNoise'}}
    folder = benchmark(options, tmp_path)
    said = capsys.readouterr().out
    assert 'gradient' not in said and re.findall('Warning: .*', said) == [
        'Warning: photos: only 3 images; results on more images may differ.'
    ]
    assert 'random noise' not in (folder / 'results.csv').read_text()  # the control goes by the name it was given
    options['attacks'].update(noise={'type': 'RandomNoise', 'eps': 2}, far={'type': 'FGSM', 'eps': 16})
    found = figures(benchmark(options, tmp_path))
    assert {eps for _, _, attack, eps, _ in found if attack == 'random noise'} == {2, 16}


def test_missing_attacks_are_reported(options, tmp_path, capsys):
    options['networks'] = {'defended': options['networks']['defended']}
    options['networks']['defended']['defense'] = {'points': ['input']}
    benchmark(options, tmp_path)
    assert 'it has a detector, but no attack tried to evade it' in capsys.readouterr().out
    options['attacks']['aware'] = {'type': 'DetectorAware', 'steps': 2, 'weights': [0, 1], 'eps': 8}
    folder = benchmark(options, tmp_path)
    assert 'has a detector, but' not in capsys.readouterr().out
    aware = [record for record in read_records(folder) if record.attack == 'aware']
    assert len(aware) == 3 and {record.worst for record in aware} <= {'undetected', 'detected'}
    pgd = [record for record in read_records(folder) if record.attack == 'pgd']
    assert {record.worst for record in pgd} <= {'as it decides', 'always', 'never'}
    assert all(record.score is not None for record in pgd)


def test_objectives_of_records_are_told_apart():
    blocks = [
        'stability',
        'perceptual',
        {'type': 'perceptual', 'to': 'ground_truth'},
        {'type': 'perceptual', 'measure': 'gmsd', 'to': 'ground_truth', 'backbone': 'not read.pth'},
    ]
    objectives = [attack_of({'type': 'PGD', 'objective': block}, 8).objective for block in blocks]
    assert len(set(map(str, objectives))) == 4
    assert [objective.needs_ground_truth for objective in objectives] == [False, False, True, True]


def test_attacks_of_modules_that_are_not_imported_are_named_once():
    unheard = {'attack_options': {'type': 'Unheard'}, 'loss': 1.0, 'zero_gradient': 0.0}
    records = [dataclasses.replace(r, **unheard) if r.attack == ATTACK else r for r in make_records()]
    (said,) = [sentence for sentence in warnings(results_of(records)) if 'Unheard' in sentence]
    assert said.startswith('Not checked for masked gradients: plain, plain + jpeg, guarded, guarded + jpeg (')
    assert said.endswith('name that by --import).')
