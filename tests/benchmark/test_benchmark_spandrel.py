"""Networks that BasicSR does not have in a benchmark, attacked, defended and as the source of a transfer attack."""

from __future__ import annotations

import pytest
from spandrel_files import build, save

from benchmark_runs import benchmark, figures
from helpers import write
from rsr_basicsr.benchmark.names import NOISE
from rsr_basicsr.cli import main

pytest.importorskip('spandrel')


@pytest.fixture
def mixed(options, tmp_path):
    """Options with a network of spandrel beside one of BasicSR."""
    (tmp_path / 'weights').mkdir()
    file = save(build('SAFMN'), tmp_path / 'weights' / 'safmn.pth')
    options['networks'] = {
        'plain': {**options['networks']['plain'], 'defenses': ['none']},
        'safmn': {'type': 'Spandrel', 'weights': file, 'defenses': ['none', 'bits']},
    }
    options['attacks']['transfer'] = {'type': 'Transfer', 'source': {'type': 'Spandrel', 'weights': file}}
    options['datasets']['photos']['num_images'] = 2
    return options


def test_networks_of_spandrel_are_attacked(mixed, tmp_path):
    found = figures(benchmark(mixed, tmp_path / 'run'))
    for defense in ('none', 'bits'):
        stability = {attack: found['safmn', defense, attack, 8.0, 'stability'] for attack in ('pgd', NOISE)}
        assert 0 < stability['pgd'] < stability[NOISE]
    assert found['safmn', 'none', 'pgd', 8.0, 'stability'] < found['safmn', 'none', 'pgd', 2.0, 'stability']
    # The source and the network are the same: the attack that was made for it is worse than noise.
    assert found['safmn', 'none', 'transfer', 8.0, 'stability'] < found['safmn', 'none', NOISE, 8.0, 'stability']
    assert 'SAFMN' in (tmp_path / 'run' / 'out' / 'report.html').read_text(encoding='utf-8')


@pytest.mark.parametrize(
    'change, sentence',
    [
        ({'num_feat': 3}, 'num_feat'),
        ({'weights': 'gone.pth'}, 'gone.pth'),
        ({'weights': None}, 'weights'),
    ],
)
def test_wrong_blocks_are_refused_before_the_run(change, sentence, mixed, tmp_path, capsys):
    mixed['networks']['safmn'].update(change)
    file = write(mixed, tmp_path / 'options.yml')
    assert main(['benchmark', '-opt', str(file), '-o', str(tmp_path / 'out')]) == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_scale_is_checked(mixed, tmp_path, capsys):
    mixed['networks']['safmn']['weights'] = save(build('SPAN'), tmp_path / 'span.pth')  # it upscales by 2
    file = write(mixed, tmp_path / 'options.yml')
    assert main(['benchmark', '-opt', str(file), '-o', str(tmp_path / 'out')]) == 2
    assert 'networks.safmn: it upscales by 2, but scale is 4' in capsys.readouterr().err
