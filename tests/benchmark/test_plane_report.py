"""The report at equal sharpness: sentences, warnings, tables, charts, and the files for programs."""

from __future__ import annotations

import dataclasses
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmark_plane import METRICS, known_records, plane_results, records_of
from benchmark_records import HOSTILE, WORDS, Page, interval, needs_matplotlib
from rsr_basicsr.benchmark.plane import Plane
from rsr_basicsr.benchmark.report import charts
from rsr_basicsr.benchmark.report.equal_sharpness import markdown_section, text_tables
from rsr_basicsr.benchmark.report.output import write_results
from rsr_basicsr.benchmark.report.page import write_report
from rsr_basicsr.benchmark.report.plane_charts import sharpness
from rsr_basicsr.benchmark.report.verdict import verdict
from rsr_basicsr.benchmark.report.warnings import warnings


def paired(records, one, other):
    """The interval of the difference between two functions of image -> distance under the strong attack."""
    strong = [record for record in records if (record.attack, record.eps) == ('strong', 8)]
    values = {(r.network, r.defense, r.image): r.values['lpips'][0] for r in strong}
    images = sorted({image for *_, image in values})
    mean = [
        [np.mean([values[(*subject, image)] for subject in subjects]) for image in images] for subjects in (one, other)
    ]
    return interval(np.subtract(*mean))


@pytest.fixture
def page_of(tmp_path, monkeypatch):
    def written(results, drawn=False):
        if not drawn:
            monkeypatch.setattr(charts, 'available', lambda: False)
        return Page(write_report(tmp_path / 'page.html', results, tmp_path, **WORDS))

    return written


def test_verdict_starts_at_equal_sharpness():
    records = known_records()
    said = verdict(plane_results(records))
    low, high = paired(records, [('new', 'none'), ('new', 'blend 0.8')], [('old', 'none')])
    assert said[:5] == [
        'Set6: attacked at 8/255, new at the sharpness of old (blend 0.90) has LPIPS 0.420 to the original, old 0.500: '
        f'-0.080 [-{abs(low):.3f}, -{abs(high):.3f}], closer to the original.',
        said[1],
        'At this sharpness, old amplifies the attack 5.7 times (15.0 dB), new 2.8 times (21.0 dB), bad 6.0 times '
        '(14.5 dB), bicubic upscaling 1.0 times (30.0 dB).',
        'No blend reaches the sharpness of old: blurry.',
        'No better than blending old with bicubic to the same sharpness: old + jpeg (0.560 under attack, the blend '
        '0.535).',
    ]
    assert said[1].startswith('Set6: attacked at 8/255, bad at the sharpness of old (blend 0.95) has LPIPS 0.555')
    assert said[1].endswith('], no better than old.')
    assert said[5].startswith('Set6, each at its own sharpness: attacked at 8/255, the output of old keeps 15.0 dB')
    assert 'blend' not in ' '.join(said[5:])


def test_defence_that_is_less_stable_than_a_blend_is_named():
    records = [*known_records(), *records_of('old', 'bits', 0.46, 0.48, 19)]
    (said,) = [sentence for sentence in verdict(plane_results(records)) if 'less stable' in sentence]
    # The blend has 20 dB at 0.42 and 26 dB at 0.50.
    assert said.endswith('than such a blend, but less stable: old + bits (-4.0 dB).')


def test_few_images_are_not_compared():
    few = [record for record in known_records() if record.image < 'image 4']
    said = ' '.join(verdict(plane_results(few)))
    assert 'on too few images to compare' in said and 'No better than' not in said and 'closer' not in said


def test_insignificant_difference_is_named():
    records = [
        *records_of('old', 'none', 0.35, 0.50, 15),
        *records_of('same', 'none', 0.35, 0.499, 15, seed=5),
        *records_of('new', 'none', 0.35, 0.40, 15),
    ]
    results = plane_results(records)
    assert ', not significant.' in verdict(results)[0] and 'closer to the original.' in verdict(results)[1]
    (warned,) = [sentence for sentence in warnings(results) if 'significant' in sentence]
    assert warned.endswith('the difference to old is not significant (paired bootstrap over the images): same.')


@pytest.mark.parametrize('name, images', [('standard', 50), ('adaptive', 50), ('mine', None)])
def test_protocols_say_how_many_images_they_need(name, images):
    records = [record for n in range(3) for record in records_of('old', 'none', 0.35, 0.5, 15, images=6)]
    records += [
        record.__class__(**{**vars(record), 'key': f'{n} {record.key}', 'image': f'{n} {record.image}'})
        for n in range(2)
        for record in records
    ]
    results = plane_results(records)
    results.options['name'] = name
    few = [sentence for sentence in warnings(results) if 'only 18 images' in sentence]
    assert len(few) == (images is not None)
    assert all(f'the protocol {name} is meant for {images}' in sentence for sentence in few)


def test_measure_that_prefers_blur_is_reported(page_of):
    results = plane_results(known_records(), bicubic=0.3)
    sentence = 'By LPIPS, old is no closer to the original than bicubic upscaling'
    assert any(sentence in warned for warned in warnings(results))
    assert verdict(results)[0].startswith('Set6, each at its own sharpness')
    assert sentence in page_of(results).text and sentence in '\n'.join(markdown_section(results))


def test_page_starts_with_equal_sharpness(page_of):
    page = page_of(plane_results(known_records()))
    headings = re.findall('<h2>(.*?)</h2>', page.source)
    assert headings.index('Robustness at equal sharpness') < headings.index('Results')
    assert 'Distance: LPIPS (metric lpips).' in page.text
    rows = page.body('Set6: at the sharpness of old, eps 8')[1:]  # without the groups of columns
    assert [[row[0], row[6]] for row in rows] == [
        ['old', '1.00'],
        ['new', '0.90'],
        ['bad', '0.95'],
        ['blurry', 'not reached'],
    ]
    assert rows[1][2].startswith('0.420 [') and rows[1][3].startswith('-0.080 [') and rows[0][3] == '–'
    assert re.fullmatch(r'21\.00 \[\d\d\.\d\d, \d\d\.\d\d\] ×2\.84', rows[1][1])
    assert rows[3][1:6] == ['–'] * 5 and rows[3][7].startswith('0.460 [')
    assert len(page.body('Set6: at the sharpness of old, eps 2')) == len(rows) + 1
    blends = page.body('Set6: as they are')[1:]
    assert [row[0] for row in blends] == ['old + jpeg', 'new', 'bad', 'blurry']
    assert blends[0][1] == '0.460' and blends[0][2].startswith('0.560') and blends[0][3].startswith('0.535')
    assert blends[0][4].startswith('+0.025 [') and blends[1][3] == 'not reached'


def test_tables_for_people_and_programs(tmp_path):
    records = known_records()
    results = plane_results(records)
    (lines,) = text_tables(results).values()
    assert lines[0][:7] == ['network', 'clean LPIPS', 'alpha', 'eps', 'LPIPS to original', 'difference', 'stability']
    assert lines[0][7:] == ['LPIPS to clean output', 'consistency with the input']
    networks = ('old', 'new', 'bad', 'blurry')
    assert [(line[0], line[3]) for line in lines[1:]] == [(name, eps) for eps in '82' for name in networks]
    assert lines[4][2] == 'not reached' and set(lines[4][4:]) == {'-'}
    text = '\n'.join(markdown_section(results))
    assert '| old + jpeg | 0.460 | 0.560 | 0.535 |' in text and text.index('## Robustness') < text.index('| new |')

    options = {**results.options, 'attacks': {}, 'eps': [2, 8], 'seed': 0, 'mask_seeds': [0], 'datasets': {}}
    write_results(tmp_path, records, options)
    content = json.loads((tmp_path / 'results.json').read_text())
    (new,) = [e for e in content['equal_sharpness'] if (e['network'], e['eps']) == ('new', 8)]
    assert new['estimates']['lpips']['mean'] == pytest.approx(0.42) and new['alpha'] == pytest.approx(0.9)
    assert new['difference']['mean'] == pytest.approx(-0.08)
    report = (tmp_path / 'report.md').read_text()
    assert report.index('attacked at 8/255, new at') < report.index('at equal sharpness\n') < report.index('## Set6')


def test_files_to_share_name_no_folder(tmp_path):
    records = [
        dataclasses.replace(record, started=f'2026-11-2{6 + number % 2}T10:00:00+00:00', seconds=30.0)
        for number, record in enumerate(known_records())
    ]
    records.append(dataclasses.replace(records[-1], key='lost', image='lost', error='OSError: /home/ada/x y/a.png: no'))
    results = plane_results(records)
    options = {
        **results.options,
        'description': 'Mine. Changed: datasets:Set6:dataroot_gt=/home/ada/photos.',
        'networks': {'old': {'type': 'EDSR', 'weights': '/home/ada/my nets/old.pth'}},
        'datasets': {'Set6': {'dataroot_gt': 'C:\\home\\ada\\photos', 'meta_info': '~/home/meta.txt'}},
        'attacks': {},
        'eps': [2, 8],
        'seed': 0,
        'mask_seeds': [0],
    }
    write_results(tmp_path, records, options)
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(texts) == {'report.html', 'report.md', 'results.json', 'results.csv', 'cards.jsonl'}
    assert [name for name, text in texts.items() if re.search(r'home|\bada\b', text)] == []
    protocol = json.loads(texts['results.json'])['protocol']
    assert (
        'weights old.pth' in protocol['Networks']
        and 'dataroot_gt photos, meta_info meta.txt' in protocol['Images Set6']
    )
    assert protocol['Date'] == '2026-11-26 to 2026-11-27'
    minutes = len(records) / 2
    assert protocol['Run time'].startswith(
        f'{int(minutes // 60)}:{int(minutes % 60):02}:{30 * (len(records) % 2):02} ('
    )


@needs_matplotlib
def test_charts_are_drawn_where_the_numbers_are():
    results = plane_results(known_records())
    root = ElementTree.fromstring(sharpness(Plane.of(results), 'Set6', 'stability', 'stability'))
    series = [group for group in root.iter('g') if group.get('class') == 'series']
    assert [group.find('title').text for group in series] == ['old', 'new', 'bad', 'blurry', 'old + jpeg']
    drawn = np.array(
        [[float(x), float(y)] for x, y in re.findall(r'[ML] (\S+) (\S+)', series[0].find('path').get('d'))]
    )
    known = np.array([(0.60, 30), (0.50, 26), (0.42, 20), (0.35, 15)])
    scale = (drawn[-1] - drawn[0]) / (known[-1] - known[0])
    assert scale[0] > 0 > scale[1]
    assert np.allclose(drawn, drawn[0] + scale * (known - known[0]), atol=1e-3)
    widths = [re.search(r'stroke-width: ([\d.]+)', group.find('path').get('style')) for group in series[:2]]
    assert float(widths[0][1]) > 2 * float(widths[1][1])


@needs_matplotlib
def test_page_has_a_chart_for_each_figure(page_of):
    page = page_of(plane_results(known_records()), drawn=True)
    section = page.source.split('id="equal-sharpness"')[1].split('</section>')[0]
    assert section.count('<svg') == 4  # both distances, stability, consistency
    results = plane_results(known_records(), {name: METRICS[name] for name in ('stability', 'lpips')})
    section = page_of(results, drawn=True).source.split('id="equal-sharpness"')[1].split('</section>')[0]
    assert section.count('<svg') == 2


def test_names_are_escaped(page_of):
    records = [*known_records(), *records_of(HOSTILE, 'none', 0.3, 0.4, 20)]
    page = page_of(plane_results(records))
    assert HOSTILE in page.text and HOSTILE not in page.source


def test_data_set_without_ground_truth_is_named(page_of):
    blind = [
        record.__class__(**{**vars(record), 'values': {'stability': record.values.get('stability', [])}})
        for record in records_of('old', 'none', 0, 0, 15, dataset='Blind')
    ]
    page = page_of(plane_results([*known_records(), *blind]))
    assert 'No ground truth, so no comparison at equal sharpness: Blind.' in page.text
    assert not [caption for caption, _ in page.tables if caption.startswith('Blind: at the sharpness')]


def test_nothing_measured_makes_a_page(page_of):
    clean = [record for record in known_records() if record.attack == 'clean']
    assert 'Nothing was attacked.' in page_of(plane_results(clean)).text
    assert verdict(plane_results(clean)) == [] and Plane.of(plane_results(clean)).datasets == ['Set6']
