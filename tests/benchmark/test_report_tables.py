"""Tables of the page."""

from __future__ import annotations

import dataclasses

import numpy as np

from benchmark_records import (
    ATTACK,
    interval,
    make_records,
    numbers,
    worst_case,
)
from rsr_basicsr.benchmark.summary import WORST_CASE


def test_overview_has_means_and_intervals(page):
    rows = page.body('Set2: mean over 2 images')

    assert [row[0] for row in rows] == ['plain', 'plain + jpeg', 'guarded', 'guarded + jpeg']
    for row, network in zip(rows, (0, 1, 1, 2)):
        clean = [numbers(network, 'clean', 0, p) for p in (0, 1)]
        assert row[4:6] == [f'{np.mean([c["psnr"] for c in clean]):.2f}', f'{np.mean([c["lpips"] for c in clean]):.3f}']
        for cell, eps in zip(row[1:3], (2.0, 8.0)):
            values = worst_case(network, eps, 'stability', min)
            assert cell == '{:.2f} [{:.2f}, {:.2f}] ×{:.2f}'.format(
                np.mean(values), *interval(values), 255 / eps / 10 ** (np.mean(values) / 20)
            )
        assert row[3] == f'{np.mean(worst_case(network, 8.0, "psnr", min)):.2f}'


def test_networks_with_a_detector_have_a_table_of_it(page, records, write):
    # scores: clean -4 and -5, eps 2 -3 and -2, eps 8 3 and 4
    _, *rows = page.body('Set2: what the detectors flag')
    assert [row[:4] for row in rows] == [[label, '0 %', '0 %', '100 %'] for label in ('guarded', 'guarded + jpeg')]
    without = write([dataclasses.replace(r, score=None) for r in records])
    assert not any('detectors' in caption for caption, _ in without.tables)


def test_best_of_a_column_is_bold(page):
    rows = page.body('Set2: mean')
    best = [rows[3][column].split(' [')[0] for column in (1, 2, 3, 4)]
    assert page.bold == best
    # Where all are equal, or only one is there, none is the best.
    assert len({row[5] for row in rows}) == 1 and rows[0][5] not in page.bold


def test_lower_is_better_where_it_is(records, write):
    records = [
        dataclasses.replace(r, values={**r.values, 'lpips': [0.05] if r.network == 'plain' else [0.5]}) for r in records
    ]
    page = write(records)
    assert page.bold.count('0.050') == 2 and '0.500' not in page.bold
    assert 'lower is better' in page.text


def test_every_attack_has_its_row(page):
    rows = page.body('Set2, every attack')

    assert len(rows) == 4 * 2 * 3  # subjects, strengths, two attacks and the worst case
    worst = next(row for row in rows if row[0] == 'guarded' and row[1].startswith(WORST_CASE) and row[2] == '8')
    assert worst[1] == f'{WORST_CASE} {ATTACK} (2 of 2)'
    values = worst_case(1, 8.0, 'stability', min)
    assert worst[3:7] == [
        '{:.2f} [{:.2f}, {:.2f}] ×{:.2f}'.format(
            np.mean(values), *interval(values), 255 / 8 / 10 ** (np.mean(values) / 20)
        ),
        f'{min(values):.2f}',
        f'{np.std(values, ddof=1):.2f}',
        '0.00',
    ]
    assert worst[7:9] == [
        f'{np.mean(worst_case(1, 8.0, "psnr", min)):.2f}',
        f'{np.mean(worst_case(1, 8.0, "lpips", max)):.3f}',
    ]
    assert worst[9:] == ['2', '100 %', '1.000']
    assert not any(tag == 'details' for tag, _ in page.tags)


def test_spread_of_one_seed_is_a_dash(records, write, tmp_path):
    one = [dataclasses.replace(r, values={name: found[:1] for name, found in r.values.items()}) for r in records]
    head, *rows = next(rows for caption, rows in write(one).tables if caption.startswith('Set2, every attack'))
    assert not any(cell.startswith('seed spread') for cell in head)
    some = [r if r.network == 'plain' else other for r, other in zip(records, one)]
    head, *rows = next(rows for caption, rows in write(some).tables if caption.startswith('Set2, every attack'))
    place = next(number for number, cell in enumerate(head) if cell.startswith('seed spread'))
    assert {row[place] for row in rows if row[0].startswith('guarded')} == {'–'}
    assert '–' not in {row[place] for row in rows if row[0].startswith('plain')}


def test_long_table_is_folded(records, write):
    page = write([*records, dataclasses.replace(records[1], key='one more', attack='apgd')])
    assert any(tag == 'details' for tag, _ in page.tags)
    assert '25 rows' in page.text


def test_attacks_outside_the_worst_case_are_named(records, write):
    other = [
        dataclasses.replace(
            r,
            key=f'{r.key}l2',
            attack='round',
            attack_options={'type': 'PGD', 'norm': 'L2'},
            values={**r.values, 'stability': [1.0, 1.0]},
        )
        for r in records
        if r.attack == ATTACK
    ]
    page = write([*records, *other])
    assert 'only in the table of all attacks: round.' in page.text
    assert page.body('Set2: mean') == write(records).body('Set2: mean')


def test_failures_are_listed_and_counted(records, write):
    lost = next(i for i, r in enumerate(records) if (r.attack, r.image, r.network) == (ATTACK, 'second', 'plain'))
    records[lost] = dataclasses.replace(records[lost], error='ValueError: <no>', values={}, gallery={})
    page = write(records)

    assert page.body('Failed') == [['second', 'Set2', 'plain', ATTACK, '2', 'ValueError: <no>']]
    failed = [row[10] for row in page.body('Set2, every') if row[:3] == ['plain', ATTACK, '2']]
    assert failed == ['1']


def test_networks_are_identified(page):
    assert page.body('Networks') == [
        [name, 'SRVGGNetCompact', '1,234,567', f'{n}.pth', f'{n:064x}', 'authors: Ada']
        for n, name in enumerate(['plain', 'guarded'])
    ]
    assert ['torch', '2.0'] in page.body('Versions')


def test_parameters_of_a_detector_are_named(records, write):
    facts = {'parameters': 1234567, 'detector_parameters': 320000}
    page = write([dataclasses.replace(r, facts=facts) if r.network == 'guarded' else r for r in records])
    assert [row[2] for row in page.body('Networks')] == ['1,234,567', '1,234,567 + 320,000 of the detector']


def test_each_data_set_has_its_table(records, write):
    page = write([*records, *make_records(dataset='Other', images=('one',), networks=('plain',))])
    assert len(page.body('Set2: mean')) == 4
    assert [row[0] for row in page.body('Other: mean over 1 image')] == ['plain', 'plain + jpeg']
    assert '[' not in page.body('Other: mean')[0][3]  # one image has no interval
