"""The table in the terminal and the page: their numbers, pictures and escaping, and the page in a real browser."""

from __future__ import annotations

import base64
import html
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from rsr_basicsr.benchmark import report
from rsr_basicsr.benchmark.record import Result
from rsr_basicsr.benchmark.report import amplified_noise, noise_factor, write_report
from rsr_basicsr.benchmark.table import LEGEND, format_table, summarize
from rsr_basicsr.frequency import log_spectrum

HOSTILE = '<b>&"x\''
UNDEFENDED, DEFENDED = 'undefended', 'defended'


def make_results(pictures=('first', 'second'), networks=(UNDEFENDED, DEFENDED), strengths=(8, 0, 2)):
    """Results with known numbers on 16x24 inputs that a x4 network enlarges; the second network has a detector."""
    rng = np.random.default_rng(0)
    results = []
    for n, network in enumerate(networks):
        for p, picture in enumerate(pictures):
            clean = np.random.default_rng(p).integers(0, 256, (16, 24, 3), dtype=np.uint8)
            for eps in strengths:
                noise = rng.integers(-eps, eps + 1, clean.shape)
                lq = np.clip(clean.astype(int) + noise, 0, 255).astype(np.uint8)
                results.append(Result(
                    network=network, picture=picture, eps=eps, psnr=30 + 2 * n + p - eps / 4,
                    stability=40 + 2 * n + p - eps if eps else None, detected=bool(eps > 2 and p) if n else None,
                    lq=lq, sr=cv2.resize(lq, (96, 64), interpolation=cv2.INTER_CUBIC)))
    return results


def make_originals(results):
    return {r.picture: cv2.GaussianBlur(r.sr, (0, 0), 2) for r in results}


class Page(HTMLParser):
    """What a page holds: tags with attributes, the rows of its tables, its text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.tables, self.text, self._cell = [], [], '', None
        self.source = path.read_text(encoding='utf-8')
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == 'table':
            self.tables.append([])
        elif tag == 'tr':
            self.tables[-1].append([])
        elif tag in ('td', 'th'):
            self.tables[-1][-1].append('')
            self._cell = self.tables[-1][-1]

    def handle_endtag(self, tag):
        if tag in ('td', 'th'):
            self._cell = None

    def handle_data(self, data):
        self.text += data
        if self._cell is not None:
            self._cell[-1] += data

    def pictures(self):
        """Alternative text -> decoded pixels, BGR or grey, of each picture that the page carries."""
        images = [attributes for tag, attributes in self.tags if tag == 'img' and 'src' in attributes]
        return {image['alt']: decode(image['src']) for image in images}


def decode(uri):
    kind, data = re.fullmatch(r'data:image/(png|jpeg);base64,([A-Za-z0-9+/=]+)', uri).groups()
    raw = base64.b64decode(data, validate=True)
    assert raw.startswith(b'\x89PNG' if kind == 'png' else b'\xff\xd8')
    return cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.fixture
def results():
    return make_results()


@pytest.fixture
def page(results, tmp_path):
    path = write_report(tmp_path / 'not' / 'there' / 'page.html', results, make_originals(results), 'A title',
                        ['First sentence.', 'Second sentence.'], {'Attack': 'I-FGSM', 'Command': 'rsr --x "y"'})
    return Page(path)


# the table


def test_summary_is_the_mean_over_the_pictures(results):
    rows = summarize(iter(results))

    assert [row.eps for row in rows] == [0, 2, 8]
    assert all(list(row.scores) == [UNDEFENDED, DEFENDED] for row in rows)
    clean, _, strong = (row.scores for row in rows)
    assert (clean[UNDEFENDED].psnr, clean[UNDEFENDED].stability, clean[UNDEFENDED].flagged) == (30.5, None, None)
    assert (strong[DEFENDED].psnr, strong[DEFENDED].stability) == (30.5, 34.5)
    assert (strong[DEFENDED].flagged, strong[DEFENDED].judged) == (1, 2)
    assert (clean[DEFENDED].flagged, clean[DEFENDED].judged) == (0, 2)


def test_summary_keeps_the_order_of_the_networks_and_marks_what_was_not_measured(results):
    kept = [r for r in reversed(results) if (r.network, r.eps) != (UNDEFENDED, 2)]

    rows = summarize(kept)

    assert all(list(row.scores) == [DEFENDED, UNDEFENDED] for row in rows)
    assert rows[1].scores[UNDEFENDED] is None
    assert '-' in format_table(rows).splitlines()[5].split('|')[2]


def test_table_reads_as_expected(results):
    assert format_table(summarize(results)).splitlines() == [
        '      | undefended                      | defended',
        '  eps | PSNR to HR  stability  detector | PSNR to HR  stability  detector',
        ' /255 |         dB         dB           |         dB         dB',
        '------+---------------------------------+-----------------------------------------------',
        'clean |      30.50          -  -        |      32.50          -  flagged 0 of 2 pictures',
        '    2 |      30.00      38.50  -        |      32.00      40.50  flagged 0 of 2 pictures',
        '    8 |      28.50      32.50  -        |      30.50      34.50  flagged 1 of 2 pictures',
        '',
        LEGEND,
    ]


@pytest.mark.parametrize('networks', [('one',), ('a', 'b', 'c'), ('short', 'a label wider than all its columns ' * 2)])
def test_table_stays_aligned(networks):
    for block in format_table(summarize(make_results(networks=networks))).split('\n\n')[:-1]:
        bars = {tuple(i for i, c in enumerate(line) if c in '|+') for line in block.splitlines()}
        assert len(bars) == 1


def test_table_fits_the_terminal():
    results = make_results(networks=('a', 'b', 'c', 'd'), pictures=[str(i) for i in range(12)])
    assert max(map(len, format_table(summarize(results)).splitlines())) <= 110


def test_table_of_nothing():
    assert format_table(summarize([])) == LEGEND


# the page


def test_page_shows_the_numbers_of_the_table(page):
    _, units, *body = page.tables[0]
    assert units == 2 * ['PSNR to HRdB', 'stabilitydB', 'detector']
    assert body == [
        ['clean', '30.50', '-', '-', '32.50', '-', 'flagged 0 of 2 pictures'],
        ['2', '30.00', '38.50', '-', '32.00', '40.50', 'flagged 0 of 2 pictures'],
        ['8', '28.50', '32.50', '-', '30.50', '34.50', 'flagged 1 of 2 pictures'],
    ]
    assert page.tables[2][-1] == ['8', '29.00', '33.00', '-', '31.00', '35.00', 'flagged']  # the second picture


def test_page_holds_all_that_was_given(page):
    for text in ('A title', 'First sentence.', 'Second sentence.', 'I-FGSM', 'rsr --x "y"', 'first', 'second', LEGEND):
        assert text in page.text
    assert 'Its noise × 15.9 around mid grey' in page.text
    assert 'Its noise × 63.5 around mid grey' in page.text


def test_page_refers_to_nothing_outside(page):
    without_pictures = re.sub(r'data:image/\w+;base64,[^"]*', '', page.source)
    assert not re.search(r'https?:|//[a-z]|url\(|@import', without_pictures)
    for _, attributes in page.tags:
        for name in ('src', 'href', 'srcset', 'action', 'poster'):
            assert attributes.get(name, 'data:').startswith('data:')


def test_pictures_decode_to_their_shapes(page, results):
    pictures = page.pictures()

    small = ['first, clean input', 'first, input attacked against defended, eps 8/255',
             'Noise of that attack, amplified', 'Log spectrum of the clean input', 'Log spectrum of the attacked input']
    large = ['first, high-resolution original', 'first, output of undefended for the clean input',
             'second, output of defended under attack, eps 2/255']
    assert {pictures[alt].shape for alt in small} == {(16, 24, 3)}
    assert {pictures[alt].shape for alt in large} == {(64, 96, 3)}
    assert pictures['Difference of the two log spectra'].shape == (16, 24)


def test_pictures_are_those_measured(page, results):
    pictures = page.pictures()
    for r in results:
        strength = f'eps {r.eps}/255'
        if r.eps:
            shown = pictures[f'{r.picture}, input attacked against {r.network}, {strength}']
            assert np.array_equal(shown[..., ::-1], r.lq)
        output = pictures[f'{r.picture}, output of {r.network} ' + (f'under attack, {strength}' if r.eps else
                                                                    'for the clean input')]
        assert np.abs(output[..., ::-1].astype(int) - r.sr).mean() < 12  # JPEG of noise


def test_only_the_strongest_attack_is_shown_at_first(page):
    figures = [attributes for tag, attributes in page.tags if tag == 'figure' and 'data-eps' in attributes]
    assert {f['data-eps'] for f in figures} == {'2', '8'}
    assert all(('hidden' in f) == (f['data-eps'] == '2') for f in figures)


def test_names_are_escaped(tmp_path):
    results = make_results(pictures=(HOSTILE,), networks=(HOSTILE, 'other'))
    page = Page(write_report(tmp_path / 'p.html', results, make_originals(results), HOSTILE, [HOSTILE],
                             {HOSTILE: HOSTILE}))

    assert not any(tag == 'b' for tag, _ in page.tags)
    assert html.escape('<b>') in page.source and HOSTILE not in page.source
    assert page.text.count(HOSTILE) >= 7  # title twice, verdict, protocol twice, table, picture
    assert f'{HOSTILE}, clean input' in page.pictures()


def test_one_network_or_no_attack_makes_a_page_too(tmp_path):
    for kwargs in (dict(networks=('one',)), dict(strengths=(0,))):
        results = make_results(**kwargs)
        page = Page(write_report(tmp_path / 'p.html', results, make_originals(results), 't', [], {}))
        assert not any('compare' in (attributes.get('class') or '') for _, attributes in page.tags)
    Page(write_report(tmp_path / 'p.html', [], {}, 't', [], {}))


def test_page_is_complete_or_not_there(results, tmp_path, monkeypatch):
    path = tmp_path / 'p.html'
    path.write_text('old')
    monkeypatch.setattr(report.os, 'replace', lambda *_: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(OSError, match='disk full'):
        write_report(path, results, make_originals(results), 't', [], {})
    assert [p.name for p in tmp_path.iterdir()] == ['p.html']
    assert path.read_text() == 'old'


def test_missing_pictures_are_named(results, tmp_path):
    with pytest.raises(ValueError, match="no original.*'second'"):
        write_report(tmp_path / 'p.html', results, {'first': results[0].sr}, 't', [], {})
    attacked = [r for r in results if r.eps or r.network != DEFENDED]
    with pytest.raises(ValueError, match="'first' has no clean result for.*defended"):
        write_report(tmp_path / 'p.html', attacked, make_originals(results), 't', [], {})
    assert not list(tmp_path.iterdir())


# the pictures made for the page


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


def test_spectra_share_a_scale_and_their_difference_is_grey_where_nothing_changed(tmp_path):
    results = make_results(pictures=('p',), networks=('n',), strengths=(0, 8))
    clean, attacked = (log_spectrum(torch.from_numpy(r.lq / 255).permute(2, 0, 1)[None])[0].numpy() for r in results)
    pictures = Page(write_report(tmp_path / 'p.html', results, make_originals(results), 't', [], {})).pictures()

    expected = 127.5 * (1 + np.clip((attacked - clean) / np.log(32), -1, 1))
    assert np.abs(pictures['Difference of the two log spectra'] - expected).max() <= 0.51
    # Where the two magnitudes are equal to the eye of the scale, the colours must be equal too.
    same = np.abs(attacked - clean) < 1e-3
    shown = [pictures[f'Log spectrum of the {kind} input'].astype(int) for kind in ('clean', 'attacked')]
    assert np.abs(shown[0] - shown[1])[same].max(initial=0) <= 8
    # The largest coefficient, DC, is the yellow end of viridis in at least one of them.
    yellow = cv2.applyColorMap(np.uint8([[255]]), cv2.COLORMAP_VIRIDIS)[0, 0]
    assert any(np.array_equal(picture[0, 0], yellow) for picture in (pictures['Log spectrum of the clean input'],
                                                                    pictures['Log spectrum of the attacked input']))


# the page in a browser

PROBE = '''<script>
const errors = [];
addEventListener('error', (e) => errors.push(String(e.message || e.target)), true);
addEventListener('securitypolicyviolation', (e) => errors.push(e.violatedDirective));
addEventListener('load', () => setTimeout(() => {
  const seen = () => [...document.querySelectorAll('figure[data-eps]')].filter((f) => f.offsetParent).map(
    (f) => f.dataset.eps);
  const slider = document.querySelector('.compare');
  const [under, over] = slider.querySelectorAll('img');
  const said = {before: [...new Set(seen())].join(), alt: over.alt, width: document.documentElement.scrollWidth,
                window: innerWidth, loaded: [...document.images].every((i) => i.naturalWidth > 0)};
  document.querySelector('.switch input').click();
  said.after = [...new Set(seen())].join();
  said.altAfter = over.alt + ' | ' + under.alt;
  const range = slider.querySelector('input');
  range.value = 70;
  range.dispatchEvent(new Event('input'));
  said.at = slider.querySelector('.stage').style.getPropertyValue('--at');
  said.clip = getComputedStyle(over).clipPath;
  said.focus = (range.focus(), document.activeElement === range);
  parent.postMessage({...said, errors: errors.join()}, '*');
}, 100));
</script>'''
# A window cannot be as narrow as a phone, a frame can.
FRAME = '''<body><script>addEventListener('message', (e) => {
  for (const [key, value] of Object.entries(e.data)) document.body.setAttribute('said-' + key, value);
})</script><iframe src="page.html" style="width: %dpx; height: 844px; border: 0"></iframe>'''


@pytest.mark.parametrize('width', [390, 1200])
def test_page_in_a_browser(width, tmp_path):
    browser = next(filter(None, map(shutil.which, ['chromium', 'chromium-browser', 'google-chrome'])), None)
    if not browser:
        pytest.skip('needs chromium or google-chrome on PATH')
    results = make_results(pictures=('first', 'a_long_name_without_any_place_to_break_it_' * 3))
    page = write_report(tmp_path / 'page.html', results, make_originals(results), 'A title', ['Verdict.'],
                        {'Command': 'rsr ' + '/a/very/long/path' * 12})
    page.write_text(page.read_text(encoding='utf-8').replace('<style>', PROBE + '<style>', 1), encoding='utf-8')
    Path(tmp_path / 'frame.html').write_text(FRAME % width, encoding='utf-8')

    run = subprocess.run(
        [browser, '--headless', '--no-sandbox', '--disable-gpu', '--virtual-time-budget=2000', '--dump-dom',
         f'--user-data-dir={tmp_path / "profile"}', '--window-size=1300,900', (tmp_path / 'frame.html').as_uri()],
        capture_output=True, text=True, timeout=120)

    said = dict(re.findall(r'said-(\w+)="([^"]*)"', run.stdout))
    assert said, f'the page said nothing: {run.stdout[:500]} {run.stderr[-500:]}'
    assert said['errors'] == ''
    assert int(said['window']) == width
    assert int(said['width']) <= width
    assert said['loaded'] == 'true'
    assert (said['before'], said['after']) == ('8', '2')
    assert said['alt'].endswith('output of undefended under attack, eps 8/255')
    assert re.search('undefended under attack, eps 2/255 .* defended under attack, eps 2/255', said['altafter'])
    assert (said['at'], said['clip'], said['focus']) == ('70%', 'inset(0px 30% 0px 0px)', 'true')
