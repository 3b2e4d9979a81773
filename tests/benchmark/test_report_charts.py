"""Charts of the page."""

from __future__ import annotations

import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmark_records import (
    ATTACK,
    HOSTILE,
    NOISE,
    interval,
    make_records,
    needs_matplotlib,
    results_of,
    worst_case,
)
from rsr_basicsr.benchmark.report import charts
from rsr_basicsr.benchmark.summary import WORST_CASE


def chart_of(kind, records):
    results = results_of(records)
    if kind == 'robustness':
        return charts.robustness(results.rows(), [NOISE])
    if kind == 'trade-off':
        return charts.trade_off(results.rows(), 'psnr', 'dB')
    subject = results.subjects('Set2')[-1]
    return charts.detector(
        results.images('Set2', subject, 'clean', 0).values(),
        {eps: results.images('Set2', subject, WORST_CASE, eps).values() for eps in (2.0, 8.0)},
    )


@needs_matplotlib
@pytest.mark.parametrize('kind, lines', [('robustness', 4), ('trade-off', 4), ('detector', 2)])
def test_chart_has_a_line_for_each(kind, lines):
    chart = chart_of(kind, make_records())
    root = ElementTree.fromstring(chart)
    assert root.tag == 'svg' and 'viewBox' in root.attrib
    assert len([group for group in root.iter('g') if group.get('class') == 'series']) == lines
    assert chart == chart_of(kind, make_records())
    texts = [element.text for element in root.iter('text')]
    for label in ('plain + jpeg', 'guarded') if lines == 4 else ('eps 2/255: AUC 1.000', 'chance'):
        assert label in texts
    assert not re.search('http|<style|<metadata|#010203', chart) and 'currentColor' in chart


@needs_matplotlib
def test_charts_hold_any_label():
    records = make_records(networks=(HOSTILE, '_hidden $x^2$', 'long ' * 60, 'net\x00'), defenses=('none',))
    root = ElementTree.fromstring(chart_of('robustness', records))
    texts = ' '.join(element.text or '' for element in root.iter('text'))
    titles = [group.find('title').text for group in root.iter('g') if group.get('class') == 'series']
    assert HOSTILE in texts and '_hidden $x^2$' in texts and '…' in texts
    assert titles == [HOSTILE, '_hidden $x^2$', 'long ' * 60, 'net ']


@needs_matplotlib
def test_markers_say_their_values():
    root = ElementTree.fromstring(chart_of('robustness', make_records()))
    titles = [[use.find('title').text for use in group.iter('use')] for group in root.iter('g') if group.get('class')]
    for label, network, found in zip(['plain', 'plain + jpeg', 'guarded', 'guarded + jpeg'], (0, 1, 1, 2), titles):
        expected = []
        for eps in (2.0, 8.0):
            values = worst_case(network, eps, 'stability', min)
            expected.append(
                '{}, eps {:g}/255: {:.2f} dB [{:.2f}, {:.2f}]'.format(label, eps, np.mean(values), *interval(values))
            )
        assert found == expected
    assert 'plain, clean 30.75 [30.25, 31.25], stability ' in chart_of('trade-off', make_records())


def test_no_colour_repeats():
    colours = [charts.colour_of(number) for number in range(60)]
    assert len(set(colours)) == 60 and all(re.fullmatch('#[0-9a-f]{6}', colour) for colour in colours)


@needs_matplotlib
def test_lines_are_drawn_where_the_numbers_are():
    root = ElementTree.fromstring(chart_of('robustness', make_records()))
    paths = [group.find('path').get('d') for group in root.iter('g') if group.get('class') == 'series']
    ends = np.array([[float(y) for _, y in re.findall(r'[ML] (\S+) (\S+)', path)] for path in paths])  # downwards
    means = np.array([[np.mean(worst_case(n, eps, 'stability', min)) for eps in (2.0, 8.0)] for n in (0, 1, 1, 2)])
    slope = (ends[0, 1] - ends[0, 0]) / (means[0, 1] - means[0, 0])
    assert slope < 0
    assert np.allclose(ends, ends[0, 0] + slope * (means - means[0, 0]), atol=1e-3)


@needs_matplotlib
def test_charts_leave_matplotlib_as_it_was():
    import matplotlib

    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    with matplotlib.rc_context({'font.size': 30, 'axes.grid': False}):
        loud = chart_of('trade-off', make_records())
    assert loud == chart_of('trade-off', make_records())
    assert dict(matplotlib.rcParams) == before and matplotlib.get_backend() == backend


@needs_matplotlib
def test_nothing_makes_no_chart():
    rows = results_of(make_records(strengths=())).rows()
    assert charts.robustness(rows) is None and charts.trade_off(rows, 'psnr') is None
    assert charts.trade_off(results_of(make_records()).rows(), 'ssim') is None
    assert charts.detector([], {}) is None
    assert charts.detector([], {8.0: make_records()}) is None


@needs_matplotlib
def test_many_clean_images_make_the_false_alarms_logarithmic():
    clean = make_records(
        networks=('guarded',), defenses=('none',), images=[f'{i:03}' for i in range(100)], strengths=()
    )
    attacked = make_records(networks=('guarded',), defenses=('none',), attacks=(ATTACK,))
    assert 'false alarms among 100 clean images' in charts.detector(clean, {8.0: attacked})


def test_page_without_matplotlib(records, write, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    monkeypatch.delitem(sys.modules, 'matplotlib.figure', raising=False)
    page = write(records, drawn=True)
    assert 'pip install matplotlib' in page.text
    assert 'svg' not in dict(page.tags) and page.images()
