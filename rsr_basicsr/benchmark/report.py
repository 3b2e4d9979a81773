"""A page of the results with the pictures they were measured on: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Iterable, Mapping, Union

import cv2
import jinja2
import numpy as np
import torch

from rsr_basicsr.benchmark.record import Result
from rsr_basicsr.benchmark.table import COLUMNS, LEGEND, cells, decibels, eps_name, summarize
from rsr_basicsr.frequency import log_spectrum

MID_GREY = 128
LARGEST_CHANGE = 32  # factor between two magnitudes that is drawn as pure white (or its inverse, as black)


def write_report(path: Union[str, os.PathLike], results: Iterable[Result], originals: Mapping[str, np.ndarray],
                 title: str, summary: Iterable[str], protocol: Mapping[str, str]) -> Path:
    """Write the page to ``path``, making its folder; a reader never finds half a page there.

    Args:
        path: the file to write.
        results: each network on each picture, once clean (eps 0) and once for each eps.
        originals: for each picture the high-resolution original, (H, W, 3) RGB uint8.
        title: heading of the page.
        summary: the verdict, one sentence an item.
        protocol: how it was measured, label -> text.

    Returns:
        The path written.

    Raises:
        ValueError: a picture has no original, or a network has no clean result for a picture it was attacked on.
    """
    path, results = Path(path), list(results)
    page = render(results, originals, title, summary, protocol)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        unfinished.write_text(page, encoding='utf-8')
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    return path


def render(results: list[Result], originals: Mapping[str, np.ndarray], title: str, summary: Iterable[str],
           protocol: Mapping[str, str]) -> str:
    """The page as text; arguments as for :func:`write_report`."""
    names = dict.fromkeys(r.picture for r in results)
    missing = [name for name in names if name not in originals]
    if missing:
        raise ValueError(f'no original for the pictures {missing}')
    return _environment().get_template('report.html').render(
        title=title, summary=list(summary), protocol=dict(protocol), rows=summarize(results),
        strengths=sorted({r.eps for r in results if r.eps}),
        pictures=[_picture(name, originals[name], [r for r in results if r.picture == name]) for name in names],
    )


def amplified_noise(clean: np.ndarray, attacked: np.ndarray, factor: float) -> np.ndarray:
    """Difference of two pictures around mid grey.

    Args:
        clean, attacked: (h, w, 3) uint8.
        factor: what a difference of one level is multiplied by.

    Returns:
        (h, w, 3) uint8, clipped: ``128 + factor * (attacked - clean)``.
    """
    return cv2.addWeighted(attacked, factor, clean, -factor, MID_GREY)


def noise_factor(eps: float) -> float:
    """The factor at which a difference of ``eps`` (1/255) reaches from mid grey to white."""
    return 127 / eps


def spectrum(picture: np.ndarray) -> np.ndarray:
    """Natural logarithm of the DCT magnitudes of an (h, w, 3) RGB uint8 picture, (h, w) float32."""
    return log_spectrum(torch.from_numpy(picture / 255).permute(2, 0, 1)[None])[0].float().numpy()


def coloured(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Draw an (h, w) array in viridis, dark at ``low`` and yellow at ``high``, as (h, w, 3) RGB uint8."""
    levels = _levels(values, low, high)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def data_uri(picture: np.ndarray, kind: str) -> str:
    """Encode an RGB or grey uint8 picture as a data URI; ``kind`` is 'png' (exact) or 'jpeg' (small)."""
    pixels = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    options = [cv2.IMWRITE_JPEG_QUALITY, 92] if kind == 'jpeg' else []
    _, encoded = cv2.imencode(f'.{kind}', pixels, options)
    return f'data:image/{kind};base64,{base64.b64encode(encoded).decode()}'


def _levels(values, low, high):
    span = max(high - low, 1e-6)  # a flat picture has no span
    return np.clip(np.rint((values - low) * (255 / span)), 0, 255).astype(np.uint8)


def _picture(name, original, results):
    """All that the gallery shows of one picture."""
    clean = {r.network: r for r in results if not r.eps}
    without = {r.network for r in results} - set(clean)
    if without:
        raise ValueError(f'picture {name!r} has no clean result for {sorted(without)}')
    spectra = [spectrum(r.lq) for r in results]
    # A few coefficients next to zero would otherwise take most of the colour scale.
    low, high = np.percentile(spectra[0], 1), max(s.max() for s in spectra)
    clean_spectrum = {r.network: s for r, s in zip(results, spectra) if not r.eps}

    def attacked(result, values):
        before, limit = clean[result.network], np.log(LARGEST_CHANGE)
        factor = noise_factor(result.eps)
        return {'eps': result.eps, 'result': result, 'factor': factor,
                'noise': amplified_noise(before.lq, result.lq, factor),
                'spectrum': coloured(values, low, high),
                'change': _levels(values - clean_spectrum[result.network], -limit, limit)}

    networks = [{'label': label, 'clean': result, 'spectrum': coloured(clean_spectrum[label], low, high),
                 'attacks': [attacked(r, s) for r, s in sorted(zip(results, spectra), key=lambda pair: pair[0].eps)
                             if r.network == label and r.eps]}
                for label, result in clean.items()]
    return {'name': name, 'original': original, 'input': networks[0]['clean'].lq, 'networks': networks,
            'rows': summarize(results)}


def _environment():
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('rsr_basicsr', 'benchmark/templates'), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(data_uri=data_uri, decibels=decibels, eps_name=eps_name, cells=cells)
    environment.globals.update(columns=COLUMNS, legend=LEGEND, largest_change=LARGEST_CHANGE)
    return environment
