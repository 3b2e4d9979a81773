"""The leaderboard at equal sharpness, and attacks by other people."""

from __future__ import annotations

import json

import pytest

from benchmark_plane import known_records, plane_results
from benchmark_records import WORDS, Page
from benchmark_runs import benchmark
from rsr_basicsr.benchmark.options import check_benchmark
from rsr_basicsr.benchmark.report.entries import cards
from rsr_basicsr.benchmark.report.page import write_report
from rsr_basicsr.benchmark.report.warnings import warnings
from rsr_basicsr.cli import main
from rsr_basicsr.leaderboard.entries import read_cards
from rsr_basicsr.leaderboard.table import as_leaderboard
from rsr_basicsr.utils.errors import OptionsError

FIGURE = {'attack': 'Better|PGD', 'source': 'https://example.org/<b>', 'eps': 8, 'stability': 9.5}


def rows_of(text):
    lines = [line for line in text.splitlines() if line.startswith('| ')]
    head, _, *body = [[cell.strip() for cell in line.replace('\\|', '/').split('|')[1:-1]] for line in lines]
    return [dict(zip(head, row)) for row in body]


def entries_of(records, **plane):
    return cards(plane_results(records, **plane), [])


def test_distance_under_attack_at_equal_sharpness_sorts():
    rows = rows_of(as_leaderboard(entries_of(known_records())))
    column = 'equal sharpness: LPIPS to original eps 8'
    names = [(row['network'], row['defence']) for row in rows]
    assert names[:3] == [('new', 'none'), ('old', 'none'), ('bad', 'none')]
    assert [row[column].split()[0] for row in rows[:3]] == ['0.420', '0.500', '0.555']
    # The others by stability; blends are points of their network's curve.
    assert names[3:] == [('cubic', 'none'), ('blurry', 'none'), ('old', 'jpeg')]
    blurry = next(row for row in rows if row['network'] == 'blurry')
    assert blurry['equal sharpness: alpha'] == 'not reached' and blurry[column] == '-'
    new = rows[0]
    assert new['equal sharpness: alpha'] == '0.90'
    assert new['equal sharpness: stability eps 8'].startswith('21.0 ')
    assert new['stability eps 8'].startswith('18.0 ') and list(new).index(column) < list(new).index('parameters')
    assert 'external' not in new


def test_sharpness_of_other_references_is_not_mixed():
    mine, theirs = entries_of(known_records()), entries_of(known_records(), reference='new')
    text = as_leaderboard([*mine, *theirs])
    assert (
        text.count('\n## ') == 2
        and 'Equal sharpness: that of old, LPIPS 0.350.' in text
        and 'that of new, LPIPS 0.300.' in text
    )
    without = plane_results(known_records())
    del without.options['plane']
    assert len({entry['protocol_digest'] for entry in (mine[0], theirs[0], cards(without, [])[0])}) == 3


def test_attacks_by_other_people_are_shown():
    milder = {**FIGURE, 'stability': 12.0, 'attack': 'other'}
    entries = entries_of(known_records(card={'external': [milder, FIGURE]}))
    rows = rows_of(as_leaderboard(entries))
    assert rows[0]['external'] == (
        '9.5 dB at eps 8 by Better/PGD (https://example.org/&lt;b&gt;), counts: lower than measured'
    )
    assert all((row['external'] == '-') == (row['defence'] != 'none') for row in rows)
    entries = entries_of(known_records(card={'external': [{**FIGURE, 'eps': 2, 'stability': 99}]}))
    assert 'counts' not in rows_of(as_leaderboard(entries))[0]['external']


def test_attacks_by_other_people_sort_where_stability_does():
    records = [record for record in known_records() if record.defense == 'none']
    without = plane_results(records)
    del without.options['plane']
    entries = cards(without, [])
    assert [row['network'] for row in rows_of(as_leaderboard(entries))][:2] == ['cubic', 'blurry']
    next(entry for entry in entries if entry['network'] == 'blurry')['external'] = [FIGURE]
    assert [row['network'] for row in rows_of(as_leaderboard(entries))][-1] == 'blurry'


def test_report_shows_attacks_by_other_people(tmp_path):
    results = plane_results(known_records(card={'external': [FIGURE, 'no figure']}))
    page = Page(write_report(tmp_path / 'page.html', results, tmp_path, **WORDS))
    assert 'external: 9.5 dB at eps 8 by Better|PGD' in page.text
    found = [sentence for sentence in warnings(results) if 'by other people is stronger' in sentence]
    assert len(found) == 5 and 'which left 15.0 dB' in found[0]


def test_entries_survive_a_file(tmp_path):
    entries = entries_of(known_records(card={'external': [FIGURE]}))
    file = tmp_path / 'cards.jsonl'
    file.write_text(''.join(f'{json.dumps(entry)}\n' for entry in entries))
    assert as_leaderboard(read_cards([file])) == as_leaderboard(entries)


@pytest.mark.parametrize(
    'change',
    [
        {'external': 'none'},
        {'external': [{'attack': 'x'}]},
        {'external': [{**FIGURE, 'stability': float('nan')}]},
        {'external': [{**FIGURE, 'source': ['x']}]},
        {'equal_sharpness': 3},
        {'equal_sharpness': {}},
        {'problem': 3},
        {'alpha': 'one'},
        {'level': float('inf')},
        {'attacked': {'8': {'distance': [1, 2]}}},
        {'attacked': {'8': {'distance': ['1', '2', '3']}}},
        {'attacked': {'8': {'unknown': [1, 2, 3]}}},
        {'headings': {'distance': 1, 'stability': 'x', 'moved': 'y'}},
    ],
    ids=str,
)
def test_entry_of_a_stranger_is_refused(change, tmp_path):
    entry = next(entry for entry in entries_of(known_records()) if 'equal_sharpness' in entry)
    if set(change) & {'external', 'equal_sharpness'}:
        entry.update(change)
    else:
        entry['equal_sharpness'].update(change)
    (tmp_path / 'cards.jsonl').write_text(json.dumps(entry))
    with pytest.raises(OptionsError, match='line 1: not an entry'):
        read_cards([tmp_path / 'cards.jsonl'])


def test_card_holds_attacks_by_other_people(options, tmp_path, capsys):
    options['networks'] = {'nearest': options['networks']['nearest']}
    options['networks']['nearest']['card'] = {'authors': 'A', 'external': [FIGURE]}
    out = benchmark({**options, 'eps': [8]}, tmp_path)
    capsys.readouterr()
    assert main(['leaderboard', str(out / 'cards.jsonl')]) == 0
    assert rows_of(capsys.readouterr().out)[0]['external'].startswith('9.5 dB at eps 8 by Better/PGD')


@pytest.mark.parametrize(
    'figure, message',
    [
        ({'attack': 'x'}, "networks.nearest.card.external, number 1: the key 'source' is missing"),
        ({**FIGURE, 'eps': 0.03}, 'networks.nearest.card.external, number 1.eps: .*did you mean 7.65'),
        ({**FIGURE, 'stability': 'low'}, 'networks.nearest.card.external, number 1.stability: expected a number'),
    ],
    ids=str,
)
def test_wrong_card_is_refused(options, figure, message):
    options['networks']['nearest']['card'] = {'external': [figure]}
    with pytest.raises(OptionsError, match=message):
        check_benchmark(options)
