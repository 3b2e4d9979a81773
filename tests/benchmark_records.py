"""Records with known numbers, and a parser of the page made of them."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from rsr_basicsr.benchmark.record import Record
from rsr_basicsr.benchmark.report import charts
from rsr_basicsr.benchmark.summary import Results

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
                            gallery=write_images(folder, key, p, eps) if folder else {},
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


def interval(values):
    draws = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    return np.percentile(np.asarray(values)[draws].mean(1), [2.5, 97.5])


def worst_case(network, eps, metric, worst):
    """The worst mean of both attacks, for each of the two images."""
    return [worst(np.mean(numbers(network, attack, eps, p)[metric]) for attack in (NOISE, ATTACK)) for p in (0, 1)]
