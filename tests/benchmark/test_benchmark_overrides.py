"""Options of a benchmark that are overridden on the command line."""

from __future__ import annotations

import pytest

from benchmark_runs import benchmark, figures
from rsr_basicsr.options.loading import override
from rsr_basicsr.utils.errors import OptionsError


@pytest.mark.parametrize(
    'change, message', [('eps', 'write section:key=value'), ('eps:x=1', 'eps is not a block'), ('eps=[1', 'force_yml')]
)
def test_wrong_overrides(change, message):
    with pytest.raises(OptionsError, match=message):
        override({'eps': [1]}, [change])


def test_report_lists_overrides(options, tmp_path):
    options.update(description='PGD of 4 steps.', attacks={'fgsm': {'type': 'FGSM'}}, eps=[8], defenses={})
    out = benchmark(options, tmp_path, '--force_yml', 'networks:defended=', 'eps=[4]')
    assert 'PGD of 4 steps. Changed: networks:defended=; eps=[4].' in (out / 'options.json').read_text()
    assert 'PGD of 4 steps. Changed: ' in (out / 'report.md').read_text()


def test_a_named_block_is_added_by_its_type():
    options = {'attacks': {'pgd': {'type': 'PGD'}, 'old': None}}
    with pytest.raises(OptionsError, match=r'attacks:PGD-10:steps=2: .* no block PGD-10; did you mean .pgd.\?$'):
        override(options, ['attacks:PGD-10:steps=2'])
    override(options, ['attacks:pgd10:type=PGD', 'attacks:pgd10:steps=2'])
    assert options['attacks']['pgd10'] == {'type': 'PGD', 'steps': 2}


def test_overrides_are_not_code(tmp_path):
    options = {'networks': {'a': {'weights': 'x'}}, 'eps': [1]}
    override(options, ['networks:a:weights=my.pth', 'eps=[2, 8]', 'attacks:pgd:steps=3'])
    assert options == {'networks': {'a': {'weights': 'my.pth'}}, 'eps': [2, 8], 'attacks': {'pgd': {'steps': 3}}}
    with pytest.raises(OptionsError):
        override(options, [f'eps=!!python/object/apply:os.mkdir [{tmp_path / "made"}]'])
    assert not (tmp_path / 'made').exists()


def test_entry_without_a_value_is_removed(options, tmp_path):
    found = figures(
        benchmark(
            options,
            tmp_path,
            '--force_yml',
            'networks:defended=',
            'defenses:bits=',
            'networks:plain:defenses=[none]',
            'eps=[8]',
        )
    )
    assert {(network, eps) for network, _, _, eps, _ in found} == {
        ('nearest', 0),
        ('nearest', 8),
        ('plain', 0),
        ('plain', 8),
    }
