"""The gallery of the page: each image for each network and defence, clean and under its worst attack."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import cv2
import numpy as np

from rsr_basicsr.benchmark.names import CLEAN, STABILITY, WORST_CASE
from rsr_basicsr.benchmark.record import Record, image_file
from rsr_basicsr.benchmark.report import charts
from rsr_basicsr.benchmark.report.tables import unit, written
from rsr_basicsr.benchmark.summary import Results, Subject, is_interpolation
from rsr_basicsr.utils.image_formats import read_bgr

NO_VALUE = '–'
_QUALITY = 90  # JPEG quality of outputs


class EmbeddedImage(NamedTuple):
    """An image inside the page."""

    uri: str
    width: int
    height: int


class Shot(NamedTuple):
    """Input and output of a subject, clean or attacked; BGR uint8, None if the file is missing."""

    record: Record
    lq: np.ndarray | None
    sr: np.ndarray | None
    spectrum: np.ndarray | None


def embedded(image: np.ndarray | None, kind: str = 'png') -> EmbeddedImage | None:
    """Encode a BGR or grey uint8 image as 'png' (lossless) or 'jpeg' (small); None stays None."""
    if image is None:
        return None
    _, encoded = cv2.imencode(f'.{kind}', image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY] if kind == 'jpeg' else [])
    height, width = image.shape[:2]
    return EmbeddedImage(f'data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}', width, height)


def gallery(results: Results, folder: Path) -> Iterator[dict[str, Any]]:
    """The data of each image of the gallery for the template.

    Args:
        results: results of the run.
        folder: folder of the run; missing image files are left out.
    """
    places = dict.fromkeys((record.dataset, record.image) for record in results.records if record.gallery)
    for dataset, name in places:
        shots = {subject: _shots(results, folder, dataset, subject, name) for subject in results.subjects(dataset)}
        shots = {subject: found for subject, found in shots.items() if found}
        if shots:
            originals = (_read(folder, found[0.0].record, 'gt') for found in shots.values() if 0.0 in found)
            yield {
                'dataset': dataset,
                'name': name,
                **_exhibit(results, shots),
                'compared': _compared(results, shots),
                'original': embedded(next((each for each in originals if each is not None), None), 'jpeg'),
            }


def _shots(results: Results, folder: Path, dataset: str, subject: Subject, name: str) -> dict[float, Shot]:
    """The shots of an image by eps, 0 for the clean one; shots without files are left out."""
    found = {}
    for eps in [0.0, *results.strengths]:
        attack = WORST_CASE if eps else CLEAN
        record = results.images(dataset, subject, attack, eps).get(name)
        if record is None:
            continue
        lq, sr = (_read(folder, record, kind) for kind in ('lq', 'sr'))
        if lq is not None or sr is not None:
            found[eps] = Shot(record, lq, sr, None if lq is None else charts.spectrum(lq))
    return found


def _read(folder: Path, record: Record, kind: str) -> np.ndarray | None:
    path = image_file(folder, record.gallery[kind]) if kind in record.gallery else None
    return read_bgr(path) if path else None


def _exhibit(results: Results, shots: Mapping[Subject, Mapping[float, Shot]]) -> dict[str, Any]:
    """Clean input and one card per subject."""
    clean = next((found[0.0] for found in shots.values() if 0.0 in found and found[0.0].lq is not None), None)
    spectra = [shot.spectrum for found in shots.values() for shot in found.values() if shot.spectrum is not None]
    # Percentile: a few coefficients near zero would otherwise take most of the colour scale.
    scale = (float(np.percentile(spectra[0], 1)), max(float(s.max()) for s in spectra)) if spectra else (0.0, 1.0)
    return {
        'input': clean and embedded(clean.lq),
        'spectrum': _coloured(clean and clean.spectrum, scale),
        'cards': [
            {
                'label': subject.label,
                'clean': (0.0 in found and embedded(found[0.0].sr, 'jpeg')) or None,
                'numbers': _numbers_of(results, found.get(0.0), None),
                'attacks': [_attacked(results, found.get(0.0), eps, shot, scale) for eps, shot in found.items() if eps],
            }
            for subject, found in shots.items()
        ],
    }


def _compared(results: Results, shots: Mapping[Subject, Mapping[float, Shot]]) -> list[str]:
    """Labels of the subjects whose attacked outputs are compared first: the first one, and the most stable one.

    Interpolation is stable too, and no defence: it counts only if there is nothing else.
    """
    eps = max(results.strengths, default=0.0)
    found = {
        subject: (not is_interpolation(results, subject), fmean(values))
        for subject, shot in shots.items()
        if eps in shot and shot[eps].sr is not None
        for values in [[value for value in shot[eps].record.values.get(STABILITY, ()) if value is not None]]
        if values
    }
    if not found:
        return []
    first = next(iter(found))
    best = max((subject for subject in found if subject != first), key=lambda subject: found[subject], default=first)
    return [first.label, best.label]


def _coloured(spectrum: np.ndarray | None, scale: tuple[float, float]) -> EmbeddedImage | None:
    return None if spectrum is None else embedded(charts.coloured(spectrum, *scale))


def _attacked(
    results: Results, clean: Shot | None, eps: float, shot: Shot, scale: tuple[float, float]
) -> dict[str, Any]:
    """An attacked image on a card, with its difference to the clean one if both inputs are available."""
    factor = charts.noise_factor(eps)
    noise = change = None
    if clean and clean.lq is not None and shot.lq is not None and clean.lq.shape == shot.lq.shape:
        noise = charts.amplified_noise(clean.lq, shot.lq, factor)
    if noise is not None and clean and clean.spectrum is not None and shot.spectrum is not None:
        change = charts.change(clean.spectrum, shot.spectrum)
    return {
        'eps': eps,
        'attack': shot.record.attack,
        'gate_setting': shot.record.worst,
        'factor': factor,
        'output': embedded(shot.sr, 'jpeg'),
        'input': embedded(shot.lq),
        'spectrum': _coloured(shot.spectrum, scale),
        'noise': embedded(noise),
        'change': embedded(change),
        'numbers': _numbers_of(results, clean, shot),
    }


def _numbers_of(results: Results, clean: Shot | None, attacked: Shot | None) -> list[tuple[str, str, str, str]]:
    """Name and unit of each metric, with its values for the clean and the attacked image."""
    records = [shot and shot.record for shot in (clean, attacked)]
    rows: list[tuple[str, str, str, str]] = []
    for metric in results.metrics:
        values = [
            [value for value in (record.values.get(metric, ()) if record else ()) if value is not None]
            for record in records
        ]
        before, after = (written(results.metrics[metric], fmean(each)) if each else NO_VALUE for each in values)
        rows.append((metric, unit(results.metrics[metric]), before, after))
    scores = [record.score if record else None for record in records]
    before, after = (NO_VALUE if score is None else 'flagged' if score > 0 else 'not flagged' for score in scores)
    rows.append(('detector', '', before, after))
    return [row for row in rows if row[2:] != (NO_VALUE, NO_VALUE)]
