"""The leaderboard and its entries."""

from __future__ import annotations

import json
from pathlib import Path

from benchmark_runs import benchmark, figures
from rsr_basicsr.cli import main


def test_leaderboard(options, tmp_path, capsys):
    options['networks']['plain']['card'] = {'authors': 'A. <b>N. Author', 'link': 'https://example.org/a|b'}
    out = benchmark(options, tmp_path)
    capsys.readouterr()
    assert main(['leaderboard', str(out / 'cards.jsonl')]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith('| ')]
    found = figures(out)
    expected = sorted(
        (
            (found[name, defense, 'worst case', 8, 'stability'], name, defense)
            for name, defense in (('nearest', 'none'), ('plain', 'none'), ('plain', 'bits'), ('defended', 'none'))
        ),
        reverse=True,
    )
    assert [tuple(cell.strip() for cell in line.split('|')[1:3]) for line in table[2:]] == [
        (name, defense) for _, name, defense in expected
    ]
    assert '<b>' not in ''.join(table) and 'a\\|b' in ''.join(table)
    entries = [json.loads(line) for line in (out / 'cards.jsonl').read_text().splitlines()]
    assert {entry['sha256'] is None for entry in entries if entry['network'] != 'nearest'} == {False}
    (tmp_path / 'bad.jsonl').write_text('{"network": "x"}\n')
    assert main(['leaderboard', str(tmp_path / 'bad.jsonl')]) == 2
    assert 'line 1: not an entry' in capsys.readouterr().err
    (tmp_path / 'bad.jsonl').write_text('\n')
    assert main(['leaderboard', str(tmp_path / 'bad.jsonl'), '-o', str(tmp_path / 'table.md')]) == 2
    assert 'bad.jsonl holds no entry' in capsys.readouterr().err and not (tmp_path / 'table.md').exists()


def test_leaderboard_of_the_documents_is_made_of_its_cards(capsys):
    docs = Path(__file__).parents[2] / 'docs'
    cards = sorted(map(str, (docs / 'leaderboard').glob('*.jsonl')))
    assert cards and main(['leaderboard', *cards]) == 0
    assert capsys.readouterr().out == (docs / 'leaderboard.md').read_text(encoding='utf-8')
