"""The page in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmark_records import (
    WORDS,
    make_records,
    results_of,
)
from rsr_basicsr.benchmark.report.page import write_report

PROBE = """<script>
const errors = [];
addEventListener('error', (e) => errors.push(String(e.message || e.target)), true);
addEventListener('securitypolicyviolation', (e) => errors.push(e.violatedDirective));
addEventListener('load', () => setTimeout(() => {
  const seen = () => [...new Set([...document.querySelectorAll('[data-eps]')].filter(
    (part) => part.getClientRects().length).map((part) => part.dataset.eps))].join();
  const said = {before: seen(), width: document.documentElement.scrollWidth, window: innerWidth,
                loaded: document.images.length > 9 && [...document.images].every((i) => i.naturalWidth > 0),
                charts: [...document.querySelectorAll('svg')].every((s) => s.getBoundingClientRect().height > 100)};
  document.querySelector('.switch input').click();
  said.after = seen();
  const stage = document.querySelector('.stage');
  const range = stage.querySelector('input');
  range.value = 70;
  range.dispatchEvent(new Event('input'));
  said.clip = getComputedStyle(stage.querySelector('.over:not([hidden])')).clipPath;
  said.focus = (range.focus(), document.activeElement === range);
  const first = () => [...document.querySelectorAll('#results tbody tr')].map((row) => row.cells[0].innerText).join();
  const heading = (n) => document.querySelectorAll('#results th[data-sort]')[n];
  const press = (n) => {
    heading(n).querySelector('button').click();
    return `${heading(n).getAttribute('aria-sort')}: ${first()}`;
  };
  said.names = `${press(0)}; ${press(0)}`;
  said.numbers = `${press(4)}; ${press(4)}`;
  said.missing = `${press(7)}; ${press(7)}`;
  said.sorted = document.querySelectorAll('#results [aria-sort]').length;
  parent.postMessage({...said, errors: errors.join()}, '*');
}, 100));
</script>"""
# A window cannot be as narrow as a phone, but a frame can.
FRAME = """<body><script>addEventListener('message', (e) => {
  for (const [key, value] of Object.entries(e.data)) document.body.setAttribute('said-' + key, value);
})</script><iframe src="page.html" style="width: %dpx; height: 844px; border: 0"></iframe>"""


@pytest.mark.parametrize('width', [390, 1200])
def test_page_in_a_browser(width, tmp_path):
    browser = next(filter(None, map(shutil.which, ['chromium', 'chromium-browser', 'google-chrome'])), None)
    if not browser:
        pytest.skip('needs chromium or google-chrome on PATH')
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
    page.write_text(page.read_text(encoding='utf-8').replace('<style>', PROBE + '<style>', 1), encoding='utf-8')
    Path(tmp_path / 'frame.html').write_text(FRAME % width, encoding='utf-8')

    run = subprocess.run(
        [
            browser,
            '--headless',
            '--no-sandbox',
            '--disable-gpu',
            '--virtual-time-budget=2000',
            '--dump-dom',
            f'--user-data-dir={tmp_path / "profile"}',
            '--window-size=1300,900',
            (tmp_path / 'frame.html').as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )

    said = dict(re.findall(r'said-(\w+)="([^"]*)"', run.stdout))
    assert said, f'the page said nothing: {run.stdout[:500]} {run.stderr[-500:]}'
    assert said['errors'] == ''
    assert int(said['window']) == width
    assert int(said['width']) <= width
    assert (said['loaded'], said['charts']) == ('true', 'true')
    assert (said['before'], said['after']) == ('8', '2')
    assert (said['clip'], said['focus']) == ('inset(0px 0px 0px 70%)', 'true')
    assert said['names'] == 'ascending: a,b,c; descending: c,b,a'
    # Stability rises in the order b, c, a; only c has a detector, and what is missing keeps its order.
    assert said['numbers'] == 'ascending: b,c,a; descending: a,c,b'
    assert said['missing'] == 'ascending: c,a,b; descending: c,a,b'
    assert said['sorted'] == '1'
