"""The page of a benchmark: its numbers, charts, images and escaping, and the page in a real browser."""

from __future__ import annotations

import base64
import dataclasses
import html
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import torch

from rsr_basicsr.benchmark.record import Record
from rsr_basicsr.benchmark.report import charts
from rsr_basicsr.benchmark.report.charts import amplified_noise, noise_factor
from rsr_basicsr.benchmark.report.page import write_report
from rsr_basicsr.benchmark.summary import WORST_CASE, Results
from rsr_basicsr.ops.frequency import log_spectrum
from rsr_basicsr.utils import files

HOSTILE = '<b>&"x\'</b>'
NOISE, ATTACK = 'random noise', 'pgd'
METRICS = {
    'stability': {'type': 'calculate_stability', 'crop_border': 4},
    'psnr': {'type': 'calculate_psnr', 'crop_border': 4},
    'lpips': {'type': 'calculate_lpips', 'crop_border': 4},
}
needs_matplotlib = pytest.mark.skipif(not charts.available(), reason='needs matplotlib: the extra report')
WORDS = dict(
    title='A title',
    summary=['First sentence.', 'Second sentence.'],
    warnings=[],
    protocol={'Attack': 'I-FGSM'},
    versions={'torch': '2.0'},
)


def numbers(network: int, attack: str, eps: float, image: int) -> dict:
    """Values of two mask seeds; for every second image random noise is worse than the attack."""
    harm = eps * (1.5 if attack == ATTACK else 0.5) + 3 * (attack == NOISE and image % 2)
    values = {
        'psnr': [30 + network + image - harm / 4, 30.5 + network + image - harm / 4],
        'lpips': [0.1 + harm / 100, 0.12 + harm / 100],
    }
    return {**values, 'stability': [45 + 2 * network + image - harm] * 2 if eps else [None, None]}


def make_records(
    folder=None,
    networks=('plain', 'guarded'),
    defenses=('none', 'jpeg'),
    images=('first', 'second'),
    strengths=(2.0, 8.0),
    attacks=(NOISE, ATTACK),
    dataset='Set2',
    detector='guarded',
):
    """Records with known numbers of 16x24 inputs that are upscaled by 4, and their images where there is a folder."""
    records = []
    for n, network in enumerate(networks):
        for d, defense in enumerate(defenses):
            for p, image in enumerate(images):
                for attack, eps in [('clean', 0.0), *((a, e) for a in attacks for e in strengths)]:
                    key = f'{n}{d}{p}{attacks.index(attack) + 1 if eps else 0}-{eps:g}-{len(dataset)}'
                    records.append(
                        Record(
                            key,
                            network,
                            defense,
                            attack,
                            eps,
                            dataset,
                            image,
                            values=numbers(n + d, attack, eps, p),
                            score=(eps - 5 + p if eps else -4.0 - p) if network == detector else None,
                            attack_options={'type': 'RandomNoise' if attack == NOISE else 'PGD'} if eps else {},
                            facts={
                                'type': 'SRVGGNetCompact',
                                'parameters': 1234567,
                                'weights': f'{n}.pth',
                                'sha256': f'{n:064x}',
                                'card': {'authors': 'Ada'},
                            },
                            shown=write_images(folder, key, p, eps) if folder else {},
                        )
                    )
    return records


def write_images(folder, key, image, eps):
    rng = np.random.default_rng(int.from_bytes(key.encode(), 'big'))
    clean = np.random.default_rng(image).integers(20, 236, (16, 24, 3))
    lq = (clean + rng.integers(-int(eps), int(eps) + 1, clean.shape)).astype(np.uint8)
    shown = {'lq': lq, 'sr': cv2.resize(lq, (96, 64), interpolation=cv2.INTER_CUBIC)}
    if not eps:
        shown['gt'] = cv2.GaussianBlur(shown['sr'], (0, 0), 2)
    for kind, pixels in shown.items():
        cv2.imwrite(str(folder / f'{key}.{kind}.png'), pixels)
    return {kind: f'{key}.{kind}.png' for kind in shown}


def results_of(records, metrics=METRICS):
    return Results(records, {'metrics': {name: dict(metric) for name, metric in metrics.items()}})


class Page(HTMLParser):
    """What a page holds: tags with attributes, its tables by their captions, its text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.tables, self.text, self.bold, self._open = [], [], '', [], []
        self.source = path.read_text(encoding='utf-8')
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open.append(tag)
        if tag == 'table':
            self._rows, self._caption = [], ''
        elif tag == 'tr':
            self._rows.append([])
        elif tag in ('td', 'th'):
            self._rows[-1].append('')

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass  # elements without an end
        if tag == 'table':
            rows = [[' '.join(cell.split()) for cell in row] for row in self._rows]
            self.tables.append((self._caption, rows))

    def handle_data(self, data):
        self.text += data
        if 'caption' in self._open:
            self._caption += data
        elif 'td' in self._open or 'th' in self._open:
            self._rows[-1][-1] += data
            if 'strong' in self._open:
                self.bold.append(data)

    def body(self, start):
        """The rows of the table whose caption begins so, without those of its head."""
        rows = next(rows for caption, rows in self.tables if caption.startswith(start))
        return [row for row in rows if not any('better' in cell or cell in HEADS for cell in row)]

    def images(self):
        """Alternative text -> decoded pixels, BGR or grey, of each image that the page carries."""
        return {attributes['alt']: decode(attributes['src']) for tag, attributes in self.tags if tag == 'img'}


HEADS = ('network and defence', 'clean images', 'reason', 'network', 'version')


def decode(uri):
    kind, data = re.fullmatch(r'data:image/(png|jpeg);base64,([A-Za-z0-9+/=]+)', uri).groups()
    raw = base64.b64decode(data, validate=True)
    assert raw.startswith(b'\x89PNG' if kind == 'png' else b'\xff\xd8')
    return cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.fixture
def records(tmp_path):
    return make_records(tmp_path)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a page, without charts unless asked, which take most of the time."""

    def written(records, drawn=False, **words):
        with monkeypatch.context() as patch:
            if not drawn:
                patch.setattr(charts, 'available', lambda: False)
            return Page(write_report(tmp_path / 'page.html', results_of(records), tmp_path, **{**WORDS, **words}))

    return written


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('run')


@pytest.fixture(scope='module')
def page(folder):
    """A page of everything, which no test may change."""
    protocol = {'Attack': 'I-FGSM', 'Command': 'rsr --x "y"'}
    return Page(
        write_report(
            folder / 'not' / 'there' / 'page.html',
            results_of(make_records(folder)),
            folder,
            **{**WORDS, 'protocol': protocol},
        )
    )


# tables


def interval(values):
    draws = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    return np.percentile(np.asarray(values)[draws].mean(1), [2.5, 97.5])


def worst_case(network, eps, metric, worst):
    """Of each of the two images."""
    return [worst(np.mean(numbers(network, attack, eps, p)[metric]) for attack in (NOISE, ATTACK)) for p in (0, 1)]


def test_table_holds_the_means_and_intervals(page):
    rows = page.body('Set2: means over 2 images')

    assert [row[0] for row in rows] == ['plain', 'plain + jpeg', 'guarded', 'guarded + jpeg']
    for row, network in zip(rows, (0, 1, 1, 2)):
        clean = [numbers(network, 'clean', 0, p) for p in (0, 1)]
        assert row[1:3] == [f'{np.mean([c["psnr"] for c in clean]):.2f}', f'{np.mean([c["lpips"] for c in clean]):.3f}']
        for cell, eps in zip(row[3:5], (2.0, 8.0)):
            values = worst_case(network, eps, 'stability', min)
            assert cell == '{:.2f} [{:.2f}, {:.2f}]'.format(np.mean(values), *interval(values))
        assert row[5] == f'{np.mean(worst_case(network, 8.0, "psnr", min)):.2f}'
    # scores: clean -4 and -5, eps 2 -3 and -2, eps 8 3 and 4
    assert [row[6:] for row in rows] == [['–', '–', '–']] * 2 + [['0 %', '0 %', '100 %']] * 2


def test_best_of_a_column_is_bold(page):
    rows = page.body('Set2: means')
    best = [rows[3][column].split(' [')[0] for column in (1, 3, 4, 5)]
    assert page.bold == sorted(best, key=page.bold.index)
    # Where all are equal, or only one is there, none is the best.
    assert len({row[2] for row in rows}) == 1 and rows[0][2] not in page.bold


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
        '{:.2f} [{:.2f}, {:.2f}]'.format(np.mean(values), *interval(values)),
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
    assert page.body('Set2: means') == write(records).body('Set2: means')


def test_failures_are_listed_and_counted(records, write):
    lost = next(i for i, r in enumerate(records) if (r.attack, r.image, r.network) == (ATTACK, 'second', 'plain'))
    records[lost] = dataclasses.replace(records[lost], error='ValueError: <no>', values={}, shown={})
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


def test_each_data_set_has_its_table(records, write):
    page = write([*records, *make_records(dataset='Other', images=('one',), networks=('plain',))])
    assert len(page.body('Set2: means')) == 4
    assert [row[0] for row in page.body('Other: means over 1 image')] == ['plain', 'plain + jpeg']
    assert '[' not in page.body('Other: means')[0][3]  # one image has no interval


# the page


def test_page_holds_all_that_was_given(page):
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


def test_warnings_stand_in_a_box(records, write):
    page = write(records, warnings=['Do not believe it.'])
    assert ('section', {'class': 'warnings', 'aria-label': 'Warnings'}) in page.tags
    assert 'Do not believe it.' in page.text


def test_page_refers_to_nothing_outside(page):
    without_images = re.sub(r'data:image/\w+;base64,[^"]*', '', page.source)
    assert not re.search(r'https?:|//[a-z]|url\([^#]|@import', without_images)
    for _, attributes in page.tags:
        for name in ('src', 'href', 'srcset', 'action', 'poster'):
            assert attributes.get(name, 'data:').startswith(('data:', '#'))


@needs_matplotlib
def test_ids_are_there_once(records, write):
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
    records += [dataclasses.replace(records[1], key='lost', image='lost', error=HOSTILE, values={}, shown={})]
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


def test_names_that_are_no_text_do_not_stop_the_page(records, write):
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
def test_small_runs_make_a_page_too(kwargs, tmp_path, write):
    page = write(make_records(tmp_path, **{'defenses': ('none',), **kwargs}), drawn=True)
    assert page.body('Set2: means')[0][0] == 'plain'
    assert 'first, clean input' in page.images() or 'one, clean input' in page.images()
    if 'strengths' in kwargs and not kwargs['strengths']:
        assert not any('compare' in (attributes.get('class') or '') for _, attributes in page.tags)


def test_runs_without_anything_make_a_page_too(tmp_path, write):
    records = make_records()
    failed = [dataclasses.replace(r, error='no memory', values={}, score=None) for r in records]
    assert not write(records).images()
    page = write(failed)
    assert len(page.body('Failed')) == len(failed)
    assert page.body('Set2: means') == [[label] for label in ('plain', 'plain + jpeg', 'guarded', 'guarded + jpeg')]
    without = [dataclasses.replace(r, values={'stability': r.values['stability']}) for r in records]
    assert ('svg' in dict(write(without, drawn=True).tags)) == charts.available()
    write([], title='', summary=[], protocol={}, versions={})


def test_page_is_complete_or_not_there(records, tmp_path, monkeypatch):
    path = tmp_path / 'out' / 'p.html'
    path.parent.mkdir()
    path.write_text('old')
    monkeypatch.setattr(files.os, 'replace', lambda *_: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(OSError, match='disk full'):
        write_report(path, results_of(records), tmp_path, **WORDS)
    assert [p.name for p in path.parent.iterdir()] == ['p.html']
    assert path.read_text() == 'old'


# images


def shots(records, attack):
    return [r for r in records if r.attack == attack and (attack != ATTACK or r.image == 'first' or r.eps == 8)]


def test_images_are_those_measured(page, folder):
    images, records = page.images(), make_records(folder)
    for r in shots(records, ATTACK):
        label = r.network if r.defense == 'none' else f'{r.network} + {r.defense}'
        lq, sr = (cv2.imread(str(folder / r.shown[kind])) for kind in ('lq', 'sr'))
        assert np.array_equal(images[f'{r.image}, input attacked against {label}, eps {r.eps:g}/255'], lq)
        output = images[f'{r.image}, output of {label} under attack, eps {r.eps:g}/255']
        assert np.abs(output.astype(int) - sr).mean() < 12  # JPEG of noise
    for r in shots(records, 'clean')[:2]:
        lq, sr, gt = (cv2.imread(str(folder / r.shown[kind])) for kind in ('lq', 'sr', 'gt'))
        assert np.array_equal(images[f'{r.image}, clean input'], lq)
        assert np.abs(images[f'{r.image}, output of plain for the clean input'].astype(int) - sr).mean() < 12
        assert np.abs(images[f'{r.image}, high-resolution original'].astype(int) - gt).mean() < 6


def test_attack_shown_is_the_worst_one(page):
    assert re.findall(r'Worst attack: (\w+ ?\w*), eps (\d)', page.text) == 4 * [(ATTACK, '2'), (ATTACK, '8')] + 4 * [
        (NOISE, '2'),
        (ATTACK, '8'),
    ]


def test_way_of_the_attack_is_said(records, write):
    records = [dataclasses.replace(r, worst='never' if r.eps == 8 else 'PGD' if r.eps else None) for r in records]
    text = write(records).text
    assert f'{ATTACK}, eps 8/255, with the gate forced shut' in text and f'{ATTACK}, eps 2/255, PGD' in text


def test_numbers_of_a_image_stand_below_it(page):
    shown = [rows for caption, rows in page.tables if not caption]
    assert len(shown) == 2 * 4 * 2  # images, subjects, strengths
    assert shown[4:6] == [
        [
            ['', 'clean', 'attacked'],
            ['stability dB', '–', f'{numbers(1, ATTACK, eps, 0)["stability"][0]:.2f}'],
            ['psnr dB', '31.25', f'{np.mean(numbers(1, ATTACK, eps, 0)["psnr"]):.2f}'],
            ['lpips', '0.110', f'{np.mean(numbers(1, ATTACK, eps, 0)["lpips"]):.3f}'],
            ['detector', 'not flagged', flagged],
        ]
        for eps, flagged in ((2.0, 'not flagged'), (8.0, 'flagged'))
    ]


def test_only_the_strongest_attack_is_shown_at_first(page):
    parts = [attributes for _, attributes in page.tags if 'data-eps' in attributes]
    assert {part['data-eps'] for part in parts} == {'2', '8'}
    assert all(('hidden' in part) == (part['data-eps'] == '2') for part in parts)


def test_images_that_are_missing_are_left_out(records, write, tmp_path):
    whole = set(write(records).images())
    gone = next(r for r in records if (r.network, r.image, r.attack) == ('guarded', 'first', 'clean'))
    (tmp_path / gone.shown['sr']).unlink()
    assert whole - set(write(records).images()) == {'first, output of guarded for the clean input'}
    (tmp_path / gone.shown['lq']).write_bytes(b'no image')
    lost = whole - set(write(records).images())
    assert {name for name in lost if 'noise against guarded, eps 8' in name} == {
        'first, noise against guarded, eps 8/255, amplified'
    }
    for file in tmp_path.glob('*.png'):
        file.unlink()
    assert not write(records).images()


@pytest.mark.parametrize('eps', [0.5, 2, 8])
def test_amplified_noise(eps):
    rng = np.random.default_rng(0)
    clean, attacked = rng.integers(100, 110, (2, 16, 24, 3), dtype=np.uint8)
    shown = amplified_noise(clean, attacked, noise_factor(eps))
    for at in [(0, 0, 0), (3, 7, 1), (15, 23, 2)]:
        expected = 128 + (int(attacked[at]) - int(clean[at])) * 127 / eps
        assert shown[at] == pytest.approx(min(max(expected, 0), 255), abs=0.51)


def test_noise_of_full_strength_reaches_black_and_white():
    clean = np.full((4, 4, 3), 100, np.uint8)
    assert amplified_noise(clean, clean + np.uint8(8), noise_factor(8)).min() == 255
    assert amplified_noise(clean, clean - np.uint8(8), noise_factor(8)).max() == 1
    assert np.unique(amplified_noise(clean, clean, noise_factor(8))) == [128]


def test_spectra_share_a_scale_and_their_difference_is_grey_where_nothing_changed(tmp_path, write):
    records = make_records(
        tmp_path, networks=('n',), defenses=('none',), images=('p',), strengths=(8.0,), attacks=(ATTACK,)
    )
    clean, attacked = (cv2.imread(str(tmp_path / r.shown['lq'])) for r in records)
    clean, attacked = (
        log_spectrum(torch.from_numpy(lq / 255).permute(2, 0, 1)[None])[0].numpy() for lq in (clean, attacked)
    )
    images = write(records).images()

    expected = 127.5 * (1 + np.clip((attacked - clean) / np.log(32), -1, 1))
    shown = images['p, change of the log spectrum by the attack against n, eps 8/255']
    assert np.abs(shown - expected).max() <= 0.51
    # Where the two magnitudes are equal to the eye of the scale, the colours must be equal too.
    shown = [
        images['p, log spectrum of the clean input'].astype(int),
        images['p, log spectrum of the input attacked against n, eps 8/255'].astype(int),
    ]
    assert np.abs(shown[0] - shown[1])[np.abs(attacked - clean) < 1e-3].max(initial=0) <= 8
    # The largest coefficient, DC, is the yellow end of viridis in at least one of them.
    yellow = cv2.applyColorMap(np.uint8([[255]]), cv2.COLORMAP_VIRIDIS)[0, 0]
    assert any(np.array_equal(image[0, 0], yellow) for image in shown)


# charts


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
    titles = [element.text for element in root.iter('title')]
    assert HOSTILE in texts and '_hidden $x^2$' in texts and '…' in texts
    assert titles == [HOSTILE, '_hidden $x^2$', 'long ' * 60, 'net ']


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


# the page in a browser

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
# A window cannot be as narrow as a phone, a frame can.
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
