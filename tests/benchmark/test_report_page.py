"""The page as a whole: its parts, escaping, small runs, and writing it."""

from __future__ import annotations

import dataclasses
import html
import re

import pytest

from benchmark_records import (
    ATTACK,
    HOSTILE,
    METRICS,
    NOISE,
    WORDS,
    Page,
    make_records,
    needs_matplotlib,
    results_of,
)
from rsr_basicsr.benchmark.report import charts
from rsr_basicsr.benchmark.report.page import write_report
from rsr_basicsr.utils import files


def test_page_has_all_parts(page):
    for text in (
        'A title',
        'First sentence.',
        'Second sentence.',
        'I-FGSM',
        'rsr --x "y"',
        'first',
        'second',
        f'Worst attack: {ATTACK}',
    ):
        assert text in page.text
    assert 'Its noise × 15.9 around mid grey' in page.text
    assert 'Its noise × 63.5 around mid grey' in page.text
    assert 'warnings' not in [attributes.get('class') for _, attributes in page.tags]


def test_warnings_have_a_section(records, write):
    page = write(records, warnings=['Do not believe it.'])
    assert ('section', {'class': 'warnings', 'aria-label': 'Warnings'}) in page.tags
    assert 'Do not believe it.' in page.text


def test_page_is_self_contained(page):
    without_images = re.sub(r'data:image/\w+;base64,[^"]*', '', page.source)
    assert not re.search(r'https?:|//[a-z]|url\([^#]|@import', without_images)
    for _, attributes in page.tags:
        for name in ('src', 'href', 'srcset', 'action', 'poster'):
            assert attributes.get(name, 'data:').startswith(('data:', '#'))


@needs_matplotlib
def test_ids_are_unique(records, write):
    few = [r for r in records if r.defense == 'none' and r.image == 'first']
    page = write([*few, *make_records(dataset='Other', defenses=('none',))], drawn=True)
    ids = [attributes['id'] for _, attributes in page.tags if 'id' in attributes]
    assert len(ids) == len(set(ids)) > 4
    assert set(re.findall(r'(?:url\(|href=")#([^")]*)', page.source)) <= set(ids)


def test_names_are_escaped(tmp_path, write):
    records = make_records(
        tmp_path,
        networks=(HOSTILE, 'other'),
        defenses=('none', HOSTILE),
        images=(HOSTILE,),
        attacks=(NOISE, HOSTILE),
        dataset=HOSTILE,
        detector=HOSTILE,
    )
    records += [dataclasses.replace(records[1], key='lost', image='lost', error=HOSTILE, values={}, gallery={})]
    records = [dataclasses.replace(r, facts={'type': HOSTILE, 'card': {HOSTILE: HOSTILE}}) for r in records]
    metrics = {**METRICS, HOSTILE: METRICS['psnr']}
    path = write_report(
        tmp_path / 'p.html',
        results_of(records, metrics),
        tmp_path,
        title=HOSTILE,
        summary=[HOSTILE],
        warnings=[HOSTILE],
        protocol={HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE},
    )
    page = Page(path)

    assert not any(tag == 'b' for tag, _ in page.tags)
    assert html.escape('<b>') in page.source and HOSTILE not in page.source
    assert page.text.count(HOSTILE) > 20
    assert f'{HOSTILE}, clean input' in page.images()


def test_names_that_are_not_text_are_written(records, write):
    odd = {'plain': '$a$_\udcff\x01\n', 'guarded': '_x'}
    page = write([dataclasses.replace(r, network=odd[r.network]) for r in records], drawn=True)
    assert '$a$_?' in page.text


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(strengths=()),
        dict(networks=('plain',)),
        dict(networks=('plain',), defenses=('none', 'jpeg')),
        dict(images=('one',)),
        dict(strengths=(0.5,)),
        dict(attacks=(NOISE,)),
    ],
    ids=str,
)
def test_small_runs_make_a_page(kwargs, tmp_path, write):
    page = write(make_records(tmp_path, **{'defenses': ('none',), **kwargs}), drawn=True)
    assert page.body('Set2: mean')[0][0] == 'plain'
    assert 'first, clean input' in page.images() or 'one, clean input' in page.images()
    if 'strengths' in kwargs and not kwargs['strengths']:
        assert not any('compare' in (attributes.get('class') or '') for _, attributes in page.tags)


def test_runs_without_results_make_a_page(tmp_path, write):
    records = make_records()
    failed = [dataclasses.replace(r, error='no memory', values={}, score=None) for r in records]
    assert not write(records).images()
    page = write(failed)
    assert len(page.body('Failed')) == len(failed)
    assert page.body('Set2: mean') == [[label] for label in ('plain', 'plain + jpeg', 'guarded', 'guarded + jpeg')]
    without = [dataclasses.replace(r, values={'stability': r.values['stability']}) for r in records]
    assert ('svg' in dict(write(without, drawn=True).tags)) == charts.available()
    write([], title='', summary=[], protocol={}, versions={})


def test_page_is_written_atomically(records, tmp_path, monkeypatch):
    path = tmp_path / 'out' / 'p.html'
    path.parent.mkdir()
    path.write_text('old')
    monkeypatch.setattr(files.os, 'replace', lambda *_: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(OSError, match='disk full'):
        write_report(path, results_of(records), tmp_path, **WORDS)
    assert [p.name for p in path.parent.iterdir()] == ['p.html']
    assert path.read_text() == 'old'
