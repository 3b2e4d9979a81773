"""The page in a real browser."""

from __future__ import annotations

import pytest
from browser import ask_page

from benchmark_plane import known_records, plane_results
from benchmark_records import WORDS, make_records, results_of
from rsr_basicsr.benchmark.report import charts
from rsr_basicsr.benchmark.report.page import write_report

ASK = """
  const seen = () => [...new Set([...document.querySelectorAll('[data-eps]')].filter(
    (part) => part.getClientRects().length).map((part) => part.dataset.eps))].join();
  const said = {before: seen(), width: document.documentElement.scrollWidth, window: innerWidth,
                loaded: document.images.length > 9 && [...document.images].every((i) => i.naturalWidth > 0),
                charts: [...document.querySelectorAll('svg')].every((s) => s.getBoundingClientRect().height > 100)};
  document.querySelector('.switch input').click();
  said.after = seen();
  const stage = document.querySelector('.compare .stage');
  const range = stage.querySelector('input');
  range.value = 70;
  range.dispatchEvent(new Event('input'));
  said.clip = getComputedStyle(stage.querySelector('.over:not([hidden])')).clipPath;
  said.focus = (range.focus(), document.activeElement === range);
  const body = document.querySelector('#results tbody');
  const first = () => [...body.rows].map((row) => row.cells[0].innerText).join();
  const heading = (n) => document.querySelectorAll('#results th[data-sort]')[n];
  const press = (n) => {
    heading(n).querySelector('button').click();
    return `${heading(n).getAttribute('aria-sort')}: ${first()}`;
  };
  said.names = `${press(0)}; ${press(0)}`;
  said.numbers = `${press(2)}; ${press(2)}`;
  const pair = document.querySelector('.pair');
  const part = (name) => pair.querySelector(`.${name}`);
  const choose = (name, value) => { part(name).value = value; part(name).dispatchEvent(new Event('change')); };
  const shows = () => ['under', 'over'].map((layer) => part(layer).alt.replace(/^first, /, '')).join(' | ');
  said.pair = shows();
  said.choices = [...part('left').options].map((option) => option.value).join();
  choose('left', 'original');
  choose('right', 'c, clean');
  said.chosen = shows();
  choose('mode', 'difference');
  said.blend = getComputedStyle(part('over')).mixBlendMode;
  choose('zoom', '4');
  said.zoom = part('stage').clientWidth / part('window').clientWidth;
  said.links = [...document.querySelectorAll('nav a')].every((a) => document.querySelector(a.getAttribute('href')));
  said.sorted = document.querySelectorAll('#results [aria-sort]').length;
  return said;
"""


@pytest.mark.parametrize('width', [390, 1200])
def test_page_in_a_browser(width, tmp_path):
    records = make_records(
        tmp_path,
        networks=('b', 'c', 'a'),
        defenses=('none',),
        detector='c',
        images=('first', 'a_long_name_without_any_place_to_break_it_' * 3),
    )
    page = write_report(
        tmp_path / 'page.html',
        results_of(records),
        tmp_path,
        **{**WORDS, 'warnings': ['warned_' * 30], 'protocol': {'Command': 'rsr ' + '/a/very/long/path' * 12}},
    )

    said = ask_page(page, ASK, width)

    assert said['errors'] == ''
    assert int(said['window']) == width
    assert int(said['width']) <= width
    assert (said['loaded'], said['charts']) == ('true', 'true')
    assert (said['before'], said['after']) == ('8', '2')
    assert (said['clip'], said['focus']) == ('inset(0px 0px 0px 70%)', 'true')
    assert said['names'] == 'ascending: a,b,c; descending: c,b,a'
    # Stability rises in the order b, c, a.
    assert said['numbers'] == 'ascending: b,c,a; descending: a,c,b'
    assert said['sorted'] == '1'
    # The first network and the most stable one, under the strongest attack.
    assert said['pair'] == 'output of b under attack, eps 8/255 | output of a under attack, eps 8/255'
    assert said['choices'] == 'clean input,original,' + ','.join(
        f'{name}, {state}' for name in 'bca' for state in ('clean', 'eps 2', 'eps 8')
    )
    assert said['chosen'] == 'high-resolution original | output of c for the clean input'
    assert (said['blend'], said['links']) == ('difference', 'true')
    assert float(said['zoom']) == pytest.approx(4, abs=0.05)


ASK_PLANE = """
  const section = document.querySelector('#equal-sharpness');
  const first = () => [...section.querySelector('tbody').rows].map((row) => row.cells[0].innerText).join();
  const press = () => { section.querySelectorAll('th[data-sort] button')[2].click(); return first(); };
  return {width: document.documentElement.scrollWidth, before: first(), rising: press(), falling: press(),
          charts: [...section.querySelectorAll('svg')].filter((s) => s.clientHeight > 100).length,
          first: document.querySelector('main section').id};
"""


@pytest.mark.parametrize('width', [390, 1200])
def test_equal_sharpness_in_a_browser(width, tmp_path):
    page = write_report(tmp_path / 'page.html', plane_results(known_records()), tmp_path, **WORDS)
    said = ask_page(page, ASK_PLANE, width)
    assert (said['errors'], said['first']) == ('', 'equal-sharpness')
    assert int(said['width']) <= width
    assert said['charts'] == ('4' if charts.available() else '0')
    # By the distance under attack; a network that does not reach the sharpness goes last.
    assert said['before'] == 'old,new,bad,blurry'
    assert (said['rising'], said['falling']) == ('new,old,bad,blurry', 'bad,old,new,blurry')


WIDE = """
  const wide = (part) => part.scrollWidth > part.clientWidth;
  const [first] = document.querySelectorAll('main section .scroll');
  const box = first.querySelectorAll('tbody td')[0].getBoundingClientRect();
  return {table: wide(first), page: wide(document.documentElement),
          heading: first.querySelectorAll('thead tr')[1].cells[1].innerText,
          visible: box.left < innerWidth && box.right <= innerWidth};
"""


@pytest.mark.parametrize('width', [390, 1280, 1920])
@pytest.mark.parametrize('kind', ['overview', 'equal sharpness'])
def test_main_table_fits(width, kind, tmp_path):
    names = ('realesr-general-x4v3', 'defended-general-x4v3', 'bicubic')
    results = results_of(make_records(networks=names)) if kind == 'overview' else plane_results(known_records())
    said = ask_page(write_report(tmp_path / 'page.html', results, tmp_path, **WORDS), WIDE, width)
    assert said['page'] == 'false' and (width < 1280 or said['table'] == 'false')
    # A phone shows the stability beside the names, without scrolling.
    assert said['visible'] == 'true' and said['heading'].startswith('eps 2' if kind == 'overview' else 'stability')
