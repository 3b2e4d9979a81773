"""The images of the page: every subject on every image of the gallery, clean and under its worst attack."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import cv2
import numpy as np

from rsr_basicsr.benchmark.names import CLEAN
from rsr_basicsr.benchmark.record import Record, image_file
from rsr_basicsr.benchmark.report import charts
from rsr_basicsr.benchmark.report.tables import unit, written
from rsr_basicsr.benchmark.summary import WORST_CASE, Results

NOTHING = '–'
_QUALITY = 90  # of JPEG, for outputs


class EmbeddedImage(NamedTuple):
    """An image inside the page."""

    uri: str
    width: int
    height: int


class Shot(NamedTuple):
    """What a subject was given and made of it, clean or attacked; BGR uint8, None where there is no file."""

    record: Record
    lq: np.ndarray | None
    sr: np.ndarray | None
    spectrum: np.ndarray | None


def embedded(image: np.ndarray | None, kind: str = 'png') -> EmbeddedImage | None:
    """Encode a BGR or grey uint8 image; ``kind`` is 'png' (exact) or 'jpeg' (small). Nothing remains nothing."""
    if image is None:
        return None
    _, encoded = cv2.imencode(f'.{kind}', image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY] if kind == 'jpeg' else [])
    height, width = image.shape[:2]
    return EmbeddedImage(f'data:image/{kind};base64,{base64.b64encode(encoded).decode()}', width, height)


def gallery(results: Results, folder: Path) -> Iterator[dict[str, Any]]:
    """Everything that is shown of an image, one after the other.

    Args:
        results: what was measured.
        folder: of the run; a file that is missing is left out.
    """
    places = dict.fromkeys((record.dataset, record.image) for record in results.records if record.shown)
    for dataset, name in places:
        shots = {subject: _shots(results, folder, dataset, subject, name) for subject in results.subjects(dataset)}
        shots = {subject: found for subject, found in shots.items() if found}
        if shots:
            originals = (_read(folder, found[0.0].record, 'gt') for found in shots.values() if 0.0 in found)
            yield {
                'dataset': dataset,
                'name': name,
                **_exhibit(results, shots),
                'original': embedded(next((each for each in originals if each is not None), None), 'jpeg'),
            }


def _shots(results, folder, dataset, subject, name) -> dict[float, Shot]:
    """The shots of an image by eps, 0 for the clean one, without those of which there is no file."""
    found = {}
    for eps in [0.0, *results.strengths]:
        attack = WORST_CASE if eps else CLEAN
        record = results.images(dataset, subject, attack, eps).get(name)
        lq, sr = (record and _read(folder, record, kind) for kind in ('lq', 'sr'))
        if lq is not None or sr is not None:
            found[eps] = Shot(record, lq, sr, None if lq is None else charts.spectrum(lq))
    return found


def _read(folder, record, kind) -> np.ndarray | None:
    path = image_file(folder, record.shown[kind]) if kind in record.shown else None
    return cv2.imread(str(path)) if path else None


def _exhibit(results, shots) -> dict[str, Any]:
    clean = next((found[0.0] for found in shots.values() if 0.0 in found and found[0.0].lq is not None), None)
    spectra = [shot.spectrum for found in shots.values() for shot in found.values() if shot.spectrum is not None]
    # A few coefficients next to zero would otherwise take most of the colour scale.
    scale = (np.percentile(spectra[0], 1), max(values.max() for values in spectra)) if spectra else (0, 1)
    return {
        'input': clean and embedded(clean.lq),
        'spectrum': clean and embedded(charts.coloured(clean.spectrum, *scale)),
        'cards': [
            {
                'label': subject.label,
                'clean': 0.0 in found and embedded(found[0.0].sr, 'jpeg') or None,
                'numbers': _numbers_of(results, found.get(0.0), None),
                'attacks': [_attacked(results, found.get(0.0), eps, shot, scale) for eps, shot in found.items() if eps],
            }
            for subject, found in shots.items()
        ],
    }


def _attacked(results, clean, eps, shot, scale) -> dict[str, Any]:
    comparable = clean and clean.lq is not None and shot.lq is not None and clean.lq.shape == shot.lq.shape
    factor = charts.noise_factor(eps)
    return {
        'eps': eps,
        'attack': shot.record.attack,
        'way': shot.record.worst,
        'factor': factor,
        'output': embedded(shot.sr, 'jpeg'),
        'input': embedded(shot.lq),
        'spectrum': None if shot.spectrum is None else embedded(charts.coloured(shot.spectrum, *scale)),
        'noise': embedded(charts.amplified_noise(clean.lq, shot.lq, factor)) if comparable else None,
        'change': embedded(charts.change(clean.spectrum, shot.spectrum)) if comparable else None,
        'numbers': _numbers_of(results, clean, shot),
    }


def _numbers_of(results, clean, attacked) -> list[tuple]:
    """Name, unit, and what it is of the clean and of the attacked image."""
    records = [shot and shot.record for shot in (clean, attacked)]
    rows = []
    for metric in results.metrics:
        values = [
            [value for value in (record.values.get(metric, ()) if record else ()) if value is not None]
            for record in records
        ]
        rows.append(
            (
                metric,
                unit(results.metrics[metric]),
                *(written(results.metrics[metric], fmean(each)) if each else NOTHING for each in values),
            )
        )
    scores = [record.score if record else None for record in records]
    rows.append(
        ('detector', '', *(NOTHING if score is None else 'flagged' if score > 0 else 'not flagged' for score in scores))
    )
    return [row for row in rows if row[2:] != (NOTHING, NOTHING)]
